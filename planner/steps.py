"""The steps of simulated queues, from request to request and from event to event, compiled.

What they simulate is said in :mod:`planner.simulate`. A lane is one queue with its replicas, and
knows nothing of the others. Its steps follow from one another, so there are no arrays to work on
at once: they are loops over numbers, which numba makes machine code of, and keeps.

Requests at a replica are a linked list: ``head`` is the one that is worked on, ``after`` says
which follows it, ``tail`` is the last.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_NONE = -1
_ROUNDING_S = 1e-10  # a request that ends with the budget must not wait for the next one


@njit(cache=True)
def least_used(in_flight: np.ndarray, used: np.ndarray) -> int:
    """HAProxy's ``leastconn``: fewest requests in flight, the least recently used of equals."""
    chosen = 0
    for r in range(1, len(used)):
        fewer = in_flight[r] < in_flight[chosen]
        if fewer or (in_flight[r] == in_flight[chosen] and used[r] < used[chosen]):
            chosen = r
    return chosen


@njit(cache=True)
def unthrottled(
    arrivals: np.ndarray, busy: np.ndarray, first: np.ndarray, replicas: int
) -> np.ndarray:
    """Time in system of every request in seconds; all arrays have the shape [lanes, n]."""
    lanes, n = arrivals.shape
    out = np.empty((lanes, n))
    done, after = np.empty(n), np.empty(n, dtype=np.int64)
    head, tail = np.empty(replicas, dtype=np.int64), np.empty(replicas, dtype=np.int64)
    in_flight, used = np.empty(replicas, dtype=np.int64), np.empty(replicas, dtype=np.int64)
    for lane in range(lanes):
        head[:], in_flight[:], used[:] = _NONE, 0, np.arange(replicas)
        for i in range(n):
            now = arrivals[lane, i]
            for r in range(replicas):
                while head[r] != _NONE and done[head[r]] <= now:
                    head[r] = after[head[r]]
                    in_flight[r] -= 1
            r = least_used(in_flight, used)
            used[r] = replicas + i
            after[i] = _NONE
            if head[r] == _NONE:
                done[i] = now + first[lane, i]
                head[r] = i
            else:
                done[i] = done[tail[r]] + busy[lane, i]
                after[tail[r]] = i
            tail[r] = i
            in_flight[r] += 1
            out[lane, i] = done[i] - now
    return out


@njit(cache=True)
def throttled(
    arrivals: np.ndarray,
    busy: np.ndarray,
    first: np.ndarray,
    replicas: int,
    quota: float,
    period_s: float,
) -> np.ndarray:
    """As :func:`unthrottled`; ``busy`` and ``first`` are CPU times, ``quota`` is below 1 CPU.

    The replicas share as few cores as hold their quotas. Those that have work and budget divide
    them evenly; a budget is ``quota`` of the period, and what is left of it is lost.
    """
    lanes, n = arrivals.shape
    out = np.empty((lanes, n))
    cores, budget = np.ceil(replicas * quota - 1e-9), quota * period_s
    work, after = np.empty(n), np.empty(n, dtype=np.int64)
    head, tail = np.empty(replicas, dtype=np.int64), np.empty(replicas, dtype=np.int64)
    in_flight, used = np.empty(replicas, dtype=np.int64), np.empty(replicas, dtype=np.int64)
    left = np.empty(replicas)
    for lane in range(lanes):
        head[:], in_flight[:], used[:], left[:] = _NONE, 0, np.arange(replicas), budget
        now, refill, under_way = 0.0, period_s, 0
        for i in range(n + 1):
            end = arrivals[lane, i] if i < n else np.inf
            while now < end and (under_way > 0 or end < np.inf):
                if under_way == 0 and refill < end:  # periods in which nothing happens
                    refill = max(refill, np.floor(end / period_s) * period_s)
                running, ahead_s = 0, np.inf
                for r in range(replicas):
                    if head[r] != _NONE and left[r] > _ROUNDING_S:
                        running += 1
                        ahead_s = min(ahead_s, work[head[r]], left[r])
                speed = min(1.0, cores / max(running, 1))
                # Until one is done or out of budget, the period over, or time up.
                stretch = min(ahead_s / speed, refill - now, end - now)
                fresh = stretch >= refill - now - _ROUNDING_S
                if fresh:
                    now = refill
                elif stretch == end - now:
                    now = end
                else:
                    now += stretch
                for r in range(replicas):
                    if head[r] == _NONE or left[r] <= _ROUNDING_S:
                        continue
                    one = head[r]
                    left[r] -= stretch * speed
                    work[one] -= stretch * speed
                    if work[one] <= _ROUNDING_S:
                        out[lane, one] = now - arrivals[lane, one]
                        head[r] = after[one]
                        in_flight[r] -= 1
                        under_way -= 1
                if fresh:
                    left[:] = budget
                    refill += period_s
            if i == n:
                break
            r = least_used(in_flight, used)
            used[r] = replicas + i
            after[i] = _NONE
            if head[r] == _NONE:
                work[i] = first[lane, i]
                head[r] = i
            else:
                work[i] = busy[lane, i]
                after[tail[r]] = i
            tail[r] = i
            in_flight[r] += 1
            under_way += 1
    return out
