"""Simulated queues: replicas behind a least-connections router, with or without a CPU quota.

A replica runs one inference call at a time, whatever its threads, and queues the others
first come, first served. Arrivals are Poisson. Everything here is seeded, in seconds.

With a quota, replicas are packed: four quarters of a CPU run on one core, as they do in a full
node. While several of them have work, the core is divided among them (the kernel's fair scheduler,
taken as processor sharing); each stands still when its budget of the period is spent. The scheduler
hands budgets out in 5 ms slices, which a replica on one core does not notice.

Many short, independent *lanes* are simulated. Only the single unthrottled replica has a closed
recursion over requests; the others are stepped through, see :mod:`planner.steps`.
"""

from __future__ import annotations

import numpy as np

QUOTA_PERIOD_S = 0.1
"""CFS bandwidth period of Kubernetes (and the kernel's default)."""

LANE_REQUESTS = 2000
WARM_UP_REQUESTS = 1000


def simulate(
    values_s: np.ndarray,
    counts: np.ndarray,
    rate_rps: float,
    replicas: int,
    n: int,
    seed: int,
    quota: float | None = None,
) -> np.ndarray:
    """Sojourn times in seconds, shape [n], of Poisson arrivals at ``rate_rps`` in all.

    Service times are drawn from a histogram: ``values_s`` and ``counts``, shape [buckets].
    With a ``quota`` (CPUs, below 1) they are CPU times, and a replica runs only while the
    budget of the current period lasts. The first requests, which meet a system emptier
    than usual, are left out.
    """
    rng = np.random.default_rng(seed)
    closed_form = replicas == 1 and quota is None
    lanes = 1 if closed_form else max(1, -(-n // LANE_REQUESTS))
    length = WARM_UP_REQUESTS + -(-n // lanes)
    arrivals = np.cumsum(rng.exponential(1 / rate_rps, (length, lanes)), axis=0)
    service = draw(values_s, counts, rng.random((length, lanes)))
    times = sojourns(arrivals, service, replicas=replicas, quota=quota)
    return np.asarray(times[WARM_UP_REQUESTS:].T.ravel()[:n])


def draw(values: np.ndarray, counts: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Values at the quantiles ``uniform`` (in [0, 1), any shape) of a histogram."""
    cumulative = np.cumsum(counts)
    places = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    return np.asarray(values[np.minimum(places, len(values) - 1)])


def sojourns(
    arrivals: np.ndarray,
    service: np.ndarray,
    *,
    first: np.ndarray | None = None,
    replicas: int = 1,
    quota: float | None = None,
) -> np.ndarray:
    """Time in system of every request, in seconds; all arrays have the shape [n, lanes].

    ``arrivals`` rise along the first axis. A request goes to the replica with the fewest in flight,
    the least recently used of equals. With a ``quota`` (CPUs of each replica) times are CPU times,
    and the replicas share as few cores as hold their quotas. ``first`` replaces ``service`` for a
    request that finds its replica idle, the queue with exceptional first service of a busy period
    (P. D. Welch, "On a Generalized M/G/1 Queuing Process", Operations Research 12, 1964):
    an idle replica has cold caches and a sleeping core.
    """
    if quota is not None and quota >= 1:
        quota = None  # one inference call at a time burns one CPU at most: never throttled
    cold = service if first is None else first
    # Everything runs along the requests of a lane, which is several times faster side by side.
    due, busy, woken = (np.ascontiguousarray(a.T, dtype=float) for a in (arrivals, service, cold))
    if replicas == 1 and quota is None and first is None:
        return _lindley(due, busy).T
    from planner import steps  # compiled code takes a while to load, and the recursion needs none

    if quota is None:
        return np.asarray(steps.unthrottled(due, busy, woken, replicas).T)
    return np.asarray(steps.throttled(due, busy, woken, replicas, quota, QUOTA_PERIOD_S).T)


def _lindley(due: np.ndarray, work: np.ndarray) -> np.ndarray:
    """Lindley's recursion W' = max(0, W + S - A), solved by a running minimum; arrays [lanes, n].

    With U the partial sums of S - A, the waiting time is U minus its running minimum
    (D. V. Lindley, "The theory of queues with a single server", 1952).
    """
    steps = np.zeros_like(work)
    steps[:, 1:] = work[:, :-1] - np.diff(due, axis=1)
    walk = np.cumsum(steps, axis=1)
    return np.asarray(walk - np.minimum.accumulate(walk, axis=1) + work)
