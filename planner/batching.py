"""Simulated queues with dynamic batching: replicas that answer waiting requests together.

A replica starts when ``most`` requests wait, or when the oldest has waited for ``wait_s``,
and is free; then it takes all that wait, up to ``most``. With most = 1 and no wait this is
the queue of :mod:`planner.simulate`. Many lanes are simulated side by side, as there.
"""

from __future__ import annotations

import numpy as np

_NONE = -1


def batched_sojourns(
    arrivals: np.ndarray,
    places: np.ndarray,
    table: np.ndarray,
    *,
    wait_s: float,
    replicas: int = 1,
    bound: int | None = None,
) -> np.ndarray:
    """Time in system of every request in seconds, infinite where it was refused.

    ``arrivals`` has shape [n, lanes] and rises along the first axis. ``table`` has shape
    [most + 1, places]: the seconds that n requests take together, see
    :meth:`planner.batch_law.BatchLaw.table`; ``places`` (uniform in [0, 1), shape
    [n, lanes]) says where in it a batch lies, by its oldest request. The router sends a
    request to the replica with the fewest in flight, the least recently used of equals; one
    that finds ``bound`` requests there is refused.
    """
    n, lanes = arrivals.shape
    replica = _Replicas(arrivals, places, table, wait_s, replicas)
    lane = np.arange(lanes)
    used = np.repeat(np.arange(replicas), lanes).reshape(replicas, lanes)
    for i in range(n):
        now = arrivals[i]
        replica.start_until(np.tile(now, replicas))
        in_flight = replica.in_flight(np.tile(now, replicas)).reshape(replicas, lanes)
        chosen = np.lexsort((used, in_flight), axis=0)[0]
        used[chosen, lane] = replicas + i
        at, request = chosen * lanes + lane, i * lanes + lane
        if bound is not None:
            free = in_flight[chosen, lane] < bound
            at, request = at[free], request[free]
        replica.add(at, request)
    replica.start_until(np.full(replicas * lanes, np.inf))
    return replica.sojourns.reshape(n, lanes)


class _Replicas:
    """Waiting and running batches of all replicas in all lanes, flat, replicas first.

    Who waits at a replica is a linked list through the requests.
    """

    def __init__(
        self,
        arrivals: np.ndarray,
        places: np.ndarray,
        table: np.ndarray,
        wait_s: float,
        replicas: int,
    ) -> None:
        servers = replicas * arrivals.shape[1]
        self._due = np.ascontiguousarray(arrivals).ravel()
        self._place = (places.ravel() * table.shape[1]).astype(int)
        self._table, self._most, self._wait_s = table, len(table) - 1, wait_s
        self._next = np.full(self._due.size, _NONE)
        self._head, self._tail = np.full(servers, _NONE), np.full(servers, _NONE)
        self._waiting = np.zeros(servers, dtype=int)
        self._starts_s = np.full(servers, np.inf)
        self._free_s, self._running = np.zeros(servers), np.zeros(servers, dtype=int)
        self.sojourns = np.full(self._due.size, np.inf)

    def in_flight(self, now: np.ndarray) -> np.ndarray:
        """Requests that each replica has not answered yet, shape [servers]."""
        return np.asarray(self._waiting + np.where(self._free_s > now, self._running, 0))

    def add(self, at: np.ndarray, request: np.ndarray) -> None:
        """Let one request wait at each of the replicas ``at``; nothing starts before it."""
        empty = self._waiting[at] == 0
        self._head[at[empty]] = request[empty]
        self._next[self._tail[at[~empty]]] = request[~empty]
        self._tail[at] = request
        self._waiting[at] += 1
        now, waiting = self._due[request], self._waiting[at]
        latest = np.where(empty, now + self._wait_s, self._starts_s[at])
        latest = np.where(waiting == self._most, now, latest)
        self._starts_s[at] = np.maximum(latest, self._free_s[at])

    def start_until(self, now: np.ndarray) -> None:
        """Start every batch whose time comes up to ``now``, shape [servers]."""
        while True:
            at = np.flatnonzero(self._starts_s <= now)
            if self._waiting[at].max(initial=0) == 0:
                return
            at = at[self._waiting[at] > 0]
            size = np.minimum(self._waiting[at], self._most)
            request = self._head[at]
            start = self._starts_s[at]
            done = start + self._table[size, self._place[request]]
            for taken in range(self._most):
                inside = np.flatnonzero(size > taken)
                if not len(inside):
                    break
                one = request[inside]
                self.sojourns[one] = done[inside] - self._due[one]
                request[inside] = self._next[one]
            self._head[at] = request
            self._waiting[at] -= size
            self._free_s[at], self._running[at] = done, size
            left = self._waiting[at]
            oldest = np.where(left > 0, self._due[request] + self._wait_s, np.inf)
            self._starts_s[at] = np.where(left >= self._most, done, np.maximum(oldest, done))
