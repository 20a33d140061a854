"""Drift: whether the host was still the same one, by repeats of the reference cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import NamedTuple

from loadtests.records import Fault, FaultCode, Measurement

DRIFT_LIMIT = 0.15
"""Closed-loop throughput at equal users may be off the reference's level by this share."""

_Rung = tuple[int, int]  # batch and users


class _Visit(NamedTuple):
    """One visit of the reference: its places in the order, and what its rungs gave."""

    first: int
    last: int
    rates: Mapping[_Rung, Sequence[float]]

    def ratios(self, level: Mapping[_Rung, float]) -> list[float]:
        """Of every rung to the level, both tries of a visit that was repeated included."""
        return [rate / level[key] for key, rates in self.rates.items() for rate in rates]

    def is_off(self, level: Mapping[_Rung, float]) -> bool:
        """Whether no rung at all came within the band."""
        return all(_off(ratio) for ratio in self.ratios(level))


def with_drift(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Mark what was measured while the host was another one, in the order of measuring.

    The level is the median over all visits of the reference; of two, the first. Marked are the
    reference's own rungs that left its band, and every other measurement next to a visit that
    left it with all its rungs: nobody can say on which side of it the change began.
    """
    ordered = sorted(measurements, key=lambda m: m.sequence)
    visits = list(_visits(ordered))
    level = _level(visits)
    return [_judged(m, visits, level) for m in ordered]


def visits(measurements: Sequence[Measurement]) -> int:
    """How often the reference was visited; drift is judged from twice on."""
    undone = [m.model_copy(update={"faults": _others(m)}) for m in measurements]
    return len(list(_visits(sorted(undone, key=lambda m: m.sequence))))


def last_visit_strays(measurements: Sequence[Measurement]) -> bool:
    """Whether the latest visit is off the level of those before it, and is worth repeating.

    A hiccup of the host is gone the next second; what is still there then is drift.
    """
    visits = list(_visits(sorted(measurements, key=lambda m: m.sequence)))
    return len(visits) > 1 and visits[-1].is_off(_level(visits[:-1]) | _missing(visits))


def _visits(ordered: Iterable[Measurement]) -> Iterable[_Visit]:
    for is_reference, group in groupby(ordered, key=lambda m: m.role == "reference"):
        rates: dict[_Rung, list[float]] = {}
        places = []
        for m in group:
            places.append(m.sequence)
            if _compared(m):
                rates.setdefault(_rung(m), []).append(m.completed_rps)
        if is_reference and rates:
            yield _Visit(places[0], places[-1], rates)


def _level(visits: Sequence[_Visit]) -> dict[_Rung, float]:
    found: dict[_Rung, list[float]] = {}
    for visit in visits:
        for key, rates in visit.rates.items():
            found.setdefault(key, []).append(median(rates))
    return {key: median(each) if len(each) > 2 else each[0] for key, each in found.items()}


def _missing(visits: Sequence[_Visit]) -> dict[_Rung, float]:
    """Rungs that only the latest visit has: their own level, for want of another."""
    before = _level(visits[:-1])
    return {key: rate for key, rate in _level(visits[-1:]).items() if key not in before}


def _judged(m: Measurement, visits: Sequence[_Visit], level: Mapping[_Rung, float]) -> Measurement:
    if m.role == "reference":
        if _compared(m) and _off(ratio := m.completed_rps / level[_rung(m)]):
            return _marked(m, f"{ratio:.2f} x the level of this cell over the study")
        return m
    before = [visit for visit in visits if visit.last < m.sequence][-1:]
    after = [visit for visit in visits if visit.first > m.sequence][:1]
    for where, beside in (("before", before), ("after", after)):
        for visit in beside:
            if visit.is_off(level):
                ratio = median(visit.ratios(level))
                return _marked(m, f"the reference {where} it gave {ratio:.2f} x its level")
    return m


def _compared(m: Measurement) -> bool:
    return m.role == "reference" and m.run.mode == "closed" and m.valid


def _rung(m: Measurement) -> _Rung:
    return m.run.batch, m.run.users or 0


def _others(m: Measurement) -> tuple[Fault, ...]:
    """Its faults but for drift, which is what is looked for."""
    return tuple(fault for fault in m.faults if fault.code != FaultCode.DRIFT)


def _off(ratio: float) -> bool:
    return abs(ratio - 1) > DRIFT_LIMIT


def _marked(m: Measurement, detail: str) -> Measurement:
    fault = Fault(code=FaultCode.DRIFT, detail=detail)
    return m.model_copy(update={"faults": (*m.faults, fault)})
