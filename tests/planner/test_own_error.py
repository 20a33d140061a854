"""The planner's own error: what it does to an interval, and that it is as large as was measured."""

from __future__ import annotations

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.grid_records import GRIDS, whole_grid
from benchmarks.grid_replay import predictions
from planner.own_error import ALONE, SHARED, widened
from planner.surface import Range

MS = st.floats(0.01, 1e5)
QUANTILES = st.sampled_from((0.5, 0.9, 0.95, 0.99, 0.999))


def ranges(a: float, b: float, c: float) -> Range:
    return Range(*sorted((a, b, c)))


@given(MS, MS, MS, QUANTILES, st.booleans())
def test_an_interval_only_gets_wider(
    a: float, b: float, c: float, quantile: float, shared: bool
) -> None:
    """Around the same middle, and replicas that share a core are known less well."""
    found = ranges(a, b, c)
    wide = widened(found, quantile, shared=shared)
    assert wide.mid == found.mid
    assert wide.low <= found.low * (1 + 1e-9)
    assert wide.high >= found.high * (1 - 1e-9)
    assert widened(found, quantile, shared=True).high >= wide.high


@given(MS, MS, MS, st.floats(1, 3), st.floats(1, 3), QUANTILES, st.booleans())
def test_what_is_slower_stays_slower(
    a: float, b: float, c: float, up: float, more: float, quantile: float, shared: bool
) -> None:
    """Where every part of one interval is at least another's, so it is with both errors."""
    found = ranges(a, b, c)
    slower = Range(found.low, found.mid * up, found.high * up * more)
    one, other = (widened(each, quantile, shared=shared) for each in (found, slower))
    assert all(y >= x * (1 - 1e-9) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize(("shared", "own"), [(False, ALONE[2]), (True, SHARED[2])])
def test_a_certain_prediction_is_as_unsure_as_the_planner(shared: bool, own: float) -> None:
    """Nine in ten of a normal law lie within 1.645 standard deviations of its logarithm."""
    wide = widened(Range(10.0, 10.0, 10.0), 0.99, shared=shared)
    assert log(wide.high / 10) / 1.645 == pytest.approx(own)
    assert wide.low == pytest.approx(10 * exp(-1.645 * own))


def test_independent_errors_add_by_their_squares() -> None:
    """Three and four make five."""
    own = 1.645 * ALONE[2]
    wide = widened(Range(1.0, 1.0, exp(own * 4 / 3)), 0.99, shared=False)
    assert log(wide.high) == pytest.approx(own * 5 / 3)


@pytest.mark.parametrize("workload", GRIDS)
def test_published_runs_lie_in_the_interval(workload: str) -> None:
    """Of runs of 12 s, whose p99 varies by a tenth anyway, most are inside; few are above."""
    found = predictions(whole_grid(workload)).values()
    runs = sum(some["runs"] for some in found)
    assert sum(some["inside"] for some in found) >= 0.7 * runs
    assert sum(some["above"] for some in found) <= 0.2 * runs
