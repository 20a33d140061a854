"""Drift: whether the host was still the same one, by repeats of the reference cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import median
from typing import NamedTuple

from loadtests.records import Fault, FaultCode, Measurement

DRIFT_LIMIT = 0.15
"""Closed-loop throughput at equal users may differ from the first visit's by this share."""


class _Visit(NamedTuple):
    """One repeat of the reference: the places it took in the order, and how it compares."""

    first: int
    last: int
    ratio: float

    @property
    def drifted(self) -> bool:
        return abs(self.ratio - 1) > DRIFT_LIMIT


def with_drift(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Mark what was measured while the host was another one, in the order of measuring.

    Marked are the reference's own rungs that left the band of the first visit, and every
    other measurement between two visits that left it: before and after, the host was not the one
    that the rest was measured on. After a single such visit between two sound ones, nobody can
    say when it began; that is left to the report, which shows every visit.
    """
    ordered = sorted(measurements, key=lambda m: m.sequence)
    ratios = _ratios(ordered)
    visits = list(_visits(ordered, ratios))
    return [_judged(m, ratios.get(m.sequence), visits) for m in ordered]


def _ratios(ordered: Iterable[Measurement]) -> dict[int, float]:
    """Throughput over that of the first visit, by sequence: the reference's closed rungs."""
    first: dict[tuple[int, int], float] = {}
    ratios = {}
    for m in ordered:
        if m.role == "reference" and m.run.mode == "closed" and m.valid:
            base = first.setdefault((m.run.batch, m.run.users or 0), m.completed_rps)
            ratios[m.sequence] = m.completed_rps / base
    return ratios


def _visits(ordered: Iterable[Measurement], ratios: dict[int, float]) -> Iterable[_Visit]:
    for is_reference, group in groupby(ordered, key=lambda m: m.role == "reference"):
        places = [m.sequence for m in group]
        known = [ratios[place] for place in places if place in ratios]
        if is_reference and known:
            yield _Visit(places[0], places[-1], median(known))


def _judged(m: Measurement, ratio: float | None, visits: Sequence[_Visit]) -> Measurement:
    if ratio is not None:
        if abs(ratio - 1) <= DRIFT_LIMIT:
            return m
        return _marked(m, f"{ratio:.2f} x the first run of this cell")
    if m.role == "reference":
        return m
    before = [visit for visit in visits if visit.last < m.sequence][-1:]
    after = [visit for visit in visits if visit.first > m.sequence][:1]
    beside = before + after
    if len(beside) == 2 and all(visit.drifted for visit in beside):
        said = " and ".join(f"{visit.ratio:.2f} x" for visit in beside)
        return _marked(m, f"the reference gave {said} its first throughput before and after")
    return m


def _marked(m: Measurement, detail: str) -> Measurement:
    fault = Fault(code=FaultCode.DRIFT, detail=detail)
    return m.model_copy(update={"faults": (*m.faults, fault)})
