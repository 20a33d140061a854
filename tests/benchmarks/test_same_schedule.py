"""A quantile on the schedule of its measurement, against queues whose every request is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.generator import lindley
from benchmarks.same_schedule import Window, half_width, measured_ms, predicted_ms
from planner.records import Interval, ServiceProfile

Build = Callable[..., ServiceProfile]


def window(
    seed: int, service_s: Callable[[np.random.Generator, int], np.ndarray], n: int = 3000
) -> Window:
    """A single server at 70 requests a second, request by request."""
    draw = np.random.default_rng(seed)
    due = np.cumsum(draw.exponential(1 / 70, n))
    times = lindley(due.tolist(), service_s(draw, n).tolist())
    return Window(due, np.array(times))


@pytest.mark.usefixtures("no_own_error")
def test_constant_service_is_predicted_exactly(profile: Build) -> None:
    """With nothing left to chance but the schedule, prediction and measurement are one figure."""
    seen = [window(seed, lambda _, n: np.full(n, 0.010)) for seed in (1, 2)]
    low, mid, high = predicted_ms(profile(), seen)
    truth = measured_ms(seen)
    assert mid == pytest.approx(truth, rel=2e-3)
    assert low == pytest.approx(truth, rel=2e-3)
    assert high == pytest.approx(truth, rel=2e-3)


def test_the_interval_covers_what_it_says(profile: Build) -> None:
    """Nine runs in ten lie within the 90 % predictive interval, give or take their chance."""
    law = np.array([6.0, 8.0, 10.0, 12.0, 14.0])
    model = profile(law.repeat(10))
    runs = [window(s, lambda d, n: d.choice(law / 1e3, n), n=1500) for s in range(40)]
    inside = 0
    for number, run in enumerate(runs):
        low, _, high = predicted_ms(model, [run], seed=number)
        inside += low <= measured_ms([run]) <= high
    assert 31 <= inside <= 40  # 36 expected; 31 or more in 98.5 % of all cases


def test_a_wrong_profile_is_found_out(profile: Build) -> None:
    """A profile that is a fifth too fast predicts too little, and its interval lies below."""
    seen = [window(3, lambda _, n: np.full(n, 0.010))]
    _, mid, high = predicted_ms(profile((8.0,), capacity_rps=125), seen)
    assert mid < 0.8 * measured_ms(seen)
    assert high < measured_ms(seen)


def test_an_uncertain_capacity_widens_the_interval(profile: Build) -> None:
    """What is not known of the capacity is in the interval."""
    seen = [window(4, lambda _, n: np.full(n, 0.010))]
    sure = predicted_ms(profile(), seen)
    unsure = predicted_ms(profile(capacity_interval=Interval(low=90, mid=100, high=110)), seen)
    assert unsure.low < sure.low
    assert unsure.high > sure.high


def test_replicas_share_the_work(profile: Build) -> None:
    """Two replicas behind the router wait less than one at the same rate."""
    seen = [window(5, lambda _, n: np.full(n, 0.010))]
    assert predicted_ms(profile(), seen, replicas=2).mid < predicted_ms(profile(), seen).mid


def test_warm_up_counts_on_neither_side(profile: Build) -> None:
    """Requests due before the run was steady are left out of both quantiles."""
    due = np.arange(1, 401) / 50.0
    latency = np.where(due < 2.0, 1.0, 0.010)
    late = Window(due, latency, from_s=2.0)
    assert measured_ms([late]) == pytest.approx(10)
    assert predicted_ms(profile(), [late]).mid == pytest.approx(10, rel=2e-3)


def test_a_longer_run_knows_its_p99_better() -> None:
    """The p99's own interval narrows with the requests; one of failures has none."""
    law = np.array([0.008, 0.012])
    some = [window(seed, lambda d, n: d.choice(law, n)) for seed in range(12)]
    assert half_width(some) < half_width(some[:1])
    failed = Window(some[0].due_s, np.full(len(some[0].due_s), np.inf))
    assert half_width([failed]) == np.inf
