"""Congestion: what requests wait for generator and ingress, as no-op replicas met it.

One ingress passes the requests of all replicas. How long they wait there depends on how many come
in all, which no run of a single replica shows. The floor does: a no-op that is asked as often waits
for little else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from loadtests.histogram import Histogram
from loadtests.records import Measurement
from planner.profile import fell_behind
from planner.records import MeasuredPoint, ServiceProfile

_QUANTILES = (0.5, 0.95, 0.99)  # of a measured point
_BUSIEST = 0.98  # of the platform's cores: beyond it a wait has no end, and none was measured


class Waits(NamedTuple):
    """Milliseconds that the platform adds to a quantile: what is likely, and at most."""

    mid: float
    high: float


NONE = Waits(0.0, 0.0)


def with_platform(
    profiles: Iterable[ServiceProfile], measurements: Sequence[Measurement]
) -> list[ServiceProfile]:
    """The profiles with what the floor of their batch size says about the platform.

    As they are where no floor was measured, paced and in an open loop.
    """
    by_batch: dict[int, tuple[MeasuredPoint, ...]] = {}
    made = []
    for profile in profiles:
        if profile.batch not in by_batch:
            by_batch[profile.batch] = platform_points(measurements, profile.batch)
        points = by_batch[profile.batch]
        made.append(profile.model_copy(update={"platform": points}) if points else profile)
    return made


def platform_points(measurements: Iterable[Measurement], batch: int) -> tuple[MeasuredPoint, ...]:
    """By how many ms no-ops exceeded their paced round trips, by the rate in all; ascending.

    The paced ones are the first point. What they waited for each other in their own replica is
    taken off: of constant service about half of what M/M/1 waits (Pollaczek-Khinchine).
    ``utilisation`` is that of the platform's cores. () without paced and open-loop runs.
    """
    floors = [m for m in measurements if m.role == "floor" and m.run.batch == batch and m.ok]
    paced = [m for m in floors if m.run.mode == "paced" and m.valid]
    opened = [m for m in floors if m.run.mode == "open" and (m.valid or fell_behind(m))]
    if not paced or not opened:
        return ()
    usual = Histogram.merge(m.due_to_done for m in paced).quantiles_s(_QUANTILES)
    points = [_point(paced[0], (0.0, 0.0, 0.0))]
    for m in sorted(opened, key=lambda m: m.offered_rps):
        if m.offered_rps <= points[-1].rate_rps:
            continue
        found = zip(_QUANTILES, m.due_to_done.quantiles_s(_QUANTILES), usual, strict=True)
        over = [1e3 * (whole - alone - _own_wait_s(m, q)) for q, whole, alone in found]
        last = points[-1]
        least = (last.p50_ms, last.p95_ms, last.p99_ms)  # more load is never faster
        points.append(_point(m, tuple(max(pair) for pair in zip(over, least, strict=True))))
    return tuple(points)


def waits_ms(points: Sequence[MeasuredPoint], rate_rps: float, quantile: float) -> Waits:
    """What the platform adds to a quantile at ``rate_rps`` in all.

    Between two rates a wait grows as 1 / (1 - u) does, u being how busy the platform's cores are,
    and never more than on a straight line. Beyond the highest rate it is that of the highest.
    """
    if not points:
        return NONE
    at = max((i for i, q in enumerate(_QUANTILES) if q <= quantile), default=0)
    over = [(p.p50_ms, p.p95_ms, p.p99_ms)[at] for p in points]
    rates = [p.rate_rps for p in points]
    busy = np.minimum(np.maximum.accumulate([p.utilisation for p in points]), _BUSIEST)
    high = float(np.interp(rate_rps, rates, over))
    if busy[-1] <= busy[0]:  # of a record that does not say how busy they were
        return Waits(high, high)
    here = float(np.interp(rate_rps, rates, busy))
    mid = float(np.interp(1 / (1 - here), 1 / (1 - busy), over))
    return Waits(min(mid, high), high)


def _point(measurement: Measurement, over_ms: Sequence[float]) -> MeasuredPoint:
    p50, p95, p99 = over_ms
    return MeasuredPoint(
        rate_rps=measurement.offered_rps,
        utilisation=measurement.cpu.platform_busy or 0.0,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        n=measurement.due_to_done.count,
    )


def _own_wait_s(measurement: Measurement, quantile: float) -> float:
    """What a no-op's requests wait for each other in their replica."""
    each_s = measurement.cpu.replica_s / measurement.ok
    load = min(measurement.offered_rps * each_s / measurement.deployment.replicas, _BUSIEST)
    beyond = load / (1 - quantile)
    return 0.5 * each_s / (1 - load) * math.log(beyond) if beyond > 1 else 0.0
