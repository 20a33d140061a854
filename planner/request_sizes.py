"""Requests never measured: the profile of one, by a law from smaller and larger ones that were.

For one variant, size and threads, :mod:`planner.row_law` says how the service time, the time
that a replica is occupied (1 / capacity), and the CPU time of replica and ingress grow along one
axis: with the rows of a request (:data:`ROWS`), or with the tokens of each (:data:`TOKENS`). The
smallest that was measured is the least that is predicted, ``reach`` times the largest the most.
The shape of the service times is that of the two measured ones around, quantile by quantile, as
with dynamic batching (:mod:`planner.batch_law`).

Memory is no law's but a bound. A peak belongs to a deployment and may be of any request that it
was asked, so that of one is at most the least of its own and all larger ones; beyond the largest,
all of it is taken to grow as the highest power of the law.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from loadtests.histogram import Histogram
from planner.batch_law import quantiles_at
from planner.records import Interval, PredictedProfile, ServiceProfile
from planner.row_law import FEWEST, RowLaw, between, left_out_error

_SAMPLES = 512


class Axis(NamedTuple):
    """What of a request is more or less: ``field`` is that of a profile.

    A law reaches ``reach`` times the largest; ``degree`` is the highest power that a time grows
    with.
    """

    field: Literal["batch", "length"]
    name: Literal["batch size", "length"]
    units: str
    reach: float
    degree: int

    def of(self, profile: ServiceProfile) -> int:
        """Where a profile lies on it; ValueError for one of unknown length."""
        found = profile.batch if self.field == "batch" else profile.length
        if found is None:
            raise ValueError("a profile of unknown length lies on no axis of lengths")
        return found


ROWS = Axis("batch", "batch size", "rows", reach=2, degree=1)
TOKENS = Axis("length", "length", "tokens", reach=1.5, degree=2)
"""Attention grows as the square, and beyond the longest a line falls behind it: where the square
is all, by 37 % at twice the longest and by 22 % at 1.5 times; where it is half of the longest's
time, by 25 and 13 %, and 13 % are what the law allows itself there with nothing to test it."""


def out_of_reach(axis: Axis, measured: Sequence[int], n: int) -> str:
    """Why no law from the ``measured`` places (one or more) says ``n``; "" if one does."""
    if len(measured) < FEWEST:
        return f"one {axis.name} makes no law"
    least, most = min(measured), int(axis.reach * max(measured))
    if least <= n <= most:
        return ""
    return f"a law from these reaches from {least:,} to {most:,} {axis.units}"


@lru_cache(maxsize=1024)
def predict_request(axis: Axis, measured: tuple[ServiceProfile, ...], n: int) -> PredictedProfile:
    """Profile at ``n`` from those that differ in their place on ``axis`` alone, sorted by it."""
    law = _Laws(axis, measured, n)
    nearest = min(measured, key=lambda p: (abs(math.log(axis.of(p) / n)), axis.of(p)))
    service, occupancy = law.interval(_service), law.interval(_occupancy)
    mean = nearest.service.mean_s()
    capacity = Interval(low=1 / occupancy.high, mid=1 / occupancy.mid, high=1 / occupancy.low)
    errors = [
        left_out_error(law.places, [time(p) for p in measured]) for time in (_service, _occupancy)
    ]
    return PredictedProfile(
        variant=nearest.variant,
        instance=nearest.instance,
        threads=nearest.threads,
        batch=n if axis is ROWS else nearest.batch,
        length=n if axis is TOKENS else nearest.length,
        service=law.histogram([p.service for p in measured]),
        overhead_ms=law.time(lambda p: p.overhead_ms),
        cpu_ms=law.time(lambda p: p.cpu_ms),
        capacity_rps=capacity.mid,
        capacity_interval=capacity,
        ingress_cpu_ms=law.time(lambda p: p.ingress_cpu_ms),
        peak_memory_bytes=peak_bytes(axis, measured, n),
        startup_s=nearest.startup_s,
        measurement_ids=tuple(i for p in measured for i in p.measurement_ids),
        saturated_rps=max(capacity.mid, 1 / law.time(lambda p: 1 / p.saturated)),
        first_cpu_ms=law.first_cpu_ms(),
        idle_cores=nearest.idle_cores,
        beyond=law.beyond(),
        platform=nearest.platform,
        sharing=nearest.sharing,
        nearest=nearest,
        service_scale=Interval(
            low=service.low / mean, mid=service.mid / mean, high=service.high / mean
        ),
        unmeasured=axis.name,
        measured_at=tuple(f"{at:,}" for at in law.places),
        left_out_error=max((e for e in errors if e is not None), default=None),
    )


def peak_bytes(axis: Axis, measured: Sequence[ServiceProfile], n: int) -> int:
    """Bytes that a replica asked for ``n`` may need; profiles by their place on ``axis``."""
    larger = [p.peak_memory_bytes for p in measured if axis.of(p) >= n]
    if larger:
        return min(larger)
    peak: float = measured[-1].peak_memory_bytes
    for _ in range(axis.degree):
        peak = peak * n / axis.of(measured[-1])
    return math.ceil(peak)


def _service(profile: ServiceProfile) -> float:
    return profile.service.mean_s()


def _occupancy(profile: ServiceProfile) -> float:
    return 1 / profile.capacity_rps


class _Laws:
    """The laws of all that grows along an axis, from ``measured``, asked at ``n``."""

    def __init__(self, axis: Axis, measured: Sequence[ServiceProfile], n: int) -> None:
        self.places = [axis.of(p) for p in measured]
        self._axis, self._measured, self._n = axis, measured, n

    def time(self, time: Callable[[ServiceProfile], float]) -> float:
        """Of the profiles' times, the one at ``n``."""
        return self._law([time(p) for p in self._measured]).time(self._n)

    def interval(self, time: Callable[[ServiceProfile], float]) -> Interval:
        """The same with its 90 % interval."""
        return self._law([time(p) for p in self._measured]).interval(self._n)

    def first_cpu_ms(self) -> float | None:
        """None where it is unknown of one of them: a law of the others might not reach ``n``."""
        if any(p.first_cpu_ms is None for p in self._measured):
            return None
        return self.time(lambda p: p.first_cpu_ms or 0.0)

    def beyond(self) -> Histogram | None:
        """None where it is unknown of one of them, as above."""
        known = [p.beyond for p in self._measured if p.beyond is not None]
        return self.histogram(known) if len(known) == len(self._measured) else None

    def histogram(self, known: Sequence[Histogram]) -> Histogram:
        """Times of the shape that those around have, with the mean that the law gives.

        As many as the fewest that either was seen with: a law does not add any.
        """
        mean = self._law([h.mean_s() for h in known]).time(self._n)
        after = bisect_right(self.places, self._n)
        pair = slice(after - 1, after + 1)  # beyond the largest that alone
        number = min(_SAMPLES, *(h.count for h in known[pair]))
        places = (np.arange(number) + 0.5) / number
        times = np.stack([quantiles_at(h, places) for h in known[pair]])
        if len(times) > 1:
            times = between(np.array([self._n]), np.array(self.places[pair]), times)
        return Histogram.of(times[0] * (mean / float(times[0].mean())))

    def _law(self, times: Sequence[float]) -> RowLaw:
        """What may be 0 and has a logarithm in the law is a hundredth of the largest at least."""
        least = max(1e-9, *(t / 100 for t in times))
        return RowLaw(self.places, [max(least, t) for t in times], self._axis.degree)
