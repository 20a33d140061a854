"""The staffing law: Erlang's formulas, and what a least-connections router makes of them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.histogram import Histogram
from planner.curve import predict, predictor
from planner.records import Interval, ServiceProfile
from planner.simulate import sojourns
from planner.staffing import MANY, carried, erlang_c, may_wait, staffed

Build = Callable[..., Any]


@pytest.mark.parametrize(
    ("servers", "load", "expected"), [(1, 0.7, 0.7), (2, 1, 1 / 3), (5, 4, 0.5541), (10, 8, 0.4092)]
)
def test_erlang_c_agrees_with_its_tables(servers: int, load: float, expected: float) -> None:
    """Published values; one server waits as often as it is busy."""
    assert erlang_c(servers, load) == pytest.approx(expected, abs=5e-5)


@settings(max_examples=60, deadline=None)
@given(servers=st.integers(1, 60), share=st.floats(0.05, 0.99))
def test_erlang_c_agrees_with_its_definition(servers: int, share: float) -> None:
    """The sum over states of M/M/c, written out with exact factorials."""
    load = share * servers
    below = sum(load**k / math.factorial(k) for k in range(servers))
    last = load**servers / math.factorial(servers) / (1 - share)
    assert erlang_c(servers, load) == pytest.approx(last / (below + last), rel=1e-9)


def test_erlang_c_holds_for_thousands_of_servers() -> None:
    """No overflow: nobody waits at half load, everybody where load is no less than servers."""
    assert erlang_c(10_000, 5_000.0) < 1e-100
    assert erlang_c(10_000, 10_000.0) == 1
    assert 0.5 < erlang_c(10_000, 9_950.0) < 0.7


def central_queue(arrivals: list[float], service: list[float], servers: int) -> list[float]:
    """Waiting times of M/M/c, event by event: the independent simulator."""
    free = [0.0] * servers
    waits = []
    for now, work in zip(arrivals, service, strict=True):
        start = max(now, heapq.heappop(free))
        waits.append(start - now)
        heapq.heappush(free, start + work)
    return waits


def test_mmc_agrees_with_its_closed_form() -> None:
    """Share that waits (Erlang C), mean wait C / (c mu - lambda), in a simulated M/M/5."""
    rng = np.random.default_rng(3)
    n, servers, load = 400_000, 5, 3.5
    arrivals = np.cumsum(rng.exponential(1 / load, n)).tolist()
    waits = np.array(central_queue(arrivals, rng.exponential(1, n).tolist(), servers)[5000:])
    waiting = erlang_c(servers, load)
    assert (waits > 0).mean() == pytest.approx(waiting, rel=0.03)
    assert waits.mean() == pytest.approx(waiting / (servers - load), rel=0.06)


@settings(max_examples=80, deadline=None)
@given(load=st.floats(0.5, 5000), wait=st.floats(1e-4, 0.5))
def test_the_staffed_number_is_the_smallest(load: float, wait: float) -> None:
    """So many keep the share that waits, one fewer does not; and the inverse agrees."""
    servers = staffed(load, wait)
    assert erlang_c(servers, load) <= wait
    assert servers - 1 <= load or erlang_c(servers - 1, load) > wait
    assert carried(servers, wait) >= load * (1 - 1e-5)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_staffing_grows_with_the_square_root_of_the_load(beta: float) -> None:
    """Halfin and Whitt: R + b sqrt(R) servers let 1 / (1 + b Phi(b) / phi(b)) wait."""
    cumulative = 0.5 * (1 + math.erf(beta / math.sqrt(2)))
    density = math.exp(-(beta**2) / 2) / math.sqrt(2 * math.pi)
    wait = 1 / (1 + beta * cumulative / density)
    for load in (400.0, 6400.0):
        spread = (staffed(load, wait) - load) / math.sqrt(load)
        assert spread == pytest.approx(beta, abs=1.5 / math.sqrt(load))


@pytest.mark.parametrize(("law", "tolerance"), [("exponential", 1.0), ("constant", 1.35)])
def test_least_connections_makes_hardly_more_wait_than_erlang_says(
    law: str, tolerance: float
) -> None:
    """The law is of one central queue; our router is simulated beside it, 128 replicas."""
    rng = np.random.default_rng(5)
    replicas, shape = 128, (12_000, 8)
    service = np.ones(shape) if law == "constant" else rng.exponential(1, shape)
    load = carried(replicas, 0.02)
    arrivals = np.cumsum(rng.exponential(1 / load, shape), axis=0)
    times = sojourns(arrivals, service, replicas=replicas)[3000:]
    waits = float((times > service[3000:] + 1e-9).mean())
    assert waits < tolerance * 0.02
    # What those wait does not matter: the p99 is that of the service at p99.25 at most.
    load = carried(replicas, may_wait(0.99))
    arrivals = np.cumsum(rng.exponential(1 / load, shape), axis=0)
    times = sojourns(arrivals, service, replicas=replicas)[3000:]
    assert np.quantile(times, 0.99) <= 1.02 * np.quantile(service, 0.99 + may_wait(0.99))


@pytest.mark.usefixtures("no_own_error")
def test_many_replicas_are_predicted_by_the_law(profile: Build) -> None:
    """At 84 % of the capacity eight replicas queue, hundreds do not; a quota is not trusted."""
    exact = Interval(low=95, mid=95, high=95)
    p: ServiceProfile = profile(capacity_interval=exact, overhead_ms=0.0)
    eight, many = (predict(p, k, 0.84 * 95 * k, 0).p99_ms for k in (8, 800))
    alone = predictor(p, 0).unloaded(0.99)
    assert many.high <= 1.05 * alone < eight.mid
    fewer = predict(p, MANY - 1, 0.84 * 95 * (MANY - 1), 0).p99_ms
    assert fewer == eight
    quota = profile(
        capacity_interval=exact,
        instance=p.instance.model_copy(
            update={"name": "sim-0.5", "vcpus": 0.5, "enforcement": "quota"}
        ),
    )
    assert predictor(quota, 0).share_waiting(800, 0.5 * 95 * 800) == 1


def test_a_prediction_agrees_with_mm1(profile: Build) -> None:
    """Exponential service of 10 ms at utilisation 0.6: the sojourn's p50 and p99 are known."""
    service = -0.010 * np.log1p(-(np.arange(20_000) + 0.5) / 20_000)
    p = profile(
        service=Histogram.of(service),
        capacity_rps=100,
        capacity_interval=Interval(low=100, mid=100, high=100),
        overhead_ms=0.0,
    )
    found = predict(p, 1, 60, seed=0)
    mean = 10 / (1 - 0.6)
    assert found.p50_ms.mid == pytest.approx(mean * math.log(2), rel=0.1)
    assert found.p99_ms.mid == pytest.approx(mean * math.log(100), rel=0.15)
    assert found.p99_ms.low < mean * math.log(100) < found.p99_ms.high


def test_a_prediction_lies_above_mmc(profile: Build) -> None:
    """Four replicas at 0.6: no router is faster than one queue for all, ours nearly as fast."""
    service = -0.010 * np.log1p(-(np.arange(20_000) + 0.5) / 20_000)
    p = profile(
        service=Histogram.of(service),
        capacity_rps=100,
        capacity_interval=Interval(low=100, mid=100, high=100),
        overhead_ms=0.0,
    )
    found = predict(p, 4, 240, seed=0)
    # Sojourn of M/M/c: exponential service plus, with probability C, an exponential wait.
    rng, n = np.random.default_rng(1), 1_000_000
    wait = rng.exponential(1 / (4 - 2.4), n) * (rng.random(n) < erlang_c(4, 2.4))
    p50, p99 = np.quantile(10 * (rng.exponential(1, n) + wait), (0.5, 0.99))
    assert 0.95 * p50 < found.p50_ms.mid < 1.15 * p50
    assert 0.95 * p99 < found.p99_ms.mid < 1.25 * p99
