"""The simulated queues against closed forms and against simulators that share no code."""

from __future__ import annotations

import heapq
import math
from collections import deque

import numpy as np
import pytest

from planner.simulate import draw, simulate, sojourns

EXPONENTIAL = -np.log1p(-(np.arange(20_000) + 0.5) / 20_000)
ONES = np.ones(20_000, dtype=np.int64)
MEAN_S = 0.01


def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting in M/M/c (A. K. Erlang, 1917), ``load`` in erlangs."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("utilisation", [0.3, 0.7])
def test_mm1_agrees_with_its_closed_form(utilisation: float) -> None:
    """Mean and p99 of the M/M/1 sojourn time, which is exponential with rate mu - lambda."""
    times = simulate(EXPONENTIAL * MEAN_S, ONES, utilisation / MEAN_S, 1, 1_000_000, seed=1)
    expected = MEAN_S / (1 - utilisation)
    assert times.mean() == pytest.approx(expected, rel=0.03)
    assert np.quantile(times, 0.99) == pytest.approx(expected * math.log(100), rel=0.05)


def test_md1_agrees_with_its_closed_form() -> None:
    """Mean (Pollaczek-Khinchine) and p99 (Erlang's M/D/1 waiting-time series) of M/D/1."""
    rho = 0.7
    times = simulate(np.array([MEAN_S]), np.array([1]), rho / MEAN_S, 1, 1_000_000, seed=2)
    assert times.mean() == pytest.approx(MEAN_S * (1 + rho / (2 * (1 - rho))), rel=0.02)
    p99 = np.quantile(times, 0.99) / MEAN_S - 1
    waiting = (1 - rho) * sum(
        (rho * (k - p99)) ** k / math.factorial(k) * math.exp(-rho * (k - p99))
        for k in range(math.floor(p99) + 1)
    )
    assert waiting == pytest.approx(0.99, abs=0.001)


@pytest.mark.parametrize("replicas", [2, 4])
def test_least_connections_comes_close_to_one_central_queue(replicas: int) -> None:
    """Mean sojourn is at least M/M/c's, which wastes no idle replica, and close to it."""
    load = 0.6 * replicas
    times = simulate(EXPONENTIAL * MEAN_S, ONES, load / MEAN_S, replicas, 400_000, seed=3)
    bound = MEAN_S * (1 + erlang_c(replicas, load) / (replicas - load))
    assert 0.99 * bound < times.mean() < 1.15 * bound


def least_connections(arrivals: list[float], service: list[float], k: int) -> list[float]:
    """Event by event, with explicit queues: the independent simulator."""
    queues: list[deque[int]] = [deque() for _ in range(k)]
    turn = list(range(k))  # the least recently used first
    events = [(at, 1, i) for i, at in enumerate(arrivals)]  # departures (0) before arrivals
    heapq.heapify(events)
    done = [0.0] * len(arrivals)
    where = [0] * len(arrivals)
    while events:
        now, kind, i = heapq.heappop(events)
        if kind == 1:
            fewest = min(len(q) for q in queues)
            chosen = next(r for r in turn if len(queues[r]) == fewest)
            turn.remove(chosen)
            turn.append(chosen)
            where[i] = chosen
            queues[chosen].append(i)
            if len(queues[chosen]) == 1:
                heapq.heappush(events, (now + service[i], 0, i))
        else:
            done[i] = now
            queue = queues[where[i]]
            assert queue.popleft() == i
            if queue:
                heapq.heappush(events, (now + service[queue[0]], 0, queue[0]))
    return [end - at for end, at in zip(done, arrivals, strict=True)]


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_every_request_agrees_with_an_event_driven_simulator(replicas: int) -> None:
    """Same arrivals and service times, request by request, to rounding."""
    rng = np.random.default_rng(4)
    service = rng.gamma(4, 0.25, (2000, 1))
    arrivals = np.cumsum(rng.exponential(1 / (0.65 * replicas), (2000, 1)), axis=0)
    expected = least_connections(arrivals[:, 0].tolist(), service[:, 0].tolist(), replicas)
    assert sojourns(arrivals, service, replicas=replicas)[:, 0] == pytest.approx(expected)


def test_the_recursion_and_the_steps_agree() -> None:
    """The closed Lindley form and the stepwise one are the same queue."""
    rng = np.random.default_rng(5)
    service = rng.exponential(1, (3000, 3))
    arrivals = np.cumsum(rng.exponential(1.3, (3000, 3)), axis=0)
    stepwise = sojourns(arrivals, service, first=service.copy())
    assert sojourns(arrivals, service) == pytest.approx(stepwise)


def test_exceptional_first_service_agrees_with_welch() -> None:
    """P(busy) = rho_first / (1 - rho + rho_first), hence the share of first services."""
    rng = np.random.default_rng(6)
    rate, warm, cold = 0.6, 1.0, 1.6
    arrivals = np.cumsum(rng.exponential(1 / rate, (20_000, 20)), axis=0)
    warms, colds = (np.full((20_000, 20), value) for value in (warm, cold))
    times = sojourns(arrivals, warms, first=colds)
    idle = 1 - rate * cold / (1 - rate * warm + rate * cold)
    assert np.isclose(times, cold).mean() == pytest.approx(idle, abs=0.005)


def quota_by_steps(arrivals: list[int], demand: list[int], budget: int, period: int) -> list[int]:
    """One server under a quota, millisecond by millisecond: the brute-force oracle."""
    out = [0] * len(arrivals)
    waiting: deque[int] = deque()
    left, served, upcoming, now = budget, 0, 0, 0
    while served < len(arrivals):
        if now % period == 0:
            left = budget
        while upcoming < len(arrivals) and arrivals[upcoming] <= now:
            waiting.append(upcoming)
            upcoming += 1
        now += 1
        if waiting and left > 0:
            left -= 1
            demand[waiting[0]] -= 1
            if demand[waiting[0]] == 0:
                served += 1
                done = waiting.popleft()
                out[done] = now - arrivals[done]
    return out


@pytest.mark.parametrize(("quota", "longest"), [(0.25, 12), (0.5, 120), (0.25, 90)])
def test_a_quota_agrees_with_a_time_stepped_oracle(quota: float, longest: int) -> None:
    """Whole milliseconds, so that the oracle is exact; also requests of several budgets."""
    rng = np.random.default_rng(7)
    demand = rng.integers(1, longest, 500)
    arrivals = np.cumsum(rng.integers(0, round(2.5 * longest / quota / 2), 500))
    expected = quota_by_steps(arrivals.tolist(), demand.tolist(), round(100 * quota), 100)
    times = sojourns(arrivals[:, None] / 1e3, demand[:, None] / 1e3, quota=quota)
    assert times[:, 0] * 1e3 == pytest.approx(expected, abs=1e-3)


def test_a_quota_only_ever_slows_down() -> None:
    """A throttled queue is never ahead of the free one, and differs from it."""
    rng = np.random.default_rng(8)
    service = rng.exponential(0.005, (2000, 4))
    arrivals = np.cumsum(rng.exponential(0.015, (2000, 4)), axis=0)
    free, throttled = sojourns(arrivals, service), sojourns(arrivals, service, quota=0.5)
    assert (throttled >= free - 1e-9).all()
    assert throttled.mean() > 1.5 * free.mean()


def test_a_whole_cpu_of_quota_never_throttles() -> None:
    """One call at a time burns one CPU at most."""
    arrivals, service = np.array([[0.0], [0.1]]), np.array([[0.3], [0.3]])
    assert (sojourns(arrivals, service, quota=1.0) == sojourns(arrivals, service)).all()


def test_equal_seeds_give_equal_runs() -> None:
    """The simulation is a function of its arguments, of exactly n requests."""
    first, second, other = (
        simulate(EXPONENTIAL, ONES, 1.2, 2, 5001, seed, quota=None) for seed in (1, 1, 2)
    )
    assert first.shape == (5001,)
    assert (first == second).all()
    assert (first != other).any()


def test_draws_follow_the_counts() -> None:
    """A uniform number falls into the bucket whose cumulative share holds it."""
    drawn = draw(np.array([1.0, 2.0, 3.0]), np.array([1, 0, 3]), np.array([0, 0.24, 0.25, 0.999]))
    assert drawn.tolist() == [1, 1, 3, 3]
