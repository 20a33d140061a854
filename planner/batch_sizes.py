"""Batch sizes never measured: the profile of one, by a law from those that were measured there.

For one variant, size and threads, :mod:`planner.row_law` says how the service time, the time
that a replica is occupied (1 / capacity), and the CPU time of replica and ingress grow with the
rows of a request. The smallest measured batch size is the least that is predicted, ``REACH`` times
the largest the most. The shape of the service times is that of the two measured batch sizes
around, quantile by quantile, as with dynamic batching (:mod:`planner.batch_law`).

Memory is no law's but a bound. A peak belongs to a deployment and may be of any batch size that it
was asked, so that of a batch size is at most the least of its own and all larger ones; beyond the
largest, all of it is taken to grow with the rows.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from loadtests.histogram import Histogram
from planner.batch_law import quantiles_at
from planner.records import Interval, PredictedProfile, ServiceProfile
from planner.row_law import FEWEST, RowLaw, between, left_out_error

REACH = 2
"""A batch size is predicted up to so many times the largest measured one."""

_SAMPLES = 512


def predict_batches(profiles: Iterable[ServiceProfile], batch: int) -> list[PredictedProfile]:
    """Profiles at ``batch`` of all cells (variant, size, threads) that a law reaches it from.

    Where it was measured there is none, nor is one made from what was predicted itself.
    """
    cells: dict[tuple[str, str, int], list[ServiceProfile]] = {}
    for p in profiles:
        if not isinstance(p, PredictedProfile):
            cells.setdefault((p.variant.name, p.instance.label, p.threads), []).append(p)
    return [
        predict_batch(tuple(sorted(cell, key=lambda p: p.batch)), batch)
        for _, cell in sorted(cells.items(), key=lambda item: item[0])
        if batch not in {p.batch for p in cell} and not out_of_reach([p.batch for p in cell], batch)
    ]


def out_of_reach(measured: Sequence[int], batch: int) -> str:
    """Why no law from the ``measured`` batch sizes (one or more) says ``batch``; "" if one does."""
    if len(measured) < FEWEST:
        return "one batch size makes no law"
    least, most = min(measured), REACH * max(measured)
    if least <= batch <= most:
        return ""
    return f"a law from these reaches from {least:,} to {most:,} rows"


@lru_cache(maxsize=1024)
def predict_batch(measured: tuple[ServiceProfile, ...], batch: int) -> PredictedProfile:
    """Profile at ``batch`` from those of one variant, size and threads, sorted by their batch."""
    rows = [p.batch for p in measured]
    nearest = min(measured, key=lambda p: (abs(math.log(p.batch / batch)), p.batch))
    served, occupied = _law(measured, _service), _law(measured, _occupancy)
    service, occupancy = served.interval(batch), occupied.interval(batch)
    mean = nearest.service.mean_s()
    capacity = Interval(low=1 / occupancy.high, mid=1 / occupancy.mid, high=1 / occupancy.low)
    errors = [left_out_error(rows, [time(p) for p in measured]) for time in (_service, _occupancy)]
    return PredictedProfile(
        variant=nearest.variant,
        instance=nearest.instance,
        threads=nearest.threads,
        batch=batch,
        service=_histogram(rows, [p.service for p in measured], batch),
        overhead_ms=_law(measured, lambda p: p.overhead_ms).time(batch),
        cpu_ms=_law(measured, lambda p: p.cpu_ms).time(batch),
        capacity_rps=capacity.mid,
        capacity_interval=capacity,
        ingress_cpu_ms=_law(measured, lambda p: p.ingress_cpu_ms).time(batch),
        peak_memory_bytes=peak_bytes(measured, batch),
        startup_s=nearest.startup_s,
        measurement_ids=tuple(i for p in measured for i in p.measurement_ids),
        saturated_rps=max(capacity.mid, 1 / _law(measured, lambda p: 1 / p.saturated).time(batch)),
        first_cpu_ms=_first_cpu_ms(measured, batch),
        idle_cores=nearest.idle_cores,
        beyond=_beyond(measured, batch),
        nearest=nearest,
        service_scale=Interval(
            low=service.low / mean, mid=service.mid / mean, high=service.high / mean
        ),
        unmeasured="batch size",
        measured_at=tuple(f"{n:,}" for n in rows),
        left_out_error=max((e for e in errors if e is not None), default=None),
    )


def _service(profile: ServiceProfile) -> float:
    return profile.service.mean_s()


def _occupancy(profile: ServiceProfile) -> float:
    return 1 / profile.capacity_rps


def _law(measured: Sequence[ServiceProfile], time: Callable[[ServiceProfile], float]) -> RowLaw:
    return _row_law([p.batch for p in measured], [time(p) for p in measured])


def _row_law(rows: Sequence[int], times: Sequence[float]) -> RowLaw:
    """What may be 0 and has a logarithm in the law is a hundredth of the largest at least."""
    least = max(1e-9, *(t / 100 for t in times))
    return RowLaw(rows, [max(least, t) for t in times])


def _first_cpu_ms(measured: Sequence[ServiceProfile], batch: int) -> float | None:
    """None where it is unknown of one of them: a law of the others might not reach ``batch``."""
    known = [p.first_cpu_ms for p in measured if p.first_cpu_ms is not None]
    if len(known) < len(measured):
        return None
    return _law(measured, lambda p: p.first_cpu_ms or 0.0).time(batch)


def _beyond(measured: Sequence[ServiceProfile], batch: int) -> Histogram | None:
    """None where it is unknown of one of them, as above."""
    known = [p.beyond for p in measured if p.beyond is not None]
    if len(known) < len(measured):
        return None
    return _histogram([p.batch for p in measured], known, batch)


def _histogram(rows: Sequence[int], known: Sequence[Histogram], batch: int) -> Histogram:
    """Times of the shape that the batch sizes around have, with the mean that the law gives.

    As many as the fewest that either was seen with: a law does not add any.
    """
    mean = _row_law(rows, [h.mean_s() for h in known]).time(batch)
    after = bisect_right(rows, batch)
    pair = slice(after - 1, after + 1)  # beyond the largest that alone
    number = min(_SAMPLES, *(h.count for h in known[pair]))
    places = (np.arange(number) + 0.5) / number
    times = np.stack([quantiles_at(h, places) for h in known[pair]])
    if len(times) > 1:
        times = between(np.array([batch]), np.array(rows[pair]), times)
    return Histogram.of(times[0] * (mean / float(times[0].mean())))


def peak_bytes(measured: Sequence[ServiceProfile], batch: int) -> int:
    """Bytes that a replica asked for ``batch`` rows may need; profiles by rising batch size."""
    larger = [p.peak_memory_bytes for p in measured if p.batch >= batch]
    if larger:
        return min(larger)
    last = measured[-1]
    return math.ceil(last.peak_memory_bytes * batch / last.batch)
