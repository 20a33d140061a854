"""Arrival schedules: their law, their seeds, their shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.arrivals import constant, poisson, schedule, shard

RATES = st.floats(1, 2000)
DURATIONS = st.floats(0.1, 5)


@given(RATES, DURATIONS, st.integers(0, 2**32))
def test_poisson_is_sorted_bounded_and_seeded(rate: float, duration: float, seed: int) -> None:
    """Due times lie in order within the run, and the same seed gives the same times."""
    due = poisson(rate, duration, seed)
    assert np.all(np.diff(due) >= 0)
    assert np.all((due >= 0) & (due < duration))
    np.testing.assert_array_equal(due, poisson(rate, duration, seed))


def test_poisson_gaps_are_exponential() -> None:
    """Mean and spread of the gaps are those of the exponential law, and so is its tail."""
    gaps = np.diff(poisson(1000, 100, 3))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.03)
    assert np.mean(gaps > 3e-3) == pytest.approx(np.exp(-3), rel=0.1)


def test_constant_is_evenly_spaced() -> None:
    """Ten a second for two seconds are twenty, a tenth apart, from zero."""
    due = constant(10, 2)
    assert len(due) == 20
    np.testing.assert_allclose(np.diff(due), 0.1)
    assert due[0] == 0
    np.testing.assert_array_equal(schedule("paced", 10, 2, 5), due)


@given(st.integers(0, 500), st.integers(1, 9))
def test_shards_partition_the_schedule(count: int, workers: int) -> None:
    """Every request belongs to exactly one worker."""
    due = np.arange(count, dtype=float)
    parts = [shard(due, i, workers) for i in range(workers)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))


@pytest.mark.parametrize(("rate", "duration"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_nonsense_is_refused(rate: float, duration: float) -> None:
    """A rate or a duration that is not positive has no schedule."""
    with pytest.raises(ValueError, match="positive"):
        poisson(rate, duration, 1)
    with pytest.raises(ValueError, match="worker"):
        shard(np.zeros(3), 2, 2)
