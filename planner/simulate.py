"""Simulated queues: replicas behind a least-connections router, with or without a CPU quota.

A replica runs one inference call at a time, whatever its threads, and queues the others
first come, first served. Arrivals are Poisson. Everything here is seeded, in seconds.

Many short, independent *lanes* are simulated side by side: the steps over requests are
sequential by nature, so numpy works across lanes. Only the single unthrottled replica
has a closed recursion over requests and needs no steps.
"""

from __future__ import annotations

import numpy as np

from planner.sharing import QUOTA_PERIOD_S, shared_sojourns

LANE_REQUESTS = 2000
WARM_UP_REQUESTS = 1000
_REMEMBERED = 32
_ROUNDING_S = 1e-10  # a request that ends with the budget must not wait for the next one


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

    ``arrivals`` rise along the first axis. ``first`` replaces ``service`` for a request
    that finds its replica idle, the queue with exceptional first service of a busy period
    (P. D. Welch, "On a Generalized M/G/1 Queuing Process", Operations Research 12, 1964):
    an idle replica has cold caches and a sleeping core.
    """
    if quota is not None and quota >= 1:
        quota = None  # one inference call at a time burns one CPU at most: never throttled
    if replicas == 1 and quota is None and first is None:
        return _lindley(arrivals, service)
    cold = service if first is None else first
    if replicas > 1 and quota is not None:
        return shared_sojourns(arrivals, service, cold, replicas, quota)
    return _stepwise(arrivals, service, cold, replicas, quota)


def _lindley(arrivals: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Lindley's recursion W' = max(0, W + S - A), solved by a running maximum.

    With U the partial sums of S - A, the waiting time is U minus its running minimum
    (D. V. Lindley, "The theory of queues with a single server", 1952).
    """
    # Running sums are several times faster along contiguous memory.
    due, work = np.ascontiguousarray(arrivals.T), np.ascontiguousarray(service.T)
    steps = np.zeros_like(work)
    steps[:, 1:] = work[:, :-1] - np.diff(due, axis=1)
    walk = np.cumsum(steps, axis=1)
    return np.asarray((walk - np.minimum.accumulate(walk, axis=1) + work).T)


def _stepwise(
    arrivals: np.ndarray,
    service: np.ndarray,
    first: np.ndarray,
    replicas: int,
    quota: float | None,
) -> np.ndarray:
    """Request by request, all lanes at once: route, start, finish."""
    n, lanes = arrivals.shape
    router = _LeastConnections(lanes, replicas) if replicas > 1 else None
    # Replicas under quotas share cores, see planner.sharing: here it is one, or no quota.
    bandwidth = _Bandwidth(lanes, quota) if quota is not None else None
    free_at = np.zeros(lanes * replicas)
    at: np.ndarray | slice = slice(None)  # a lone replica takes its lane's every request
    out = np.empty_like(service)
    for i in range(n):
        now = arrivals[i]
        if router is not None:
            at = router.choose(now, i)
        free = free_at[at]
        demand = service[i] if first is service else np.where(free <= now, first[i], service[i])
        start = np.maximum(free, now)
        done = start + demand if bandwidth is None else bandwidth.run(start, demand)
        free_at[at] = done
        if router is not None:
            router.took(done)
        np.subtract(done, now, out=out[i])
    return out


class _LeastConnections:
    """HAProxy's ``leastconn``: fewest requests in flight, the least recently used of equals.

    A replica's in-flight count is how many of its last departures still lie ahead. Only so
    many are remembered; replicas that all exceed it count as equal, and equals take turns,
    which is what least connections does with long queues anyway.

    Arrays run over replicas first and lanes last, flat where replicas are picked, and are
    written in place: with thousands of steps the time goes into numpy's calls, not into its
    loops.
    """

    _INDEX_BITS, _STEP_BITS = 20, 21

    def __init__(self, lanes: int, replicas: int) -> None:
        servers = lanes * replicas
        if servers >= 1 << self._INDEX_BITS:
            raise ValueError(f"{lanes} lanes of {replicas} replicas are too many to simulate")
        self._replicas, self._servers = replicas, servers
        depth = max(4, _REMEMBERED // replicas)
        self._departures = np.zeros((depth, replicas, lanes))
        self._ahead = np.empty(self._departures.shape, dtype=bool)
        self._in_flight = np.empty((replicas, lanes), dtype=np.int8)
        self._key = np.empty((replicas, lanes), dtype=np.int64)
        index = np.arange(servers)
        self._slot = index.copy()  # where each one's next departure is noted
        # The step of last use, then the index: one integer orders both, and holds the answer.
        self._used = index + (index // lanes << self._INDEX_BITS)
        self._at = index[:lanes]

    def choose(self, now: np.ndarray, step: int) -> np.ndarray:
        """Flat index of the replica that takes each lane's request, shape [lanes]."""
        np.greater(self._departures, now, out=self._ahead)
        np.add.reduce(self._ahead.view(np.int8), axis=0, dtype=np.int8, out=self._in_flight)
        bits = self._INDEX_BITS + self._STEP_BITS
        np.left_shift(self._in_flight, bits, out=self._key, dtype=np.int64)
        self._key += self._used.reshape(self._key.shape)
        at = self._key.min(axis=0)
        at &= (1 << self._INDEX_BITS) - 1
        self._used[at] = at + (step + self._replicas << self._INDEX_BITS)
        self._at = at
        return np.asarray(at)

    def took(self, done: np.ndarray) -> None:
        """Remember when the replicas chosen last will have answered."""
        slot = self._slot[self._at]
        self._departures.reshape(-1)[slot] = done
        slot += self._servers
        slot %= self._departures.size
        self._slot[self._at] = slot


class _Bandwidth:
    """CFS bandwidth control of one replica a lane: a budget of CPU time, refilled every period.

    Periods start at multiples of 100 ms; what is left of a budget is lost. The scheduler
    hands it out in 5 ms slices, which a replica on one core does not notice.
    """

    def __init__(self, lanes: int, quota: float) -> None:
        self._budget = quota * QUOTA_PERIOD_S
        self._period = np.full(lanes, -1.0)
        self._left = np.zeros(lanes)

    def run(self, start: np.ndarray, demand: np.ndarray) -> np.ndarray:
        """When ``demand`` CPU-seconds begun at ``start`` are done; starts never go back."""
        period = np.floor(start / QUOTA_PERIOD_S)
        left = np.where(self._period == period, self._left, self._budget)
        until_refill = (period + 1) * QUOTA_PERIOD_S - start
        rest = demand - np.minimum(left, until_refill)
        done = start + demand
        left -= demand
        if rest.max() > _ROUNDING_S:
            late = np.flatnonzero(rest > _ROUNDING_S)
            # The budget is less than a period, so from the next refill on it alone binds.
            whole = np.ceil(rest[late] / self._budget - _ROUNDING_S) - 1
            tail = rest[late] - whole * self._budget
            period[late] += 1 + whole
            left[late] = self._budget - tail
            done[late] = period[late] * QUOTA_PERIOD_S + tail
        self._period, self._left = period, left
        return np.asarray(done)
