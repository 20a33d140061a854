"""Intervals of quantiles, against laws whose quantiles are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.histogram import Histogram
from loadtests.quantiles import (
    QUANTILES,
    effective_n,
    fewest_n,
    interval_of,
    quantiles_in,
    quantiles_of,
    required_n,
)
from loadtests.samples import UNSENT
from loadtests.summary import LoadResult, Workers, summarise

from .answered import answered

N = 2_000


def sojourns(seed: int, n: int, busy: float) -> np.ndarray:
    """M/M/1 at service rate 1, begun in its steady state: exponential, and correlated."""
    draw = np.random.default_rng(seed)
    gaps, service = draw.exponential(1 / busy, n), draw.exponential(1.0, n)
    wait = draw.exponential(1 / (1 - busy)) if draw.random() < busy else 0.0
    found = np.empty(n)
    for i in range(n):
        found[i] = wait + service[i]
        wait = max(0.0, found[i] - gaps[i])
    return found


def covered(series: list[np.ndarray], truth: float, quantile: float) -> float:
    """Share of the series whose interval holds the truth; refused ones have infinite ones."""
    found = [
        interval_of("service", Histogram.of(values), quantile, effective_n(values, quantile))
        for values in series
    ]
    return float(
        np.mean([f.low_s is None or f.low_s <= truth <= (f.high_s or math.inf) for f in found])
    )


@pytest.mark.parametrize("quantile", QUANTILES)
def test_intervals_of_independent_values_hold_the_truth(quantile: float) -> None:
    """In at least 95 % of series, but for chance (100 of them: 2.2 % is one standard error)."""
    series = [np.random.default_rng(seed).exponential(1.0, N) for seed in range(100)]
    assert covered(series, -math.log(1 - quantile), quantile) >= 0.93


@pytest.mark.parametrize("quantile", QUANTILES)
def test_intervals_of_a_queue_hold_the_truth(quantile: float) -> None:
    """Correlation is counted: as if independent, the median's would hold it in half of them."""
    busy = 0.7
    series = [sojourns(seed, N, busy) for seed in range(100)]
    truth = -math.log(1 - quantile) / (1 - busy)
    assert covered(series, truth, quantile) >= 0.88
    if quantile == 0.5:
        as_if = [interval_of("service", Histogram.of(v), quantile, N) for v in series]
        assert np.mean([(f.low_s or 0) <= truth <= (f.high_s or 0) for f in as_if]) < 0.7


@given(st.integers(0, 800), st.sampled_from(QUANTILES))
def test_what_no_sample_bounds_is_refused(n: int, quantile: float) -> None:
    """A p99 of 20 samples is none; with as many as it says are needed it is one."""
    values = np.random.default_rng(n).exponential(0.01, n)
    found = interval_of("service", Histogram.of(values), quantile, n)
    assert (found.value_s is None) == (n < required_n(quantile))
    if found.value_s is None:
        assert found.needed == required_n(quantile)
        assert (found.low_s, found.high_s) == (None, None)
    else:
        assert found.needed is None
        assert found.low_s is not None
        assert found.high_s is not None
        assert found.low_s <= found.value_s <= found.high_s


def test_the_ranks_are_those_of_the_tables() -> None:
    """Of 100 values the median lies between the 40th and the 61st (David and Nagaraja, 7.1)."""
    values = np.arange(1, 101) * 1e-3
    found = interval_of("queue", Histogram.of(values), 0.5, 100)
    assert found.low_s == pytest.approx(0.040, rel=1e-3)
    assert found.high_s == pytest.approx(0.061, rel=2e-3)


def test_correlated_samples_need_more_of_them() -> None:
    """Where 400 samples are worth 100, a p99 takes 4 times 368."""
    found = interval_of("queue", Histogram.of(np.full(400, 0.01)), 0.99, 100)
    assert found.value_s is None
    assert found.needed == 4 * 368


def run_of(n: int, **changed: np.ndarray) -> LoadResult:
    due = np.arange(n) / 128  # binary fractions, of which sums and differences are exact
    times = {"sent_s": due + 2**-13, "queue_s": np.full(n, 0.001)}
    return summarise(answered(due, due + 2**-8, **(times | changed)), n / 128, Workers())


def test_the_fewest_samples_are_those_that_print_it() -> None:
    """Of values without correlation; that it is estimated costs a p99 31 more than 368."""
    assert [fewest_n(q) for q in QUANTILES] == [6, 72, 399]
    for q in QUANTILES:
        n = fewest_n(q)
        for count, printed in ((n - 1, False), (n, True)):
            same = np.full(count, 0.01)
            found = interval_of("queue", Histogram.of(same), q, effective_n(same, q))
            assert (found.value_s is not None) == printed


def test_a_run_has_the_quantiles_of_all_its_histograms() -> None:
    """From the samples behind each: as many as the histogram counts, failed ones in none."""
    status = np.full(600, 200)
    status[:7] = UNSENT
    status[7:10] = 503
    error = np.where(status == 503, "http_503", "").astype("<U20")
    result = run_of(600, status=status, error=error)
    found = {(one.of, one.quantile): one for one in quantiles_of(result)}
    assert len(found) == 15
    histograms = {
        "due_to_done": result.due_to_done,
        "sent_to_done": result.sent_to_done,
        "dispatch_lag": result.dispatch_lag,
        "queue": result.queue,
        "service": result.service,
    }
    for (kind, q), one in found.items():
        assert one.n == histograms[kind].count
        if kind == "service":
            assert one.value_s is None
        else:
            assert one.value_s == pytest.approx(histograms[kind].quantile_s(q))


def test_a_record_without_intervals_gets_them_from_its_histogram() -> None:
    """As if independent; what was recorded comes first, unless it is of other samples."""
    result = run_of(600)
    recorded = quantiles_of(result)
    assert quantiles_in(recorded, "queue", result.queue) == recorded[9:12]
    (_, _, p99) = quantiles_in((), "queue", result.queue)
    assert p99.effective_n == 600
    assert p99.value_s is not None
    other = Histogram.of([0.1] * 30)
    (p50, _, p99) = quantiles_in(recorded, "queue", other)
    assert (p50.n, p99.needed) == (30, 368)
