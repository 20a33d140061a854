"""Pools of runs: how often they are wrong about a queue of which the truth is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from loadtests.objective import Slo
from loadtests.replay import Replay
from loadtests.slo import judge_slo
from planner.pooled import judged
from serving.errors import BadInput

RUNS, N, WARM_UP = 90, 20_000, 1000


@pytest.fixture(scope="module")
def queues() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs at utilisation .8 by Lindley's recursion: due, service, latency, each [runs, n]."""
    draw = np.random.default_rng(5)
    gaps = draw.exponential(1 / 80, (WARM_UP + N, RUNS))
    service = draw.uniform(0.005, 0.015, gaps.shape)
    wait, latency = np.zeros(RUNS), np.empty_like(gaps)
    for i, (gap, busy) in enumerate(zip(gaps, service, strict=True)):
        wait = np.maximum(wait - gap, 0.0)
        wait += busy
        latency[i] = wait
    due, busy, late = (
        np.ascontiguousarray(x[WARM_UP:].T) for x in (np.cumsum(gaps, axis=0), service, latency)
    )
    return due, busy, late


def test_a_pool_is_rarely_wrong_about_queues(
    queues: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Thirty pools of three: on the limit hardly one is decided, at twice the p99 all hold."""
    _, _, latency = queues
    truth_ms = 1e3 * float(np.quantile(latency, 0.99))
    found: dict[float, Counter[str]] = {1.0: Counter(), 2.0: Counter()}
    for times, counted in found.items():
        slo = Slo(limit_ms=times * truth_ms)
        verdicts = [judge_slo(run, slo) for run in latency]
        for i in range(0, RUNS, 3):
            counted[judged([], verdicts[i : i + 3], slo, 0.99).verdict] += 1
    assert found[1.0]["undecided"] >= 28
    assert found[2.0]["holds"] == 30


def test_a_replay_is_not_pooled(queues: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """It is decided by a score, which number and share do not tell."""
    due, service, latency = queues
    slo = Slo(limit_ms=1e3 * float(np.quantile(latency, 0.99)))
    replay = Replay(due_s=due[0], service_s=service[0], rate_rps=80)
    verdict = judge_slo(latency[0], slo, replay=replay)
    assert verdict.replayed
    with pytest.raises(BadInput, match="judge the run by its latencies"):
        judged([], [verdict], slo, 0.99)
