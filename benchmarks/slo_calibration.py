"""How often the SLO verdict is wrong, or undecided, where the truth is known.

Simulated single-server queues at utilisation .8, whose latencies are strongly correlated;
the limit lies where the true p99 is 10 % below it, 10 % above it, or on it (where any
verdict is wrong, and 1 - confidence on each side is what the rule promises). Three rules
are judged on the same runs:

- independent: the binomial rule as it stands, as if requests did not queue together;
- batch_means: n deflated by the correlation that the run itself shows;
- replayed: the same, after luck with the arrival schedule has been taken out.

The queue is Lindley's recursion, step by step; the product uses its closed form.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtests.objective import Slo, Verdict
from loadtests.replay import Replay
from loadtests.slo import decide, judge_slo

RATE_RPS = 80.0
SERVICE_S = 0.010
QUANTILE = 0.99
CONFIDENCE = 0.99
RUNS = 200
WARM_UP = 3000
# Coefficient of variation of the service time, gamma distributed; 1 is M/M/1.
QUEUES = {"cv 0.3": 0.3, "M/M/1": 1.0}
TRUTHS = {"below": 0.9, "on": 1.0, "above": 1.1}
SIZES = {
    "independent": (20_000,),
    "batch_means": (20_000, 400_000),
    "replayed": (5_000, 20_000, 60_000),
}


@dataclass(frozen=True)
class Run:
    """One simulated measurement; arrays of shape [n]."""

    due_s: np.ndarray
    service_s: np.ndarray
    latency_s: np.ndarray


def simulated(cv: float, runs: int, n: int, seed: int) -> list[Run]:
    """Independent stationary runs of ``n`` requests each."""
    draw = np.random.default_rng([seed, n, round(100 * cv)])
    gaps = draw.exponential(1 / RATE_RPS, (WARM_UP + n, runs))
    service = draw.gamma(cv**-2, SERVICE_S * cv**2, gaps.shape)
    wait, latency = np.zeros(runs), np.empty_like(gaps)
    for i in range(WARM_UP + n):
        latency[i] = wait + service[i]
        if i + 1 < WARM_UP + n:
            wait = np.maximum(latency[i] - gaps[i + 1], 0.0)
    due = np.cumsum(gaps, axis=0)
    columns = (np.ascontiguousarray(x[WARM_UP:].T) for x in (due, service, latency))
    return [Run(*run) for run in zip(*columns, strict=True)]


def true_quantile_s(cv: float, requests: int = 60_000_000, seed: int = 99) -> float:
    """The long-run quantile, from ``requests`` simulated ones in independent lanes.

    Its standard error is below half a percent; M/M/1 has the closed form
    -ln(1 - q) / (mu - lambda).
    """
    if cv == 1.0:
        return float(-np.log(1 - QUANTILE) / (1 / SERVICE_S - RATE_RPS))
    parts, lanes, n = [], 500, 20_000
    for part in range(max(1, requests // (lanes * n))):
        runs = simulated(cv, lanes, n, seed + part)
        parts.append(np.quantile(np.concatenate([run.latency_s for run in runs]), QUANTILE))
    return float(np.mean(parts))


def judged(run: Run, limit_s: float, rule: str, seed: int) -> Verdict:
    """The verdict of one rule on one run."""
    if rule == "independent":
        share = float(np.mean(run.latency_s > limit_s))
        return decide(len(run.latency_s), share, QUANTILE, CONFIDENCE)
    slo = Slo(quantile=QUANTILE, limit_ms=1e3 * limit_s)
    replay = Replay(due_s=run.due_s, service_s=run.service_s, rate_rps=RATE_RPS)
    given = replay if rule == "replayed" else None
    return judge_slo(run.latency_s, slo, CONFIDENCE, replay=given, seed=seed).verdict


def in_parts(cv: float, runs: int, n: int, seed: int) -> Iterator[Run]:
    """As :func:`simulated`, in parts that fit into memory."""
    each = max(1, min(runs, 4_000_000 // n))
    for part in range(0, runs, each):
        yield from simulated(cv, min(each, runs - part), n, seed + part)


def rates(
    cv: float, truth_s: float, rule: str, n: int, runs: int, seed: int
) -> dict[str, dict[str, float]]:
    """By place of the true quantile: how often the rule was wrong, and undecided."""
    counts: dict[str, Counter[Verdict]] = {place: Counter() for place in TRUTHS}
    for number, run in enumerate(in_parts(cv, runs, n, seed)):
        for place, ratio in TRUTHS.items():
            counts[place][judged(run, truth_s / ratio, rule, seed + number)] += 1
    right = {"below": Verdict.HOLDS, "above": Verdict.FAILS, "on": Verdict.UNDECIDED}
    result = {}
    for place, seen in counts.items():
        undecided = seen[Verdict.UNDECIDED]
        wrong = runs - undecided - (seen[right[place]] if place != "on" else 0)
        result[place] = {"wrong": wrong / runs, "undecided": undecided / runs}
    return result


def slo_calibration(runs: int = RUNS, seed: int = 7) -> dict[str, Any]:
    """Shares of wrong and undecided verdicts by queue, rule, n and place; seeded."""
    result: dict[str, Any] = {
        "utilisation": RATE_RPS * SERVICE_S,
        "quantile": QUANTILE,
        "confidence": CONFIDENCE,
        "runs": runs,
        "queues": {},
    }
    for name, cv in QUEUES.items():
        truth = true_quantile_s(cv)
        result["queues"][name] = {
            "true_quantile_ms": 1e3 * truth,
            **{
                rule: {str(n): rates(cv, truth, rule, n, runs, seed) for n in sizes}
                for rule, sizes in SIZES.items()
            },
        }
    return result


if __name__ == "__main__":
    print(json.dumps(slo_calibration(), indent=1))
