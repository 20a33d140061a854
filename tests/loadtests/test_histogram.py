"""Histograms keep their digits and merge exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.histogram import Histogram

SECONDS = st.lists(st.floats(1e-6, 100), min_size=1, max_size=60)


@given(SECONDS, SECONDS, SECONDS)
@settings(max_examples=30, deadline=None)
def test_merging_is_exact_and_associative(a: list[float], b: list[float], c: list[float]) -> None:
    """Merged histograms equal the histogram of all samples, in any grouping."""
    ha, hb, hc = Histogram.of(a), Histogram.of(b), Histogram.of(c)
    whole = Histogram.of([*a, *b, *c])
    for merged in (
        Histogram.merge([Histogram.merge([ha, hb]), hc]),
        Histogram.merge([ha, Histogram.merge([hb, hc])]),
    ):
        assert merged.count == whole.count
        for x, y in zip(merged.values(), whole.values(), strict=True):
            np.testing.assert_array_equal(x, y)


@given(SECONDS, st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
@settings(max_examples=50, deadline=None)
def test_quantiles_keep_three_digits(samples: list[float], q: float) -> None:
    """A quantile is within 0.1 % (or the unit of 100 ns) of the sample at that rank."""
    rank = max(1, math.ceil(q * len(samples)))
    exact = sorted(samples)[rank - 1]
    assert Histogram.of(samples).quantile_s(q) == pytest.approx(exact, rel=1.1e-3, abs=2e-7)


def test_counting_above_a_limit() -> None:
    """Samples beyond the limit are counted, and the mean is that of the samples."""
    histogram = Histogram.of([0.001] * 90 + [0.1] * 10)
    assert histogram.count_above(0.05) == 10
    assert histogram.mean_s() == pytest.approx(0.0109, rel=1e-3)


def test_an_empty_histogram_has_no_quantiles() -> None:
    """No samples give nan, not zero."""
    empty = Histogram.of([])
    assert empty.count == 0
    assert math.isnan(empty.quantile_s(0.5))
    assert math.isnan(empty.mean_s())


def test_it_survives_json() -> None:
    """Written and read back it is the same record."""
    histogram = Histogram.of([0.001, 0.002, 1.5])
    assert Histogram.model_validate_json(histogram.model_dump_json()) == histogram
