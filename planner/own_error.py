"""The planner's own error: how far measured latencies lie from predicted ones, in every interval.

Resampling a profile says how sure its measurements are. It says nothing of what the simulation
leaves out: bodies that are read beside the model's work, service times that come in spells, the
scheduler's slices where replicas share a core. How much that is was measured: 151 runs of 12 s in
nine variants of three workloads (``reports/published/planner/grid``) against the prediction of the
same configuration. What such a run's quantile varies by anyway (10 to 15 % at the 99th
percentile) is taken off, and so is what the bootstrap had said; see docs/design.md.
"""

from __future__ import annotations

from math import exp, hypot, log

import numpy as np

from planner.ranges import Range

_QUANTILES = (0.5, 0.95, 0.99)

ALONE = (0.05, 0.12, 0.17)
"""Standard deviation of log(measured / predicted) at these quantiles, of one replica on a core."""

SHARED = (0.18, 0.20, 0.25)
"""The same where replicas share a core."""

_SIGMAS = 1.645
"""Of a normal law 90 % lie within so many standard deviations."""


def widened(found: Range, quantile: float, *, shared: bool) -> Range:
    """The 90 % interval of a latency that was ``found`` by simulation, the planner's error in it.

    Both errors are relative and independent, so their squares add. The middle stays: the error has
    no direction that it keeps from one workload to another.
    """
    own = _SIGMAS * float(np.interp(quantile, _QUANTILES, SHARED if shared else ALONE))
    low, mid, high = found
    if low <= 0:
        return found
    return Range(
        mid * exp(-hypot(log(mid / low), own)), mid, mid * exp(hypot(log(high / mid), own))
    )
