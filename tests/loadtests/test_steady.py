"""Warm-up detection: planted transients are found, and none is found where none is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.slo_calibration import simulated
from loadtests.steady import FEWEST, steady_from


def noise(n: int, seed: int) -> np.ndarray:
    """Latencies around 10 ms that know nothing of each other."""
    return 0.01 * np.random.default_rng(seed).lognormal(0, 0.3, n)


@pytest.mark.parametrize("n", [500, 1000, 5000])
@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_a_step_is_found_where_it_is(n: int, factor: float) -> None:
    """150 slow (or fast) requests at the start are left out, and hardly one more."""
    for seed in range(10):
        values = noise(n, seed)
        values[:150] *= factor
        found = steady_from(values)
        assert found.steady
        assert 145 <= found.index <= 150 + max(30, n // 20)
        assert found.method == "mser-5"


def test_a_decay_is_cut_when_it_has_decayed() -> None:
    """A start five times too slow, fading over 50 requests, is cut between 2 and 6 of those."""
    for seed in range(20):
        values = noise(2000, seed) * (1 + 4 * np.exp(-np.arange(2000) / 50))
        found = steady_from(values)
        assert found.steady
        assert 100 <= found.index <= 300


def test_noise_has_no_warm_up() -> None:
    """Nothing is left out of independent latencies, in 95 of 100 sequences at least."""
    found = [steady_from(noise(1000, seed)) for seed in range(100)]
    assert sum(one.index == 0 for one in found) >= 95
    assert all(one.steady for one in found)


@pytest.mark.parametrize("law", ["gamma, cv 0.3", "exponential"])
def test_a_stationary_queue_has_no_warm_up(law: str) -> None:
    """Queues at utilisation .8 that are already steady stay whole: a burst is no warm-up."""
    found = [steady_from(run.latency_s) for run in simulated(law, 60, 5000, 5)]
    assert sum(one.index == 0 for one in found) >= 54
    assert sum(one.steady for one in found) >= 57


def test_a_stall_at_the_start_is_no_warm_up() -> None:
    """One request of a whole second among those of 10 ms does not move the start behind it."""
    values = noise(1000, 1)
    values[40] = 1.0
    assert steady_from(values).index == 0


@pytest.mark.parametrize("shape", ["trend", "late step"])
def test_what_never_settles_is_not_steady(shape: str) -> None:
    """A latency that grows all along, or changes late, is reported as not steady."""
    level = np.linspace(1, 3, 2000) if shape == "trend" else np.where(np.arange(2000) < 1400, 3, 1)
    found = [steady_from(noise(2000, seed) * level) for seed in range(20)]
    assert sum(not one.steady for one in found) >= 19
    assert all(one.index <= 1000 for one in found)


@given(st.lists(st.floats(0, 100), min_size=0, max_size=400))
def test_at_most_half_is_left_out(values: list[float]) -> None:
    """Whatever the values, half of them or more remain."""
    assert steady_from(np.array(values)).index <= len(values) / 2


def test_constant_values_are_steady() -> None:
    """Where nothing varies there is nothing to leave out."""
    found = steady_from(np.full(1000, 0.01))
    assert (found.index, found.steady) == (0, True)


def test_too_few_values_say_so() -> None:
    """Below a hundred values nothing is detected, and nothing is claimed."""
    found = steady_from(noise(FEWEST - 1, 0))
    assert not found.steady
    assert "100 are needed" in found.reason


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_values_that_are_no_latencies_are_refused(value: float) -> None:
    """Failures have no latency and must be left out by the caller."""
    with pytest.raises(ValueError, match="finite"):
        steady_from(np.append(noise(200, 0), value))
