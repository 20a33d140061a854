"""Replay of a burst: every request through the router, with Ray Serve's autoscaler acting.

Request by request, since each may meet another number of replicas than the one before it.
Replicas start as late as they were measured to, get no more requests once they are to stop,
and refuse what their queue does not hold. HAProxy's reload at each change is not in it, and
replicas under quotas do not meet on a core: which of them share one changes as they come and go.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from planner.advice import ScalingSettings
from planner.ray_scaling import (
    CONTROL_INTERVAL_S,
    Note,
    Policy,
    record_interval_s,
    total_ongoing,
)
from planner.simulate import QUOTA_PERIOD_S

_ROUNDING_S = 1e-10


class Work(NamedTuple):
    """Seconds that each request keeps a replica busy, shape [requests].

    ``first_s`` holds for a request that finds its replica idle. With ``quota`` below 1 both
    are CPU times. ``beyond_s`` is what the round trip adds, to all or to each.
    """

    busy_s: np.ndarray
    first_s: np.ndarray
    beyond_s: float | np.ndarray = 0.0
    quota: float | None = None


class Bounds(NamedTuple):
    """Queue of one replica: requests that it works on, and those that may wait beside them."""

    ongoing: int
    queued: int


class Replay(NamedTuple):
    """What became of a schedule.

    ``latency_s`` has shape [requests], infinite where a request was refused; ``replicas``
    are (seconds, number that take requests) whenever that changed.
    """

    latency_s: np.ndarray
    replicas: tuple[tuple[float, int], ...]

    @property
    def refused(self) -> int:
        """Requests that no queue had a place for."""
        return int(np.isinf(self.latency_s).sum())

    def between(self, begin_s: float, end_s: float) -> tuple[int, int]:
        """The fewest and the most replicas that took requests in a stretch of time."""
        inside = [n for at, n in self.replicas if begin_s <= at < end_s]
        before = [n for at, n in self.replicas if at < begin_s][-1:] or [self.replicas[0][1]]
        return min(before + inside), max(before + inside)


def replay(
    due_s: np.ndarray,
    work: Work,
    settings: ScalingSettings,
    bounds: Bounds,
    *,
    replicas: int,
    startup_s: float,
) -> Replay:
    """Latencies of requests due at ``due_s`` (sorted), from ``replicas`` that are running."""
    fleet = _Fleet(settings, bounds, work.quota, replicas, startup_s)
    latency = np.empty(len(due_s))
    busy, first = work.busy_s.tolist(), work.first_s.tolist()
    for i, now in enumerate(due_s.tolist()):
        if now >= fleet.next_s:
            fleet.run_until(now)
        done = fleet.take(now, i, busy[i], first[i])
        latency[i] = done - now
    return Replay(latency + work.beyond_s, tuple(fleet.log))


class _Replica:
    """One replica: when it is free, what it has under way, what it noted and sent of that."""

    __slots__ = ("budget", "free_s", "next_note", "next_send", "notes", "sent", "under_way", "used")

    def __init__(self, used: int, tick: int, quota: float | None) -> None:
        self.under_way: deque[float] = deque()
        self.free_s = 0.0
        self.used = used
        self.next_note = self.next_send = tick
        self.notes: list[Note] = []
        self.sent: list[Note] = []
        self.budget = None if quota is None else _Budget(quota)

    def in_flight(self, now: float) -> int:
        """Requests that are not answered yet."""
        under_way = self.under_way
        while under_way and under_way[0] <= now:
            under_way.popleft()
        return len(under_way)


class _Fleet:
    """Replicas behind a least-connections router, and the controller that counts them."""

    def __init__(
        self,
        settings: ScalingSettings,
        bounds: Bounds,
        quota: float | None,
        replicas: int,
        startup_s: float,
    ) -> None:
        self._settings, self._bounds = settings, bounds
        self._quota = quota if quota is not None and quota < 1 else None
        self._startup_ticks = math.ceil(startup_s / CONTROL_INTERVAL_S - 1e-9)
        self._note_ticks = max(1, round(record_interval_s(settings) / CONTROL_INTERVAL_S))
        self._send_ticks = max(1, round(settings.metrics_interval_s / CONTROL_INTERVAL_S))
        self._policy = Policy(settings)
        self._target = replicas
        self._starting: list[int] = []  # ticks at which they will be ready
        self._tick = 0
        self.next_s = 0.0
        # Replicas that have run for long send at different times.
        self._running = [
            _Replica(i, i * self._send_ticks // replicas, self._quota) for i in range(replicas)
        ]
        self._first_use = replicas
        self.log: list[tuple[float, int]] = [(0.0, replicas)]

    def take(self, now: float, i: int, busy: float, first: float) -> float:
        """When a request that is due now will be answered; infinite when it is refused."""
        chosen, fewest = self._running[0], math.inf
        for replica in self._running:
            count = replica.in_flight(now)
            if count < fewest or (count == fewest and replica.used < chosen.used):
                chosen, fewest = replica, count
        chosen.used = self._first_use + i
        if fewest >= self._bounds.ongoing + self._bounds.queued:
            return math.inf
        free = chosen.free_s
        demand, start = (first, now) if free <= now else (busy, free)
        done = start + demand if chosen.budget is None else chosen.budget.done(start, demand)
        chosen.free_s = done
        chosen.under_way.append(done)
        return done

    def run_until(self, now: float) -> None:
        """Do all that the controller and the replicas do up to ``now``, tick by tick."""
        while self.next_s <= now:
            self._do(self._tick, self.next_s)
            self._tick += 1
            self.next_s = self._tick * CONTROL_INTERVAL_S

    def _do(self, tick: int, now: float) -> None:
        ready = sum(at <= tick for at in self._starting)
        if ready:
            self._starting = [at for at in self._starting if at > tick]
            for _ in range(ready):
                # New ones are least recently used, as the router has never used them.
                self._running.append(_Replica(-1, tick, self._quota))
            self.log.append((now, len(self._running)))
        oldest = now - self._settings.look_back_period_s
        for replica in self._running:
            if tick >= replica.next_send:
                replica.next_send += self._send_ticks
                replica.notes = [note for note in replica.notes if note[0] > oldest]
                replica.sent = list(replica.notes)
            if tick >= replica.next_note:
                replica.next_note += self._note_ticks
                # What waits for a place is invisible to the autoscaler.
                seen = min(replica.in_flight(now), self._bounds.ongoing)
                replica.notes.append((now, float(seen)))
        ongoing = total_ongoing([replica.sent for replica in self._running], now)
        target = self._policy.decide(now, ongoing, len(self._running), self._target)
        if target > self._target:
            self._starting += [tick + self._startup_ticks] * (target - self._target)
        elif target < self._target:
            self._stop(self._target - target, now)
        self._target = target

    def _stop(self, number: int, now: float) -> None:
        """Stop those first that are not ready yet, then the youngest."""
        not_ready = min(number, len(self._starting))
        self._starting = sorted(self._starting)[: len(self._starting) - not_ready]
        if number > not_ready:
            del self._running[-(number - not_ready) :]
            self.log.append((now, len(self._running)))


class _Budget:
    """CFS bandwidth control of one replica, as :func:`planner.steps.throttled` has it."""

    def __init__(self, quota: float) -> None:
        self._budget = self._left = quota * QUOTA_PERIOD_S
        self._period = -1

    def done(self, start: float, demand: float) -> float:
        """When ``demand`` CPU-seconds begun at ``start`` are done; starts never go back."""
        period = math.floor(start / QUOTA_PERIOD_S)
        left = self._left if period == self._period else self._budget
        rest = demand - min(left, (period + 1) * QUOTA_PERIOD_S - start)
        if rest <= _ROUNDING_S:
            self._period, self._left = period, left - demand
            return start + demand
        whole = math.ceil(rest / self._budget - _ROUNDING_S) - 1
        tail = rest - whole * self._budget
        self._period, self._left = period + 1 + whole, self._budget - tail
        return self._period * QUOTA_PERIOD_S + tail
