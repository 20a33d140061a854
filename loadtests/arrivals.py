"""When requests fall due: pure, seeded schedules, split over workers without a gap.

A schedule is an array of due times in seconds from the start of the run, sorted. It is
a function of its arguments alone, so every worker computes the whole of it and takes
its shard, and an oracle can replay it.
"""

from __future__ import annotations

import numpy as np


def constant(rate_rps: float, duration_s: float) -> np.ndarray:
    """Evenly spaced due times, shape [round(rate * duration)]; the first is at 0."""
    _check(rate_rps, duration_s)
    return np.arange(round(rate_rps * duration_s)) / rate_rps


def poisson(rate_rps: float, duration_s: float, seed: int) -> np.ndarray:
    """Poisson process of ``rate_rps`` over ``duration_s``.

    Conditioned on its count: the count is Poisson distributed, the times are sorted
    uniforms, which is the same process (Ross, Introduction to Probability Models, 5.3).
    """
    _check(rate_rps, duration_s)
    draw = np.random.default_rng(seed)
    count = draw.poisson(rate_rps * duration_s)
    return np.sort(draw.uniform(0.0, duration_s, count))


def schedule(mode: str, rate_rps: float, duration_s: float, seed: int) -> np.ndarray:
    """Due times of a paced (constant) or open (Poisson) run."""
    if mode == "paced":
        return constant(rate_rps, duration_s)
    return poisson(rate_rps, duration_s, seed)


def shard(due: np.ndarray, index: int, workers: int) -> np.ndarray:
    """Positions (not times) of the requests that worker ``index`` of ``workers`` sends.

    Round robin, so that every worker sees the same traffic shape; the shards of all
    workers partition the schedule exactly.
    """
    if not 0 <= index < workers:
        raise ValueError(f"worker {index} of {workers}")
    return np.arange(index, len(due), workers)


def _check(rate_rps: float, duration_s: float) -> None:
    if not (rate_rps > 0 and duration_s > 0):
        raise ValueError(f"rate and duration must be positive, got {rate_rps} and {duration_s}")
