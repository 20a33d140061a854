"""Replicas under quotas that share cores, against an oracle that walks in small steps."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest

from planner.simulate import sojourns

STEP_S = 2e-5


def by_steps(
    arrivals: list[float], demand: list[float], replicas: int, quota: float
) -> list[float]:
    """Every 20 microseconds the cores are divided among the replicas that may run."""
    cores = math.ceil(replicas * quota - 1e-9)
    queues: list[deque[int]] = [deque() for _ in range(replicas)]
    turn = list(range(replicas))
    rest, done = list(demand), [0.0] * len(demand)
    left, step, upcoming, served = [quota * 0.1] * replicas, 0, 0, 0
    per_period = round(0.1 / STEP_S)
    while served < len(demand):
        now = step * STEP_S
        if step % per_period == 0:
            left = [quota * 0.1] * replicas
        while upcoming < len(arrivals) and arrivals[upcoming] <= now + 1e-12:
            fewest = min(map(len, queues))
            chosen = next(r for r in turn if len(queues[r]) == fewest)
            turn.remove(chosen)
            turn.append(chosen)
            queues[chosen].append(upcoming)
            upcoming += 1
        running = [r for r in range(replicas) if queues[r] and left[r] > 1e-9]
        for r in running:
            part = STEP_S * min(1.0, cores / len(running))
            left[r] -= part
            rest[queues[r][0]] -= part
            if rest[queues[r][0]] <= 1e-9:
                one = queues[r].popleft()
                done[one] = now + STEP_S
                served += 1
        step += 1
    return [end - at for end, at in zip(done, arrivals, strict=True)]


@pytest.mark.parametrize(
    ("replicas", "quota", "rate"), [(2, 0.5, 45), (4, 0.25, 50), (3, 0.25, 40), (3, 0.5, 90)]
)
def test_sharing_agrees_with_a_time_stepped_oracle(replicas: int, quota: float, rate: int) -> None:
    """Requests of 4 to 16 ms, throttled and not; the oracle's grid is what they may differ by."""
    rng = np.random.default_rng(replicas)
    demand = np.round(rng.uniform(0.004, 0.016, 300) / STEP_S) * STEP_S
    arrivals = np.ceil(np.cumsum(rng.exponential(1 / rate, 300)) / STEP_S) * STEP_S
    expected = np.array(by_steps(arrivals.tolist(), demand.tolist(), replicas, quota))
    found = sojourns(arrivals[:, None], demand[:, None], replicas=replicas, quota=quota)
    difference = np.abs(found[:, 0] - expected)
    # Where two replicas are free in the same step the router may choose the other one.
    assert np.quantile(difference, 0.9) < 0.0005
    assert np.quantile(found, 0.99) == pytest.approx(np.quantile(expected, 0.99), rel=0.05)


def test_with_a_core_each_nothing_is_shared() -> None:
    """Two replicas of 0.6 CPUs have two cores: each is the queue of one under its quota."""
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(0.02, (400, 3)), axis=0)
    demand = rng.uniform(0.005, 0.02, (400, 3))
    even, odd = (sojourns(arrivals[start::2], demand[start::2], quota=0.6) for start in (0, 1))
    # So far apart that least connections takes turns.
    spread = arrivals + np.arange(400)[:, None] * 0.5
    apart = sojourns(spread, demand, replicas=2, quota=0.6)
    assert apart == pytest.approx(
        np.stack([sojourns(spread[s::2], demand[s::2], quota=0.6) for s in (0, 1)], 1).reshape(
            400, 3
        )
    )
    assert sojourns(arrivals, demand, replicas=2, quota=0.6).mean() <= 1.05 * (
        (even.mean() + odd.mean()) / 2
    )


def test_a_full_core_is_one_server() -> None:
    """Four quarters of a core carry what one core does, and no more: work is conserved."""
    rng = np.random.default_rng(2)
    arrivals = np.cumsum(rng.exponential(0.001, (800, 2)), axis=0)  # ten times too much
    demand = rng.uniform(0.005, 0.015, (800, 2))
    ends = (sojourns(arrivals, demand, replicas=4, quota=0.25) + arrivals).max(axis=0)
    assert ends == pytest.approx(demand.sum(axis=0), rel=0.05)


def test_a_request_that_wakes_its_replica_takes_longer() -> None:
    """Far apart all are first, and alone."""
    arrivals = np.arange(1, 51)[:, None] * 0.3
    ones = np.ones((50, 1))
    woken = sojourns(arrivals, 0.002 * ones, first=0.007 * ones, replicas=4, quota=0.25)
    assert woken == pytest.approx(0.007 * ones)


def test_long_after_the_start_time_still_passes() -> None:
    """Steps smaller than the clock's resolution there, as of months at a rate of one a minute."""
    rng = np.random.default_rng(3)
    demand = rng.uniform(0.004, 0.016, (100, 1))
    early = np.cumsum(rng.exponential(0.02, (100, 1)), axis=0)
    soon, late = (sojourns(early + start, demand, replicas=2, quota=0.5) for start in (0.0, 1e7))
    assert late == pytest.approx(soon, abs=1e-5)
