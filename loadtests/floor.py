"""The platform's floor: the latency of no-op replicas at a rate, which no model is faster than.

Each size has its own: a quota stalls a no-op as it stalls a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from loadtests.records import Measurement

NEAR = 1.5
"""A p99 within this many times the floor's says more about the platform than the model."""

ABOUT = 2.5
"""Measured rates at most this many times apart say what the floor is between them.

A p99 bends upwards with the rate. On a line from 100 to 1,400 req/s the floor was found at three
times the p99 of a model that had been measured there.
"""

_BELOW, _ABOVE = 0.85, 1.15  # of the rates asked of a model: arrivals scatter around them
_TOGETHER = 1.6  # so far apart, rates share a pair of runs: with scatter, its ends are within ABOUT
_MOST_PAIRS = 3
_LEAST_RPS = 20.0


def floor_rates(measurements: Iterable[Measurement], batch: int, instance: str) -> list[float]:
    """Rates (req/s) at which a no-op on ``instance`` (a label) is driven, highest first.

    A little above and a little below those at which models were measured on that size at that
    batch: an even number of at most six, for the highest of them, as the slower a model the
    farther it is from the floor. Below 20 req/s the p99 of a short run is its slowest request,
    so none is asked for.
    """
    measured = sorted(
        (
            m.offered_rps
            for m in measurements
            if m.role == "cell" and m.run.mode != "paced" and _told(m, batch, instance)
        ),
        reverse=True,
    )
    pairs: list[tuple[float, float]] = []
    for rate in measured:
        if rate < _LEAST_RPS:
            break
        if pairs and pairs[-1][0] <= _TOGETHER * rate:
            pairs[-1] = (pairs[-1][0], rate)
        else:
            pairs.append((rate, rate))
    return [
        share * rate
        for pair in pairs[:_MOST_PAIRS]
        for share, rate in zip((_ABOVE, _BELOW), pair, strict=True)
    ]


def floor_p99_s(
    measurements: Iterable[Measurement], batch: int, rate_rps: float, instance: str
) -> float | None:
    """p99 in seconds of one no-op replica on ``instance`` (a label) at ``rate_rps``.

    Interpolated between two rates that were measured on that very size, at most ``ABOUT`` times
    apart; None elsewhere: a floor is not guessed, nor taken from another size.
    """
    points = sorted(
        (m.offered_rps, m.due_to_done.quantile_s(0.99))
        for m in measurements
        if m.role == "floor" and _told(m, batch, instance)
    )
    below = [point for point in points if point[0] <= rate_rps][-1:]
    above = [point for point in points if point[0] >= rate_rps][:1]
    if not below or not above or above[0][0] > ABOUT * below[0][0]:
        return None
    rates, latencies = zip(*below, *above, strict=True)
    return float(np.interp(rate_rps, rates, latencies))


def floor_p50_s(measurements: Iterable[Measurement], batch: int, instance: str) -> float | None:
    """Median round trip in seconds of paced requests to a no-op on ``instance`` (a label).

    What of a model's overhead no model could save; None where that size has no floor.
    """
    for m in measurements:
        if m.role == "floor" and m.run.mode == "paced" and _told(m, batch, instance):
            return m.sent_to_done.quantile_s(0.5)
    return None


def has_floor(measurements: Iterable[Measurement], batch: int, instance: str) -> bool:
    """Whether a no-op on ``instance`` (a label) was driven under load, and is believed."""
    return any(
        m.role == "floor" and m.run.mode == "open" and _told(m, batch, instance)
        for m in measurements
    )


def at_floor(measurement: Measurement, all_of_run: Sequence[Measurement]) -> float | None:
    """The floor's p99 in seconds where the p99 of ``measurement`` is near it, else None.

    The floor is that of its own size and batch, one no-op replica at what each of its replicas
    gets; without one nothing is said.
    """
    if measurement.role == "floor" or measurement.run.mode == "closed":
        return None
    floor = floor_p99_s(
        all_of_run,
        measurement.run.batch,
        measurement.offered_rps / measurement.deployment.replicas,
        measurement.deployment.instance.label,
    )
    if floor is None or measurement.due_to_done.quantile_s(0.99) > NEAR * floor:
        return None
    return floor


def _told(m: Measurement, batch: int, instance: str) -> bool:
    """Whether it is a valid run without a closed loop, of that size and batch."""
    same = m.run.batch == batch and m.deployment.instance.label == instance
    return m.valid and m.run.mode != "closed" and same


def with_floor(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Note in each measurement whose p99 is near the floor what that is, and in no other."""
    return [m.model_copy(update={"floor_p99_s": at_floor(m, measurements)}) for m in measurements]
