"""Simulated queues of replicas under CPU quotas that share cores.

Quotas are packed: four quarters of a CPU run on one core, as they do in a full node. While
several of them have work, the core is divided among them (the kernel's fair scheduler, taken
as processor sharing); each by itself answers its requests first come, first served, and stands
still when its budget of the period is spent. Many lanes are simulated side by side, as in
:mod:`planner.simulate`, each at its own pace from event to event.
"""

from __future__ import annotations

import numpy as np

QUOTA_PERIOD_S = 0.1
"""CFS bandwidth period of Kubernetes (and the kernel's default)."""

_ROUNDING_S = 1e-10
_STEP_BITS = 32


def shared_sojourns(
    arrivals: np.ndarray, busy: np.ndarray, first: np.ndarray, replicas: int, quota: float
) -> np.ndarray:
    """Time in system of every request in seconds; all arrays have the shape [n, lanes].

    ``busy`` and ``first`` are CPU times of a request that follows another, and of one that finds
    its replica idle; ``arrivals`` rise along the first axis. ``quota`` is in CPUs, below 1; the
    replicas share as few cores as hold their quotas. A request goes to the replica with the
    fewest in flight, the least recently used of equals.
    """
    n, lanes = arrivals.shape
    state = _Shared(n, lanes, replicas, quota)
    for i in range(n):
        state.run_until(arrivals[i])
        state.take(i, arrivals[i], busy[i], first[i])
    state.run_until(np.full(lanes, np.inf))
    return np.asarray(state.done - arrivals)


class _Shared:
    """Work of all replicas in all lanes, arrays of shape [lanes, replicas].

    ``_given`` is all the work that a replica ever got, ``_served`` what it did of it: a request
    is done when ``_served`` reaches what ``_given`` was with it, its mark. Marks of requests under
    way lie in a ring from ``_head`` on; ``_next`` is the first of them, infinite where there is
    none.
    """

    def __init__(self, n: int, lanes: int, replicas: int, quota: float) -> None:
        shape = (lanes, replicas)
        self.done = np.empty((n, lanes))
        self._cores = int(np.ceil(replicas * quota - 1e-9))
        self._budget = quota * QUOTA_PERIOD_S
        self._now, self._refill = np.zeros(lanes), np.full(lanes, QUOTA_PERIOD_S)
        self._given, self._served = np.zeros(shape), np.zeros(shape)
        self._left = np.full(shape, self._budget)
        self._next, self._in_flight = np.full(shape, np.inf), np.zeros(shape, dtype=np.int64)
        self._used = np.tile(np.arange(replicas, dtype=np.int64), (lanes, 1))
        self._head = np.zeros(shape, dtype=np.int64)
        self._mark, self._who = np.full((*shape, 16), np.inf), np.zeros((*shape, 16), dtype=int)
        self._lane = np.arange(lanes)

    def take(self, i: int, now: np.ndarray, busy: np.ndarray, first: np.ndarray) -> None:
        """Give request ``i`` of every lane to a replica; the state is that of ``now``."""
        at = (self._lane, ((self._in_flight << _STEP_BITS) + self._used).argmin(axis=1))
        self._used[at] = self._used.shape[1] + i
        before = self._in_flight[at]
        ring = self._mark.shape[2]
        if before.max() >= ring:
            self._grow()
            ring = self._mark.shape[2]
        mark = self._given[at] + np.where(before == 0, first, busy)
        self._given[at] = mark
        place = (*at, (self._head[at] + before) % ring)
        self._mark[place], self._who[place] = mark, i
        self._next[at] = np.where(before == 0, mark, self._next[at])
        self._in_flight[at] = before + 1

    def run_until(self, end: np.ndarray) -> None:
        """Let time pass up to ``end`` (shape [lanes]; inf: until all is done)."""
        active = np.flatnonzero(self._step(slice(None), end))
        while len(active):
            active = active[self._step(active, end[active])]

    def _step(self, at: np.ndarray | slice, end: np.ndarray) -> np.ndarray:
        """One stretch of the lanes ``at`` in which nothing changes; which of them go on."""
        now, left, served = self._now[at], self._left[at], self._served[at]
        refill = self._refill[at]
        waiting = self._next[at] < np.inf
        running = waiting & (left > _ROUNDING_S)
        speed = self._cores / np.maximum(running.sum(axis=1), self._cores)
        # Until the first replica runs dry or out of budget, the period ends, or time is up.
        ahead = np.where(running, np.minimum(self._given[at] - served, left), np.inf).min(axis=1)
        until = np.minimum(np.minimum(now + ahead / speed, refill), end)
        until = np.where(waiting.any(axis=1), until, end)
        stretch = np.where(np.isfinite(until), until - now, 0.0)
        done = np.where(running, (stretch * speed)[:, None], 0.0)
        reached = served + done
        # A stretch ends when the first replica runs dry, so several marks may be passed.
        while (ended := self._next[at] <= reached + _ROUNDING_S).any():
            self._finish(at, ended, speed)
        self._served[at] = reached
        now = now + stretch
        fresh = now >= refill - _ROUNDING_S
        self._left[at] = np.where(fresh[:, None], self._budget, left - done)
        self._now[at] = now
        if fresh.any():
            period = np.floor(now / QUOTA_PERIOD_S + 1e-9) + 1
            self._refill[at] = np.where(fresh, period * QUOTA_PERIOD_S, refill)
        return np.asarray(until < end)

    def _finish(self, at: np.ndarray | slice, ended: np.ndarray, speed: np.ndarray) -> None:
        """Note the first request under way of each replica that ``ended`` names."""
        row, replica = np.nonzero(ended)
        lane = self._lane[at][row]
        spot = (lane, replica)
        ring = self._mark.shape[2]
        work = np.maximum(self._next[spot] - self._served[spot], 0.0)
        self.done[self._who[(*spot, self._head[spot] % ring)], lane] = (
            self._now[lane] + work / speed[row]
        )
        self._head[spot] += 1
        self._in_flight[spot] -= 1
        following = self._mark[(*spot, self._head[spot] % ring)]
        self._next[spot] = np.where(self._in_flight[spot] > 0, following, np.inf)

    def _grow(self) -> None:
        """A ring of twice the size; marks keep their order."""
        ring = self._mark.shape[2]
        order = (self._head[..., None] + np.arange(ring)) % ring
        again = np.zeros_like(order)
        self._mark = np.concatenate([np.take_along_axis(self._mark, order, 2), again], axis=2)
        self._who = np.concatenate([np.take_along_axis(self._who, order, 2), again], axis=2)
        self._head[:] = 0
