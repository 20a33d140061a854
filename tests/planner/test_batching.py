"""Dynamic batching against the plain queue, closed forms, and an event-driven simulator."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loadtests.histogram import Histogram
from planner.batch_law import PRIOR_RESIDUAL, BatchLaw
from planner.batching import batched_sojourns
from planner.simulate import sojourns
from serving.errors import BadInput

Build = Callable[..., Any]


def table(*seconds: float) -> np.ndarray:
    """Constant times of batches of 1, 2, ... requests."""
    return np.array([0.0, *seconds])[:, None]


@pytest.mark.parametrize("replicas", [1, 3])
def test_one_at_a_time_is_the_plain_queue(replicas: int) -> None:
    """Batches of one and no wait: request by request what the unbatched simulation says."""
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(1 / (0.7 * replicas), (2000, 4)), axis=0)
    places = rng.random((2000, 4))
    times = rng.gamma(4, 0.25, 1000)
    found = batched_sojourns(
        arrivals, places, np.stack([0 * times, times]), wait_s=0, replicas=replicas
    )
    service = times[(places * 1000).astype(int)]
    assert found == pytest.approx(sojourns(arrivals, service, replicas=replicas))


def test_bulk_service_agrees_with_its_embedded_chain() -> None:
    """Mean waiting number at departures of M/D^(1,b)/1, from its Markov chain.

    N' = max(N - b, 0) + A for N > 0 and A for N = 0, where one request starts alone (N. T. J.
    Bailey, "On queueing processes with bulk service", 1954, with service at once).
    """
    b, rate, states = 4, 3.0, 200
    poisson = [math.exp(-rate) * rate**k / math.factorial(k) for k in range(60)]
    step = np.zeros((states, states))
    for number in range(states):
        for k, p in enumerate(poisson):
            step[number, min(max(number - b, 0) + k, states - 1)] += p
    chain = np.full(states, 1 / states)
    for _ in range(400):
        chain = chain @ step
    rng = np.random.default_rng(2)
    arrivals = np.cumsum(rng.exponential(1 / rate, (6000, 40)), axis=0)
    times = batched_sojourns(arrivals, rng.random((6000, 40)), table(1, 1, 1, 1), wait_s=0)
    done = arrivals + times
    waiting = []
    for lane in range(40):
        ends = np.unique(np.round(done[:, lane], 9))[500:-50]
        came = np.searchsorted(arrivals[:, lane], ends, side="right")
        left = np.searchsorted(np.sort(done[:, lane]), ends + 1e-8, side="right")
        waiting.append((came - left).mean())
    assert np.mean(waiting) == pytest.approx(chain @ np.arange(states), rel=0.03)


def test_a_lone_request_waits_its_whole_wait() -> None:
    """Nobody joins it: the wait, then its own time; a full batch goes at once."""
    alone = batched_sojourns(
        np.array([[0.0], [10.0]]), np.zeros((2, 1)), table(1, 1.5), wait_s=0.25
    )
    assert alone[:, 0].tolist() == [1.25, 1.25]
    full = batched_sojourns(np.array([[0.0], [0.1]]), np.zeros((2, 1)), table(1, 1.5), wait_s=0.25)
    assert full[:, 0] == pytest.approx([1.6, 1.5])


def event_driven(
    arrivals: list[float], times: list[float], k: int, wait: float, bound: int
) -> list[float]:
    """Explicit queues, timers and departures in one heap; ``times`` by batch size."""
    most = len(times) - 1
    waiting: list[deque[int]] = [deque() for _ in range(k)]
    busy: list[list[int]] = [[] for _ in range(k)]
    turn = list(range(k))
    out = [math.inf] * len(arrivals)
    events: list[tuple[float, int, int]] = [(at, 2, i) for i, at in enumerate(arrivals)]
    heapq.heapify(events)

    def try_start(r: int, now: float) -> None:
        if busy[r] or not waiting[r]:
            return
        if len(waiting[r]) >= most or now >= arrivals[waiting[r][0]] + wait - 1e-12:
            busy[r] = [waiting[r].popleft() for _ in range(min(most, len(waiting[r])))]
            heapq.heappush(events, (now + times[len(busy[r])], 0, r))

    while events:
        now, kind, i = heapq.heappop(events)
        if kind == 0:
            for request in busy[i]:
                out[request] = now - arrivals[request]
            busy[i] = []
            try_start(i, now)
        elif kind == 1:
            try_start(i, now)
        else:
            loads = [len(waiting[r]) + len(busy[r]) for r in range(k)]
            chosen = next(r for r in turn if loads[r] == min(loads))
            turn.remove(chosen)
            turn.append(chosen)
            if loads[chosen] < bound:
                waiting[chosen].append(i)
                heapq.heappush(events, (now + wait, 1, chosen))
                try_start(chosen, now)
    return out


@pytest.mark.parametrize(("replicas", "most"), [(1, 4), (2, 3), (3, 8)])
@pytest.mark.parametrize("wait", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("bound", [7, 10_000])
def test_every_request_agrees_with_an_event_driven_simulator(
    replicas: int, most: int, wait: float, bound: int
) -> None:
    """Same arrivals, constant times of each batch size; also which requests are refused."""
    rng = np.random.default_rng(3)
    times = [0.0, *(0.7 + 0.15 * n for n in range(1, most + 1))]
    rate = 0.8 * replicas * most / times[-1]
    arrivals = np.cumsum(rng.exponential(1 / rate, (1500, 1)), axis=0)
    expected = event_driven(arrivals[:, 0].tolist(), times, replicas, wait, bound)
    found = batched_sojourns(
        arrivals,
        rng.random((1500, 1)),
        np.array(times)[:, None],
        wait_s=wait,
        replicas=replicas,
        bound=bound,
    )
    assert found[:, 0] == pytest.approx(expected)
    assert np.isinf(found).any() == (bound == 7 and math.inf in expected)


def at_batch(profile: Build, batch: int, mean_ms: float, request_ms: float = 0.5) -> Any:
    times = np.repeat([0.9 * mean_ms, mean_ms, 1.1 * mean_ms], 200) / 1e3
    return profile(
        service=Histogram.of(times),
        batch=batch,
        capacity_rps=1e3 / (mean_ms + request_ms),
        overhead_ms=0.8,
    )


def test_between_measured_batches_a_line_is_taken(profile: Build) -> None:
    """Measured batches come back, those between lie on the line, and requests add their own."""
    law = BatchLaw.of([at_batch(profile, batch, 2 + batch) for batch in (8, 1, 4)])
    assert (law.rows, law.most) == (1, 8)
    means = 1e3 * law.table(8).mean(axis=1)
    assert means[0] == 0
    for n in range(1, 9):
        assert means[n] == pytest.approx(2 + n + 0.5 * n, rel=0.01)
    assert law.residual < 0.01
    assert 1e3 * law.beyond_s == pytest.approx(0.3, abs=0.05)


def test_the_residual_is_what_leaving_one_out_shows(profile: Build) -> None:
    """A step between batches is no line: its size is the error; two batches test nothing."""
    law = BatchLaw.of([at_batch(profile, batch, ms) for batch, ms in ((1, 3), (4, 12), (7, 9))])
    assert law.residual == pytest.approx(0.5, abs=0.01)
    two = BatchLaw.of([at_batch(profile, batch, 3) for batch in (1, 4)])
    assert two.residual == PRIOR_RESIDUAL


def test_a_law_is_not_stretched(profile: Build) -> None:
    """Beyond what was measured, from one batch, or from unlike deployments: what to do."""
    one, four = at_batch(profile, 1, 3), at_batch(profile, 4, 6)
    with pytest.raises(BadInput, match="measure batch 5"):
        BatchLaw.of([one, four]).table(5)
    with pytest.raises(BadInput, match="needs two batch sizes"):
        BatchLaw.of([one])
    with pytest.raises(BadInput, match="differ in their batch alone"):
        BatchLaw.of([one, four.model_copy(update={"threads": 2})])
