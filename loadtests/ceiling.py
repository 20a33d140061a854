"""What generator and ingress carry in this topology, from no-op replicas in a closed loop.

A measurement near it says how fast the platform is, not the model, and is not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from loadtests.arrivals import Arrivals, MaybeMix, Mix, Recorded, peak_rps
from loadtests.laws import WORTH
from loadtests.records import Fault, FaultCode, Measurement
from serving.records import Record

HIGHEST_SHARE = 0.7
"""Beyond this share of the ceiling, waiting for the platform shows in the latency."""

_REPLICA_FULL = 0.9
_PLATFORM_FULL = 0.95


class Ceiling(Record):
    """Requests per second that generator and ingress carry at one batch size, or of a mix.

    Measured where their cores were full, or where more users brought nothing although the
    no-op replica was not full. Else there was room left, and their ceiling follows from how
    busy their cores were: X = U / D (utilisation law).
    """

    batch: int = Field(ge=1)
    mix: MaybeMix = None
    rate_rps: float = Field(gt=0)
    basis: Literal["measured", "extrapolated"]
    measured_rps: float = Field(gt=0)
    platform_busy: float = Field(gt=0)

    @property
    def believed_rps(self) -> float:
        """The highest rate at which a measurement is about the model."""
        return HIGHEST_SHARE * self.rate_rps

    def __str__(self) -> str:
        if self.mix is not None:
            return f"about {self.rate_rps:,.0f} req/s of {self.mix}, by that of each batch size"
        if self.basis == "measured":
            return f"{self.rate_rps:,.0f} req/s"
        return (
            f"about {self.rate_rps:,.0f} req/s ({self.measured_rps:,.0f} kept them "
            f"{self.platform_busy:.0%} busy)"
        )


def ceilings(measurements: Iterable[Measurement]) -> dict[int, Ceiling]:
    """The ceiling of each batch size at which no-ops were measured in a closed loop."""
    ladders: dict[tuple[object, ...], list[Measurement]] = {}
    for m in measurements:
        if m.role in ("floor", "ceiling") and m.run.mode == "closed" and m.ok:
            ladders.setdefault((m.role, *m.key, m.deployment.replicas), []).append(m)
    found: dict[int, Ceiling] = {}
    for rungs in ladders.values():
        one = _ceiling(rungs)
        if one and (one.batch not in found or one.measured_rps > found[one.batch].measured_rps):
            found[one.batch] = one
    return found


def ceiling_of(known: Mapping[int, Ceiling], batch: int, mix: Mix | None) -> Ceiling | None:
    """The ceiling of requests of ``batch`` rows, or of a mix, ``batch`` its largest.

    Of a mix a request costs generator and ingress the mean of what each batch size costs them:
    1 / X = sum w(b) / X(b). A batch size without a ceiling has that of the next larger one, which
    is on the safe side. None where the largest has none.
    """
    if mix is None or batch not in known:
        return known.get(batch)
    of_each = {b: known[min(k for k in known if k >= b)] for b in mix.shares}
    if len({c.batch for c in of_each.values()}) == 1:
        return known[batch]

    def carried(rate: Callable[[Ceiling], float]) -> float:
        return 1 / sum(share / rate(of_each[b]) for b, share in mix.shares.items())

    return Ceiling(
        batch=batch,
        mix=mix,
        rate_rps=carried(lambda c: c.rate_rps),
        basis="extrapolated",
        measured_rps=carried(lambda c: c.measured_rps),
        platform_busy=max(c.platform_busy for c in of_each.values()),
    )


def with_ceiling(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Hold every measurement of a model against the ceiling of its batch sizes.

    Those that came too near are marked.
    """
    known = ceilings(measurements)
    return [_judged(m, ceiling_of(known, m.run.batch, m.run.mix)) for m in measurements]


def _ceiling(rungs: Sequence[Measurement]) -> Ceiling | None:
    """From the best rung of a ladder; None where it does not say how busy the cores were."""
    best = max(rungs, key=lambda m: m.completed_rps)
    busy = best.cpu.platform_busy
    if not busy:
        return None
    level = best.utilisation <= _REPLICA_FULL and _levelled(best, rungs)
    measured = busy >= _PLATFORM_FULL or level
    return Ceiling(
        batch=best.run.batch,
        rate_rps=best.completed_rps if measured else best.completed_rps / busy,
        basis="measured" if measured else "extrapolated",
        measured_rps=best.completed_rps,
        platform_busy=busy,
    )


def _levelled(best: Measurement, rungs: Sequence[Measurement]) -> bool:
    """Whether the ladder ended by itself: the last doubling of users was not worth it."""
    users = best.run.users or 1
    if any((m.run.users or 1) > users for m in rungs):
        return True
    fewer = [m.completed_rps for m in rungs if (m.run.users or 1) < users]
    return bool(fewer) and best.completed_rps < WORTH * max(fewer)


def _judged(m: Measurement, ceiling: Ceiling | None) -> Measurement:
    if ceiling is None or m.role not in ("cell", "sharing", "reference") or m.run.mode == "paced":
        return m
    m = m.model_copy(update={"carried_rps": ceiling.rate_rps})
    # Arrivals scatter around the rate asked for: a few more of them are luck, not load. Where
    # they come in bursts, the busiest moment is what generator and ingress have to carry.
    rate_rps = min(m.completed_rps, m.run.rate_rps or m.completed_rps)
    if m.run.arrivals is not None:
        rate_rps = max(rate_rps, _peak_rps(m.run.arrivals))
    if rate_rps <= ceiling.believed_rps:
        return m
    fault = Fault(
        code=FaultCode.GENERATOR_AT_LIMIT,
        detail=f"{rate_rps:,.0f} req/s are {rate_rps / ceiling.rate_rps:.0%} of what generator "
        f"and ingress carry, {ceiling}",
    )
    return m.model_copy(update={"faults": (*m.faults, fault)})


def _peak_rps(arrivals: Arrivals) -> float:
    """The highest rate of a run's arrivals; 0 of an older record of a trace, which has none."""
    if isinstance(arrivals, Recorded):
        return arrivals.peak_rps or 0.0
    return peak_rps(arrivals)
