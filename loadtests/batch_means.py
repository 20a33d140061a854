"""The variance of a mean when neighbours are correlated: non-overlapping batch means.

Requests that wait in one queue share their fate, so n latencies say less than n
independent ones would. Batches much longer than the correlation have nearly independent
means, whose spread gives the variance of the overall mean without a model of the queue
(Law, Simulation Modeling and Analysis, 9.5.3). Preferred to a block bootstrap, whose
variance for a mean is the same in the limit, because it needs no random draws and its
degrees of freedom are known.
"""

from __future__ import annotations

import numpy as np

BATCHES = 32
"""Enough degrees of freedom (31), and as long as that allows."""

FEWEST = 10 * BATCHES // 4
"""Below this many values nothing can be said about their correlation."""

_MOST_CORRELATED = 0.9


def variance_of_mean(values: np.ndarray) -> float:
    """Variance of the mean of ``values`` (shape [n], in order), from batch means.

    Batches of short runs are still correlated with their neighbours; the first-order
    correction (1 + r) / (1 - r) with their lag-1 autocorrelation r makes up for it (the
    variance of the mean of an AR(1) process). A negative r is not believed.
    """
    batches = min(BATCHES, len(values) // 10)
    if batches < 2:
        raise ValueError(f"{len(values)} values are too few for batch means")
    length = len(values) // batches
    means = values[: batches * length].reshape(batches, length).mean(axis=1)
    spread = means - means.mean()
    total = float(spread @ spread)
    if total == 0:
        return 0.0
    lag = float(spread[1:] @ spread[:-1]) / total
    lag = min(max(lag, 0.0), _MOST_CORRELATED)
    return total / (batches - 1) / batches * (1 + lag) / (1 - lag)


def inflation(over: np.ndarray) -> float:
    """How many correlated trials count as one: variance of the share over the binomial one.

    ``over`` has shape [n], true or false; the result is at least 1.
    """
    share = float(over.mean())
    if share in (0.0, 1.0):
        return 1.0
    return max(1.0, variance_of_mean(over.astype(float)) * len(over) / (share * (1 - share)))
