"""SLO verdicts: the published table, the binomial law, and queues whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from benchmarks.slo_calibration import Case, simulated, verdicts, wrong
from loadtests.batch_means import FEWEST, inflation, variance_of_mean
from loadtests.objective import Slo, Verdict
from loadtests.slo import backlog_grows, decide, judge_slo, required_n

P99 = Slo(quantile=0.99, limit_ms=100)


def latencies(n: int, over: int, seed: int = 0) -> np.ndarray:
    """Independent latencies, ``over`` of them beyond 100 ms."""
    values = np.concatenate([np.full(over, 0.2), np.full(n - over, 0.05)])
    return np.random.default_rng(seed).permutation(values)


@pytest.mark.parametrize(
    ("quantile", "table"),
    [
        (0.99, {0: 459, 1: 662, 2: 838, 5: 1307, 10: 2010, 20: 3304, 50: 6898}),
        (0.95, {0: 90, 1: 130, 2: 165, 5: 259, 10: 398, 20: 656, 50: 1372}),
    ],
)
def test_the_published_table_is_reproduced(quantile: float, table: dict[int, int]) -> None:
    """Required n by number of late requests is that of MLPerf's early stopping."""
    assert {over: required_n(over, quantile) for over in table} == table


def test_an_error_budget_counts_what_was_never_answered() -> None:
    """However late an answer is, it is one; an infinite latency is none."""
    budget = Slo.answered(0.01)
    assert str(budget) == "at most 1 % fail"
    late = np.full(4000, 50.0)
    assert judge_slo(late, budget).verdict == Verdict.HOLDS
    failed = late.copy()
    failed[::40] = np.inf
    verdict = judge_slo(failed, budget)
    assert (verdict.verdict, verdict.over) == (Verdict.FAILS, 100)


@given(st.integers(1, 3000), st.floats(0, 0.1), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_rule_is_the_binomial_law(n: int, share: float, quantile: float) -> None:
    """At whole numbers both sides of the rule are tails of the binomial distribution."""
    over = round(share * n)
    law = binom(n, 1 - quantile)
    verdict = decide(n, over / n, quantile, 0.99)
    holds, fails = law.cdf(over) <= 0.01, law.sf(over - 1) <= 0.01
    assert verdict == (Verdict.HOLDS if holds else Verdict.FAILS if fails else Verdict.UNDECIDED)


@pytest.mark.parametrize(
    ("n", "over", "verdict"),
    [
        (3000, 3, Verdict.HOLDS),
        (3000, 90, Verdict.FAILS),
        (3000, 25, Verdict.UNDECIDED),
        (300, 0, Verdict.UNDECIDED),
        (30, 30, Verdict.UNDECIDED),
    ],
)
def test_independent_requests_are_judged_by_their_count(
    n: int, over: int, verdict: Verdict
) -> None:
    """Few late ones hold, many fail, some, or too few requests, decide nothing."""
    judged = judge_slo(latencies(n, over), P99)
    assert judged.verdict == verdict
    assert (judged.n, judged.over) == (n, over)
    assert (judged.samples_missing is None) == (verdict != Verdict.UNDECIDED)
    assert judged.effective_n <= n


def test_failed_requests_are_over_any_limit() -> None:
    """A request that failed or was never sent counts against the objective."""
    values = np.full(3000, 0.05)
    assert judge_slo(values, P99).verdict == Verdict.HOLDS
    values[::20] = np.inf
    judged = judge_slo(values, P99)
    assert judged.verdict == Verdict.FAILS
    assert judged.over == 150


@pytest.mark.parametrize(("n", "over"), [(300, 0), (1500, 8), (2000, 13), (2000, 32), (10, 0)])
def test_the_missing_samples_decide(n: int, over: int) -> None:
    """Adding what is said to be missing decides within four rounds and thrice the estimate."""
    judged = judge_slo(latencies(n, over), P99)
    assert judged.samples_missing is not None
    estimate = n + judged.samples_missing
    assert judge_slo(latencies(estimate // 2, over * estimate // n // 2), P99).verdict == (
        Verdict.UNDECIDED
    )
    rounds, total = 0, n
    while judged.samples_missing:
        rounds, total = rounds + 1, total + judged.samples_missing
        judged = judge_slo(latencies(total, round(over * total / n), rounds), P99)
    assert judged.verdict == (Verdict.FAILS if over / n > 0.01 else Verdict.HOLDS)
    assert rounds <= 4
    assert total < 3 * estimate


def test_at_the_limit_no_number_of_samples_is_enough() -> None:
    """Exactly one late request in a hundred is never decided, and says so."""
    judged = judge_slo(latencies(20_000, 200), P99)
    assert judged.verdict == Verdict.UNDECIDED
    assert judged.samples_missing is None
    assert "too near the limit" in judged.reason


def test_requests_that_share_their_fate_count_as_fewer() -> None:
    """Each latency seen twenty times over says no more than once, and decides nothing."""
    independent = latencies(1000, 4)
    assert judge_slo(latencies(20_000, 80), P99).verdict == Verdict.HOLDS
    judged = judge_slo(np.repeat(independent, 20), P99)
    assert judged.verdict == Verdict.UNDECIDED
    assert judged.effective_n < 1500


def test_batch_means_know_an_autoregressive_process() -> None:
    """Variance of the mean of AR(1) is (1 + r) / (1 - r) times that of independent values."""
    draw = np.random.default_rng(8)
    for r in (0.0, 0.5, 0.9):
        found = []
        for _ in range(60):
            noise = draw.normal(0, np.sqrt(1 - r * r), 20_000)
            values = np.empty_like(noise)
            values[0] = draw.normal()
            for i in range(1, len(noise)):
                values[i] = r * values[i - 1] + noise[i]
            found.append(variance_of_mean(values) * len(values))
        # The correction for leftover correlation never goes below 1, hence the upward room.
        ratio = np.mean(found) / ((1 + r) / (1 - r))
        assert 0.95 < ratio < 1.35


def test_batch_means_of_the_simple_cases() -> None:
    """Constant values vary by nothing, too few cannot be judged, one-sided shares count as 1."""
    assert variance_of_mean(np.full(100, 3.0)) == 0
    with pytest.raises(ValueError, match="too few"):
        variance_of_mean(np.zeros(19))
    assert inflation(np.zeros(FEWEST, dtype=bool)) == inflation(np.ones(FEWEST, dtype=bool)) == 1


def overloaded(utilisation: float, n: int, seed: int) -> np.ndarray:
    """Latencies of a queue with Poisson arrivals and 10 ms of service, step by step."""
    draw = np.random.default_rng(seed)
    gaps = draw.exponential(0.01 / utilisation, n)
    found, wait = np.empty(n), 0.0
    for i in range(n):
        found[i] = wait + 0.01
        wait = max(0.0, found[i] - gaps[i])
    return found


@pytest.mark.parametrize("utilisation", [1.3, 2.0])
def test_a_growing_backlog_fails(utilisation: float) -> None:
    """A queue that only grows fails even while hardly a request is beyond the limit yet."""
    values = overloaded(utilisation, 2000, 3)
    slack = Slo(quantile=0.99, limit_ms=1e3 * values.max())
    judged = judge_slo(values, slack)
    assert judged.over == 0
    assert judged.backlog_growing
    assert judged.verdict == Verdict.FAILS


@pytest.mark.parametrize("law", ["gamma, cv 0.3", "exponential"])
def test_a_stable_queue_does_not_seem_to_grow(law: str) -> None:
    """None of 300 short runs at utilisation .8 is taken for an overload."""
    assert not any(backlog_grows(run.latency_s) for run in simulated(law, 300, 1000, 2))


def test_a_slowing_host_is_no_backlog() -> None:
    """Paced requests on a host that slows down by half all along wait for nobody."""
    steady = 0.01 * np.random.default_rng(1).lognormal(0, 0.02, 3000)
    assert not backlog_grows(steady * np.linspace(1, 1.5, 3000))


def test_nonsense_is_refused() -> None:
    """A latency is a number from 0."""
    for value in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="latencies"):
            judge_slo(np.array([0.1, value]), P99)


def test_no_requests_prove_nothing() -> None:
    """Without a request the verdict is undecided, and the first verdict's worth is missing."""
    judged = judge_slo(np.empty(0), P99)
    assert judged.verdict == Verdict.UNDECIDED
    assert judged.samples_missing == 459


def test_failures_beyond_the_quantile_leave_it_unknown() -> None:
    """With one request in fifty failed, the p99 is that of a failure: none."""
    values = np.full(3000, 0.05)
    assert judge_slo(values, P99).quantile_ms == pytest.approx(50)
    values[::50] = np.inf
    judged = judge_slo(values, P99)
    assert (judged.quantile_ms, judged.quantile_error) == (None, None)


def test_the_error_of_a_quantile_is_about_right() -> None:
    """Over 100 short runs of M/M/1 at utilisation .8, the p99 scatters by about its error."""
    runs = [judge_slo(run.latency_s, P99) for run in simulated("exponential", 100, 5000, 3)]
    scatter = np.std(np.log([run.quantile_ms for run in runs if run.quantile_ms]))
    assert 0.7 < np.median([run.quantile_error for run in runs if run.quantile_error]) / scatter < 2


def test_without_a_replay_verdicts_are_rarely_wrong() -> None:
    """Batch means alone: at most 2 % wrong 10 % off the limit, where independence is not."""
    for law in ("gamma, cv 0.3", "exponential"):
        found = verdicts(Case(law, "batch_means", 0.99, 20_000), 100, seed=31)
        assert max(wrong("below", found["below"]), wrong("above", found["above"])) <= 0.02
        naive = verdicts(Case(law, "independent", 0.99, 20_000), 100, seed=31)
        assert wrong("above", naive["above"]) > 0.02
