"""Where a run becomes steady: the warm-up is detected, not guessed.

MSER-5 (K. P. White, An effective truncation heuristic for bias reduction in simulation
output, 1997; with batches of five: Spratt, 1998): leave out as many batches from the
start as make the mean of the others most certain. Guarded as its reviews advise (Hoad,
Robinson and Davies, Automating warm-up length estimation, 2010): a cut in the later half
means that the run is not steady yet.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from pydantic import Field

from loadtests.batch_means import BATCHES, variance_of_mean
from serving.records import Record

BATCH = 5
FEWEST = 100
"""Below this many values a warm-up cannot be told from chance."""

MOST_DISCARDED = 0.5
_SIGMAS = 3.0
_DRIFT_SIGMAS = 4.0  # asked of every run, also where nothing gave rise to doubt
_SMALLEST_S = 1e-7  # one unit of our histograms


class Steady(Record):
    """From where on a sequence may be used, and why from there."""

    index: int = Field(ge=0, description="the first value to use")
    steady: bool
    method: str = "mser-5"
    reason: str


NOT_LOOKED_FOR = Steady(
    index=0, steady=False, method="none", reason="arrivals change, warm-up not looked for"
)
"""Of a burst, a ramp or a trace: whether latency changes with the traffic or before it settles
cannot be told apart."""


def steady_from(values: np.ndarray) -> Steady:
    """Detect the warm-up in ``values`` (latencies in seconds, in order, shape [n]).

    Logarithms are looked at, so that a warm-up shows by its factor and a single stall
    does not pass for one. What MSER would cut must also differ from the rest by three
    standard errors (correlation counted): a long queue that happened to stand at the
    start belongs to the steady state, and cutting it would flatter the tail.

    Raises ValueError for values that are negative or not finite: leave failures out.
    """
    found = np.asarray(values, dtype=float)
    if not np.isfinite(found).all() or (found < 0).any():
        raise ValueError("values must be finite and not negative")
    if len(found) < FEWEST:
        return Steady(index=0, steady=False, reason=f"{len(found)} values, {FEWEST} are needed")
    logs = np.log(np.maximum(found, _SMALLEST_S))
    cut = _mser(logs[: len(logs) // BATCH * BATCH].reshape(-1, BATCH).mean(axis=1)) * BATCH
    differs = bool(cut) and _differ(logs[:cut], logs[cut:])
    half = len(logs) // 2
    if differs and cut > MOST_DISCARDED * len(logs) and len(logs) - cut >= FEWEST:
        return Steady(index=half, steady=False, reason="still changing in the later half")
    start = cut if differs and cut <= half else 0
    if _drifts(logs[start:]):
        return Steady(index=start, steady=False, reason="drifts from beginning to end")
    reason = f"{start} values of warm-up left out" if start else "no warm-up found"
    return Steady(index=start, steady=True, reason=reason)


def _mser(batches: np.ndarray) -> int:
    """The number of batches to leave out: least sum of squares over the square of the rest.

    All cuts at once, from sums over the tails. The last few are not candidates: the
    statistic of a handful of batches is small by chance.
    """
    rest = np.arange(len(batches), 0, -1)
    centred = batches - batches.mean()
    total = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum((centred**2)[::-1])[::-1]
    statistic = (squares - total**2 / rest) / rest.astype(float) ** 2
    return int(np.argmin(statistic[: len(batches) - BATCH]))


def _differ(start: np.ndarray, rest: np.ndarray) -> bool:
    """Whether two stretches have different levels, by three standard errors.

    A short start gets the variance of a single stretch of its length out of the rest,
    where there are enough of them: it is too short to estimate its own.
    """
    stretches = len(rest) // len(start)
    if stretches >= 4:
        means = rest[: stretches * len(start)].reshape(stretches, len(start)).mean(axis=1)
        error = float(means.var(ddof=1)) * (1 + 1 / stretches)
    else:
        error = variance_of_mean(start) + variance_of_mean(rest)
    return bool(abs(start.mean() - rest.mean()) > _SIGMAS * sqrt(error))


def _drifts(values: np.ndarray) -> bool:
    """Whether a straight line through the batch means rises or falls beyond chance.

    The residuals of neighbouring batches may be correlated, which widens the error of
    the slope as it does that of a mean.
    """
    length = len(values) // BATCHES
    means = values[: BATCHES * length].reshape(BATCHES, length).mean(axis=1)
    at = np.arange(BATCHES) - (BATCHES - 1) / 2
    slope = float(at @ means) / float(at @ at)
    residual = means - means.mean() - slope * at
    total = float(residual @ residual)
    if total == 0:
        return slope != 0
    lag = min(max(float(residual[1:] @ residual[:-1]) / total, 0.0), 0.9)
    error = sqrt(total / (BATCHES - 2) / float(at @ at) * (1 + lag) / (1 - lag))
    return bool(abs(slope) > _DRIFT_SIGMAS * error)
