"""The replay against the plain queues, and against a simulator that shares no code with it."""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from planner.advice import ScalingSettings
from planner.burst import Bounds, Replay, Work, replay
from planner.simulate import sojourns

OPEN = Bounds(10_000, 10_000)


def fixed(replicas: int) -> ScalingSettings:
    return ScalingSettings(min_replicas=replicas, max_replicas=replicas, target_ongoing_requests=1)


@pytest.mark.parametrize(("replicas", "quota"), [(1, None), (3, None), (1, 0.5), (1, 0.25)])
def test_without_scaling_it_is_the_plain_queue(replicas: int, quota: float | None) -> None:
    """Request by request, also under a quota and with a slower first request."""
    rng = np.random.default_rng(1)
    share = 0.6 * replicas * (quota or 1)
    due = np.cumsum(rng.exponential(0.02 / share, 4000))
    busy = rng.exponential(0.02, 4000)
    expected = sojourns(
        due[:, None], busy[:, None], first=1.5 * busy[:, None], replicas=replicas, quota=quota
    )[:, 0]
    done = replay(
        due,
        Work(busy, 1.5 * busy, 0.001, quota),
        fixed(replicas),
        OPEN,
        replicas=replicas,
        startup_s=1,
    )
    assert done.latency_s == pytest.approx(expected + 0.001)
    assert done.replicas == ((0.0, replicas),)
    assert not done.refused


class Oracle:
    """Events in one heap, explicit queues, the policy as Ray writes it: counters and times."""

    def __init__(
        self, settings: ScalingSettings, bounds: Bounds, replicas: int, startup_s: float
    ) -> None:
        self.s, self.bounds, self.startup_s = settings, bounds, startup_s
        self.target, self.counter, self.since = replicas, 0, 0.0
        self.log = [(0.0, replicas)]
        self.born = 0
        sends = round(settings.metrics_interval_s * 10)
        self.replicas = [self.make(i * sends // replicas) for i in range(replicas)]
        self.starting: list[int] = []
        self.turn = 0

    def make(self, tick: int) -> dict[str, Any]:
        self.born += 1
        return {
            "queue": deque(), "tick": tick, "notes": [], "sent": [], "used": -10**9 + self.born,
        }  # fmt: skip

    def tick(self, number: int) -> None:
        now = number / 10
        for due in [t for t in self.starting if t <= number]:
            self.starting.remove(due)
            self.replicas.append(self.make(number))
            self.log.append((now, len(self.replicas)))
        every = round(min(0.2 * self.s.look_back_period_s, self.s.metrics_interval_s) * 10)
        sends = round(self.s.metrics_interval_s * 10)
        for r in self.replicas:
            age = number - r["tick"]
            if age >= 0 and age % sends == 0:
                keep = now - self.s.look_back_period_s
                r["notes"] = [n for n in r["notes"] if n[0] > keep]
                r["sent"] = list(r["notes"])
            if age >= 0 and age % every == 0:
                r["notes"].append((now, min(len(r["queue"]), self.bounds.ongoing)))
        self.decide(now, number)

    def mean(self, now: float) -> float:
        sent = [r["sent"] for r in self.replicas if r["sent"]]
        if not sent:
            return 0.0
        begin = max(notes[0][0] for notes in sent)
        edges = sorted({begin, now, *(at for notes in sent for at, _ in notes if at > begin)})
        area = 0.0
        for left, right in pairwise(edges):
            for notes in sent:
                area += [v for at, v in notes if at <= left][-1] * (right - left)
        return area / (now - begin)

    def decide(self, now: float, number: int) -> None:
        desired = math.ceil(round(self.mean(now) / self.s.target_ongoing_requests, 9))
        new = self.target
        if desired > self.target:
            self.counter, self.since = (1, now) if self.counter <= 0 else (1, self.since)
            if now - self.since >= self.s.upscale_delay_s - 1e-6:
                self.counter, new = 0, desired
        elif desired < self.target:
            self.counter, self.since = (-1, now) if self.counter >= 0 else (-1, self.since)
            if now - self.since >= self.s.downscale_delay_s - 1e-6:
                self.counter, new = 0, max(1, desired)
        else:
            self.counter = 0
        new = min(max(new, self.s.min_replicas), self.s.max_replicas)
        while self.target < new:
            self.starting.append(number + round(self.startup_s * 10))
            self.target += 1
        while self.target > new:
            if self.starting:
                self.starting.remove(max(self.starting))
            else:
                self.replicas.pop()
                self.log.append((now, len(self.replicas)))
            self.target -= 1

    def run(self, due: list[float], busy: list[float]) -> list[float]:
        events: list[tuple[float, int, int, Any]] = [(at, 2, i, None) for i, at in enumerate(due)]
        events += [(n / 10, 1, n, None) for n in range(math.ceil(due[-1] * 10) + 1)]
        heapq.heapify(events)
        latency = [math.inf] * len(due)
        while events:
            now, kind, i, replica = heapq.heappop(events)
            if kind == 0:
                latency[i] = now - due[i]
                replica["queue"].popleft()
                if replica["queue"]:
                    following = replica["queue"][0]
                    heapq.heappush(events, (now + busy[following], 0, following, replica))
            elif kind == 1:
                self.tick(i)
            else:
                chosen = min(self.replicas, key=lambda r: (len(r["queue"]), r["used"]))
                self.turn += 1
                chosen["used"] = self.turn
                if len(chosen["queue"]) >= sum(self.bounds):
                    continue
                chosen["queue"].append(i)
                if len(chosen["queue"]) == 1:
                    heapq.heappush(events, (now + busy[i], 0, i, chosen))
        return latency


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bounds", [OPEN, Bounds(4, 6)])
def test_scaling_agrees_with_an_independent_simulator(seed: int, bounds: Bounds) -> None:
    """Up and down again, with queues that fill: every latency, and when replicas came."""
    rng = np.random.default_rng(seed)
    settings = ScalingSettings(
        min_replicas=1,
        max_replicas=4,
        target_ongoing_requests=1.2,
        look_back_period_s=5,
        metrics_interval_s=1,
        upscale_delay_s=1,
        downscale_delay_s=4,
    )
    rates = np.repeat([20, 120, 15, 90], 15)
    due = np.sort(
        np.concatenate([s + rng.random(rng.poisson(rate)) for s, rate in enumerate(rates)])
    )
    busy = rng.exponential(0.025, len(due))
    oracle = Oracle(settings, bounds, 2, 2.5)
    expected = oracle.run(due.tolist(), busy.tolist())
    done = replay(due, Work(busy, busy), settings, bounds, replicas=2, startup_s=2.5)
    assert done.latency_s == pytest.approx(expected)
    assert {round(at, 6): n for at, n in done.replicas} == dict(oracle.log)
    assert max(n for _, n in done.replicas) > 2
    assert bool(done.refused) == (bounds is not OPEN)


def test_the_queue_holds_what_it_may() -> None:
    """More than both bounds at once are refused, and only they."""
    busy = np.full(10, 1.0)
    done = replay(
        np.full(10, 0.05), Work(busy, busy), fixed(1), Bounds(2, 3), replicas=1, startup_s=1
    )
    assert np.isfinite(done.latency_s).tolist() == [True] * 5 + [False] * 5
    assert done.refused == 5


def test_replicas_in_a_stretch_of_time() -> None:
    """The number at its beginning counts, too."""
    done = Replay(np.zeros(1), ((0.0, 1), (5.0, 2), (9.0, 4)))
    assert done.between(6, 8) == (2, 2)
    assert done.between(4, 10) == (1, 4)
