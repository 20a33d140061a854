"""The platform's floor: the latency of no-op replicas at a rate, which no model is faster than."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from loadtests.records import Measurement

NEAR = 1.5
"""A p99 within this many times the floor's says more about the platform than the model."""


def floor_p99_s(
    measurements: Iterable[Measurement], batch: int, rate_rps: float, instance: str
) -> float | None:
    """p99 in seconds of one no-op replica on ``instance`` (a label) at ``rate_rps``.

    Interpolated between the rates that were measured; None outside of them: a floor is
    not guessed.
    """
    points = sorted(
        (m.offered_rps, m.due_to_done.quantile_s(0.99))
        for m in measurements
        if m.role == "floor"
        and m.valid
        and m.run.mode != "closed"
        and m.run.batch == batch
        and m.deployment.instance.label == instance
    )
    if not points or not points[0][0] <= rate_rps <= points[-1][0]:
        return None
    rates, latencies = zip(*points, strict=True)
    return float(np.interp(rate_rps, rates, latencies))


def at_floor(measurement: Measurement, all_of_run: Sequence[Measurement]) -> float | None:
    """The floor's p99 in seconds where the p99 of ``measurement`` is near it, else None."""
    if measurement.role == "floor" or measurement.run.mode == "closed":
        return None
    floor = floor_p99_s(
        all_of_run,
        measurement.run.batch,
        measurement.offered_rps,
        measurement.deployment.instance.label,
    )
    if floor is None or measurement.due_to_done.quantile_s(0.99) > NEAR * floor:
        return None
    return floor
