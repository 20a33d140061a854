"""``python -m benchmarks.slo_calibration``: how often SLO verdicts are wrong, or undecided.

Single-server queues at utilisation .8 are simulated, whose latencies are strongly
correlated and whose true p99 is known from its transform; the limit lies where the truth
is 10 % below it, 10 % above it, or on it. On the limit either verdict counts as wrong, and
1 - confidence for each of the two is what the rule promises. Four rules see the same runs:

- independent: the binomial rule as it stands, as if requests did not queue together;
- batch_means: n deflated by the correlation that the run itself shows, which is all that
  can be done for a server that does not tell its service times;
- block_bootstrap: circular blocks of the run resampled (Politis and Romano, 1992), which was tried
  in the place of batch means: it decides somewhat more, and breaks its promise on the limit;
- replayed: luck with the schedule taken out by means of the service times.

For the replayed rule also the share of undecided verdicts that no rule can undercut is
given: with service times known and the schedule's law known, all that is left to chance is
the mean of the influence of the service times, and a test of a normal mean that is wrong in
1 - confidence of all cases on the limit has that power (Neyman and Pearson, 1933).

Resumable: a case that was run with this very code is not run again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from loadtests.batch_means import inflation
from loadtests.objective import Slo, Verdict
from loadtests.replay import Replay
from loadtests.slo import decide, judge_slo

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "reports" / "published" / "measuring" / "slo_calibration.json"
RATE_RPS = 80.0
SERVICE_S = 0.010
QUANTILE = 0.99
RUNS = 200
SEED = 7
WARM_UP = 3000
TRUTHS = {"below": 0.9, "on": 1.0, "above": 1.1}
_TIMES, _FEWEST_BLOCKS, _RESAMPLES = 5, 20, 1000
RIGHT = {"below": Verdict.HOLDS, "on": Verdict.UNDECIDED, "above": Verdict.FAILS}


@dataclass(frozen=True)
class Law:
    """A law of service times with mean 10 ms: draws of a shape, and its Laplace transform."""

    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
    transform: Callable[[np.ndarray], np.ndarray]


LAWS = {
    "constant": Law(
        lambda _, shape: np.full(shape, SERVICE_S),
        lambda s: np.exp(-SERVICE_S * s),
    ),
    "gamma, cv 0.3": Law(
        lambda draw, shape: draw.gamma(1 / 0.09, 0.09 * SERVICE_S, shape),
        lambda s: (1 + 0.09 * SERVICE_S * s) ** (-1 / 0.09),
    ),
    "bimodal, cv 0.5": Law(
        lambda draw, shape: SERVICE_S * np.where(draw.random(shape) < 0.8, 0.75, 2.0),
        lambda s: 0.8 * np.exp(-0.75 * SERVICE_S * s) + 0.2 * np.exp(-2 * SERVICE_S * s),
    ),
    "exponential": Law(
        lambda draw, shape: draw.exponential(SERVICE_S, shape),
        lambda s: 1 / (1 + SERVICE_S * s),
    ),
}


@dataclass(frozen=True)
class Case:
    """One row of the table, for all three places of the truth."""

    law: str
    rule: str
    confidence: float
    n: int

    @property
    def name(self) -> str:
        """What it is called on the screen and on disk."""
        return f"{self.law}, {self.rule}, {self.confidence}, {self.n}"


CASES = [
    Case(law, rule, confidence, n)
    for law in LAWS
    for rule, confidence, n in (
        ("independent", 0.99, 20_000),
        ("batch_means", 0.99, 20_000),
        ("block_bootstrap", 0.99, 20_000),
        ("batch_means", 0.99, 200_000),
        ("replayed", 0.99, 5_000),
        ("replayed", 0.99, 20_000),
        ("replayed", 0.90, 20_000),
        ("replayed", 0.99, 40_000),
    )
]


@dataclass(frozen=True)
class Run:
    """One simulated measurement; arrays of shape [n]."""

    due_s: np.ndarray
    service_s: np.ndarray
    latency_s: np.ndarray


def simulated(law: str, runs: int, n: int, seed: int) -> list[Run]:
    """Independent stationary runs of ``n`` requests each: Lindley's recursion, step by step."""
    draw = np.random.default_rng([seed, n, list(LAWS).index(law)])
    gaps = draw.exponential(1 / RATE_RPS, (WARM_UP + n, runs))
    service = LAWS[law].draw(draw, gaps.shape)
    wait, latency = np.zeros(runs), np.empty_like(gaps)
    for i in range(WARM_UP + n):
        latency[i] = wait + service[i]
        if i + 1 < WARM_UP + n:
            wait = np.maximum(latency[i] - gaps[i + 1], 0.0)
    due = np.cumsum(gaps, axis=0)
    columns = (np.ascontiguousarray(x[WARM_UP:].T) for x in (due, service, latency))
    return [Run(*run) for run in zip(*columns, strict=True)]


def true_share(law: str, limit_s: float) -> float:
    """Long-run share of latencies over ``limit_s``."""
    return float(_share_over(LAWS[law].transform, SERVICE_S, limit_s))


def true_quantile_s(law: str) -> float:
    """The long-run p99."""
    return float(brentq(lambda x: true_share(law, x) - (1 - QUANTILE), 0.05, 1.0, xtol=1e-9))


def least_undecided(law: str, limit_s: float, confidence: float, n: int) -> float:
    """Share of undecided verdicts of the best test that keeps its confidence, about.

    All service times grown by ``factor`` put the truth on the limit, which is the
    hypothesis to be rejected; the distance to it in standard errors is the test's power.
    """

    def grown(factor: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda s: LAWS[law].transform(np.exp(factor) * s)

    def excess(factor: float) -> float:
        share = float(_share_over(grown(factor), np.exp(factor) * SERVICE_S, limit_s))
        return share - (1 - QUANTILE)

    factor, step = float(brentq(excess, -0.1, 0.1, xtol=1e-9)), 1e-4
    slope = (excess(factor + step) - excess(factor - step)) / (2 * step)
    # Influence of a service time: the derivative by its weight in the law.
    times = np.exp(factor) * LAWS[law].draw(np.random.default_rng(SEED), (4000, 1))
    mean, weight = np.exp(factor) * SERVICE_S, 1e-5
    mixed = _share_over(
        lambda s: (1 - weight) * grown(factor)(s) + weight * np.exp(-times * s),
        (1 - weight) * mean + weight * times[:, 0],
        limit_s,
    )
    error = float(np.std(mixed / weight)) / np.sqrt(n) / slope
    return float(norm.cdf(norm.ppf(confidence) - abs(factor) / max(error, 1e-9)))


def _share_over(
    transform: Callable[[np.ndarray], np.ndarray], mean_s: float | np.ndarray, limit_s: float
) -> np.ndarray:
    """Share of latencies over a limit behind service times with this Laplace transform.

    The transform of the latencies is that of Pollaczek and Khinchine; it is inverted by
    Euler summation (Abate and Whitt, Numerical inversion of Laplace transforms of
    probability distributions, 1995), with errors below 1e-7 off the steps of the law.
    """
    terms, smoothed, accuracy = 30, 11, 18.4
    at = (accuracy + 2j * np.pi * np.arange(terms + smoothed + 1)) / (2 * limit_s)
    service = transform(at)
    idle = np.asarray(1 - RATE_RPS * mean_s)[..., None]
    latency = idle * at * service / (at - RATE_RPS * (1 - service))
    values = ((1 - latency) / at).real * (-1.0) ** np.arange(len(at))
    values[..., 0] /= 2
    sums = np.cumsum(values, axis=-1)[..., terms:] * np.exp(accuracy / 2) / limit_s
    return np.asarray(sums @ [comb(smoothed, k) for k in range(smoothed + 1)] / 2**smoothed)


def judged(run: Run, limit_s: float, case: Case) -> Verdict:
    """The verdict of the case's rule on one run."""
    if case.rule == "independent":
        share = float(np.mean(run.latency_s > limit_s))
        return decide(len(run.latency_s), share, QUANTILE, case.confidence)
    if case.rule == "block_bootstrap":
        return resampled(run.latency_s > limit_s, case.confidence)
    slo = Slo(quantile=QUANTILE, limit_ms=1e3 * limit_s)
    replay = Replay(due_s=run.due_s, service_s=run.service_s, rate_rps=RATE_RPS)
    given = replay if case.rule == "replayed" else None
    return judge_slo(run.latency_s, slo, case.confidence, replay=given).verdict


def resampled(late: np.ndarray, confidence: float) -> Verdict:
    """By the share of ``late`` requests, shape [n], in resamples of whole blocks of the run.

    A block is five times as long as what correlation costs, so that blocks are nearly independent;
    there are twenty of them at least. Every block may begin anywhere, the end joins the beginning.
    """
    n = len(late)
    block = int(np.clip(np.ceil(_TIMES * inflation(late)), 1, n // _FEWEST_BLOCKS))
    sums = np.concatenate([[0], np.cumsum(np.concatenate([late, late[:block]]))])
    begins = np.random.default_rng(SEED).integers(n, size=(_RESAMPLES, n // block))
    shares = (sums[begins + block] - sums[begins]).mean(axis=1) / block
    low, high = np.quantile(shares, [1 - confidence, confidence])
    if high <= 1 - QUANTILE:
        return Verdict.HOLDS
    return Verdict.FAILS if low > 1 - QUANTILE else Verdict.UNDECIDED


def verdicts(
    case: Case, runs: int = RUNS, seed: int = SEED, places: Sequence[str] = tuple(TRUTHS)
) -> dict[str, dict[str, float]]:
    """By place of the true quantile: the share of each verdict."""
    truth_s = true_quantile_s(case.law)
    counts: dict[str, Counter[Verdict]] = {place: Counter() for place in places}
    for run in _in_parts(case.law, runs, case.n, seed):
        for place, seen in counts.items():
            seen[judged(run, truth_s / TRUTHS[place], case)] += 1
    return {
        place: {verdict.value: seen[verdict] / runs for verdict in Verdict}
        for place, seen in counts.items()
    }


def wrong(place: str, shares: dict[str, float]) -> float:
    """Share of verdicts that contradict the truth, or, on the limit, that claim to know."""
    return sum(
        share
        for verdict, share in shares.items()
        if verdict not in (Verdict.UNDECIDED, RIGHT[place])
    )


def run(runs: int = RUNS, seed: int = SEED) -> dict[str, Any]:
    """All cases, seeded; those that are on disk are taken from there."""
    state = ROOT / "runs" / "bench" / f"slo_calibration-{_code()}-{runs}-{seed}"
    state.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, case in enumerate(CASES, 1):
        path = state / f"{case.name}.json"
        if not path.is_file():
            sys.stderr.write(f"slo_calibration: {number}/{len(CASES)} {case.name}\n")
            path.write_text(json.dumps(_row(case, runs, seed)))
        rows.append(json.loads(path.read_text()))
    return {
        "utilisation": RATE_RPS * SERVICE_S,
        "quantile": QUANTILE,
        "runs": runs,
        "seed": seed,
        "rows": rows,
    }


def parts() -> dict[str, Callable[[], dict[str, Any]]]:
    """All of it, as a part of a suite."""
    return {"slo_calibration": run}


def render(results: dict[str, Any]) -> list[str]:
    """Rows of the table of aims and figures, as Markdown: both rules that the product has.

    And one that was tried. A server that does not tell its service times is judged by its
    latencies alone.
    """
    rules = {
        "replayed": "",
        "batch_means": " by latencies alone (any server)",
        "block_bootstrap": " by latencies alone, blocks resampled instead (tried, not used)",
    }
    lines = []
    for row in results["slo_calibration"]["rows"]:
        if row["rule"] not in rules or row["n"] < 20_000:
            continue
        found = {place: row["verdicts"][place] for place in TRUTHS}
        worst = max(wrong("below", found["below"]), wrong("above", found["above"]))
        undecided = f"{max(found[place]['undecided'] for place in ('below', 'above')):.1%}"
        best = " (best possible)" if row["least_undecided"] else ""
        if best:
            undecided += f" ({max(row['least_undecided'].values()):.1%})"
        lines.append(
            f"| SLO verdicts{rules[row['rule']]} at confidence {row['confidence']}, {row['law']} "
            f"service, utilisation {RATE_RPS * SERVICE_S:.1f}, p99 10 % off the limit, "
            f"{row['n']:,} requests: wrong; undecided{best} | at most 2 %; at most 10 % "
            f"| {worst:.1%}; {undecided} |"
        )
    return lines


def table(result: dict[str, Any]) -> str:
    """All of it, as Markdown."""
    lines = [
        f"{result['runs']} seeded runs a row, queues at utilisation {result['utilisation']:.1f}, "
        f"p{100 * result['quantile']:.0f}. On the limit every verdict counts as wrong;",
        "the rule promises at most 1 - confidence of *holds*, and of *fails*.",
        "",
        "| service times | rule | confidence | n | true p99 | wrong | undecided | best possible |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        for place, ratio in TRUTHS.items():
            shares = row["verdicts"][place]
            off = f"{abs(ratio - 1):.0%} {place}" if ratio != 1 else "on the limit"
            least = row["least_undecided"].get(place)
            lines.append(
                f"| {row['law']} | {row['rule']} | {row['confidence']} | {row['n']:,} | {off} "
                f"| {wrong(place, shares):.1%} | {shares['undecided']:.1%} "
                f"| {'-' if least is None else f'{least:.1%}'} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was not run yet, publish, and print the table."""
    result = run()
    PUBLISHED.parent.mkdir(parents=True, exist_ok=True)
    PUBLISHED.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(table(result))


def _row(case: Case, runs: int, seed: int) -> dict[str, Any]:
    truth_s = true_quantile_s(case.law)
    least = {
        place: least_undecided(case.law, truth_s / ratio, case.confidence, case.n)
        for place, ratio in TRUTHS.items()
        if case.rule == "replayed" and ratio != 1
    }
    return {
        **asdict(case),
        "true_quantile_ms": 1e3 * truth_s,
        "verdicts": verdicts(case, runs, seed),
        "least_undecided": least,
    }


def _in_parts(law: str, runs: int, n: int, seed: int) -> Iterator[Run]:
    """As :func:`simulated`, in parts that fit into memory."""
    each = max(1, min(runs, 4_000_000 // n))
    for part in range(0, runs, each):
        yield from simulated(law, min(each, runs - part), n, seed + part)


def _code() -> str:
    """Identifies the code behind a result."""
    modules = ("slo", "replay", "stationary", "batch_means")
    files = [Path(__file__), *(ROOT / "loadtests" / f"{name}.py" for name in modules)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


if __name__ == "__main__":
    main()
