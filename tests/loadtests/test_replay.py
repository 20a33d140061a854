"""Replays: calibrated on queues whose truth is known, and refused where they do not apply."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.slo_calibration import (
    RATE_RPS,
    Case,
    Run,
    least_undecided,
    simulated,
    true_quantile_s,
    true_share,
    verdicts,
    wrong,
)
from loadtests.objective import Slo, Verdict
from loadtests.replay import Evidence, Replay, long_run
from loadtests.slo import judge_slo

GAMMA = "gamma, cv 0.3"


def replay_of(run: Run) -> Replay:
    return Replay(due_s=run.due_s, service_s=run.service_s, rate_rps=RATE_RPS)


def queued(gaps: np.ndarray, service: np.ndarray) -> Run:
    """One run through a single server, step by step."""
    wait, latency = 0.0, np.empty(len(gaps))
    for i, (gap, time) in enumerate(zip(gaps.tolist(), service.tolist(), strict=True)):
        wait = max(0.0, wait - gap)
        wait += time
        latency[i] = wait
    return Run(np.cumsum(gaps), service, latency)


def evidence(run: Run, limit_s: float, latency_s: np.ndarray | None = None) -> Evidence:
    """What a replay says, where it must say something."""
    latencies = run.latency_s if latency_s is None else latency_s
    found = long_run(latencies, limit_s, 0.99, replay_of(run))
    assert isinstance(found, Evidence)
    return found


@pytest.mark.parametrize("law", [GAMMA, "exponential"])
def test_the_truth_that_is_calibrated_against_is_true(law: str) -> None:
    """The inverted transform agrees with three million requests, simulated step by step."""
    latencies = np.concatenate([run.latency_s for run in simulated(law, 150, 20_000, 1)])
    assert np.quantile(latencies, 0.99) == pytest.approx(true_quantile_s(law), rel=0.04)
    assert true_share("exponential", 0.1) == pytest.approx(np.exp(-20 * 0.1), rel=1e-6)


@pytest.mark.parametrize("law", ["constant", GAMMA, "bimodal, cv 0.5"])
def test_verdicts_are_calibrated(law: str) -> None:
    """At 20,000 requests, p99 10 % off the limit: never wrong, at most a tenth undecided."""
    found = verdicts(Case(law, "replayed", 0.99, 20_000), 15, seed=21)
    for place in ("below", "above"):
        assert wrong(place, found[place]) == 0
        assert found[place]["undecided"] <= 0.1
    assert wrong("on", found["on"]) <= 0.1


def test_the_hardest_queue_is_judged_as_well_as_can_be() -> None:
    """M/M/1: no more undecided than the best possible test leaves, and not wrong instead."""
    places = {"below": 0.9, "above": 1.1}
    found = verdicts(Case("exponential", "replayed", 0.9, 20_000), 60, 22, tuple(places))
    for place, ratio in places.items():
        least = least_undecided("exponential", true_quantile_s("exponential") / ratio, 0.9, 20_000)
        assert 0.07 < least < 0.09
        assert found[place]["undecided"] <= least + 3 * np.sqrt(least / 60)
        assert wrong(place, found[place]) == 0


@pytest.mark.parametrize("law", [GAMMA, "exponential"])
def test_scores_are_normal_where_the_objective_is_just_met(law: str) -> None:
    """On the limit, over 100 runs, the score has mean 0 and deviation 1."""
    truth = true_quantile_s(law)
    scores = [evidence(run, truth).score for run in simulated(law, 100, 5000, 4)]
    assert np.mean(scores) == pytest.approx(0, abs=0.35)
    assert np.std(scores) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("utilisation", [0.05, 0.5, 0.9])
def test_scores_are_normal_at_other_loads(utilisation: float) -> None:
    """M/M/1 on its closed-form limit, from hardly a queue to hardly anything else."""
    rate = 100 * utilisation
    scores = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        run = queued(draw.exponential(1 / rate, 10_000), draw.exponential(0.01, 10_000))
        replay = Replay(due_s=run.due_s, service_s=run.service_s, rate_rps=rate)
        found = long_run(run.latency_s, np.log(100) / (100 - rate), 0.99, replay)
        if isinstance(found, Evidence):
            scores.append(found.score)
    assert len(scores) >= 57
    assert np.mean(scores) == pytest.approx(0, abs=0.35)
    assert np.std(scores) == pytest.approx(1, abs=0.25)


def test_a_replay_takes_luck_with_the_schedule_out() -> None:
    """Over runs, share and quantile are unbiased, and scatter less than half as much."""
    truth = true_quantile_s(GAMMA)
    runs = simulated(GAMMA, 30, 20_000, 4)
    found = [evidence(run, truth) for run in runs]
    plain = [np.mean(run.latency_s > truth) for run in runs]
    assert np.mean([one.share for one in found]) == pytest.approx(0.01, rel=0.04)
    assert np.std([one.share for one in found]) < 0.3 * np.std(plain)
    quantiles = [one.quantile_s for one in found]
    assert np.mean(quantiles) == pytest.approx(truth, rel=0.01)
    assert np.std(quantiles) / truth == pytest.approx(found[0].quantile_error, rel=0.4)


def test_what_is_not_service_is_added() -> None:
    """A millisecond on the way, and some jitter, move the quantile by as much."""
    run = simulated(GAMMA, 1, 20_000, 5)[0]
    jitter = 0.001 * np.random.default_rng(1).lognormal(0, 0.3, 20_000)
    moved = evidence(run, 0.124, run.latency_s + jitter).quantile_s
    assert moved - evidence(run, 0.124).quantile_s == pytest.approx(0.001, abs=3e-4)


def test_a_replay_counts_what_it_cannot_explain() -> None:
    """Late requests that no queue made (a stalled network, say) still count as late."""
    run = simulated(GAMMA, 1, 20_000, 5)[0]
    late = run.latency_s.copy()
    late[::50] += 1.0
    limit = 2 * true_quantile_s(GAMMA)
    assert evidence(run, limit, late).share == pytest.approx(0.02, rel=0.1)
    slo = Slo(quantile=0.99, limit_ms=1e3 * limit)
    assert judge_slo(run.latency_s, slo, replay=replay_of(run)).verdict == Verdict.HOLDS
    assert judge_slo(late, slo, replay=replay_of(run)).verdict == Verdict.FAILS


def test_failed_requests_count_in_a_replay() -> None:
    """Those without an answer have no service time, and are late whatever the queue."""
    run = simulated(GAMMA, 1, 20_000, 6)[0]
    late, service = run.latency_s.copy(), run.service_s.copy()
    late[::40], service[::40] = np.inf, np.nan
    slo = Slo(quantile=0.99, limit_ms=1000)
    judged = judge_slo(late, slo, replay=replace(replay_of(run), service_s=service))
    assert judged.replayed
    assert judged.verdict == Verdict.FAILS
    assert judged.share_over == pytest.approx(1 / 40, rel=0.05)


def test_missing_samples_shrink_with_the_score() -> None:
    """Undecided by half the score needed: three times as many requests again are missing."""
    run = simulated("exponential", 1, 20_000, 7)[0]
    truth = evidence(run, 0.23).quantile_s
    judged = judge_slo(run.latency_s, Slo(limit_ms=1060 * truth), replay=replay_of(run))
    assert judged.verdict == Verdict.UNDECIDED
    assert judged.samples_missing is not None
    score = evidence(run, 1.06 * truth).score
    assert score is not None
    expected = 20_000 * ((2.326 / score) ** 2 - 1)
    assert judged.samples_missing == pytest.approx(expected, rel=0.01)


def with_memory(correlation: float, seed: int, n: int = 20_000) -> Run:
    """Lognormal service times, cv .3, of which neighbours resemble each other."""
    draw = np.random.default_rng(seed)
    level, levels = 0.0, []
    for noise in draw.normal(0, np.sqrt(1 - correlation**2), n).tolist():
        level = correlation * level + noise
        levels.append(level)
    sigma = np.sqrt(np.log(1.09))
    return queued(draw.exponential(1 / RATE_RPS, n), 0.01 * np.exp(sigma * np.array(levels)))


def test_a_short_memory_costs_a_margin() -> None:
    """Service times that resemble their neighbours a little are replayed, with less certainty."""
    with_it = evidence(with_memory(0.3, 1), 0.2)
    without = evidence(with_memory(0.0, 1), 0.2)
    assert with_it.score is not None
    assert without.score is not None
    assert 0 < with_it.score < 0.8 * without.score
    assert with_it.quantile_s > without.quantile_s


def refusals() -> dict[str, tuple[np.ndarray, Replay]]:
    """Runs that must not be replayed, by the reason to be given."""
    run = simulated(GAMMA, 1, 20_000, 6)[0]
    base = replay_of(run)
    wait = run.latency_s - run.service_s
    slower = run.service_s * (1 + 0.2 * (wait > np.median(wait)))
    draw = np.random.default_rng(0)
    rare = np.where(draw.random(20_000) < 5e-4, 0.3, 0.0098)
    stalled = queued(draw.exponential(1 / RATE_RPS, 20_000), rare)
    long = with_memory(0.98, 3)
    first = Replay(due_s=run.due_s[:1000], service_s=run.service_s[:1000], rate_rps=RATE_RPS)
    return {
        "too few for a replay": (run.latency_s[:1000], first),
        "busy": (run.latency_s, replace(base, service_s=2 * run.service_s)),
        "one replica, not 2": (run.latency_s, replace(base, replicas=2)),
        "on the load": (run.latency_s, replace(base, service_s=0.9 * slower)),
        "on one another": (long.latency_s, replay_of(long)),
        "does not explain": (draw.permutation(run.latency_s), base),
        "neither queue nor service": (run.latency_s + 1.0, base),
        "too few of them were seen": (stalled.latency_s, replay_of(stalled)),
    }


REASONS = (
    "too few for a replay",
    "busy",
    "one replica, not 2",
    "on the load",
    "on one another",
    "does not explain",
    "neither queue nor service",
    "too few of them were seen",
)


@pytest.mark.parametrize("reason", REASONS)
def test_a_replay_that_does_not_apply_is_not_used(reason: str) -> None:
    """Where its assumptions fail the verdict falls back on batch means, and says why."""
    values, replay = refusals()[reason]
    judged = judge_slo(values, Slo(limit_ms=100), replay=replay)
    assert not judged.replayed
    assert reason in judged.reason
    assert judged.share_over == judged.over / judged.n


def test_a_replay_of_another_run_is_refused() -> None:
    """Each request has one latency, one due time and one service time."""
    replay = Replay(due_s=np.zeros(9), service_s=np.zeros(8), rate_rps=1)
    with pytest.raises(ValueError, match="9 latencies, 9 due times, 8 service times"):
        judge_slo(np.zeros(9), Slo(limit_ms=100), replay=replay)
