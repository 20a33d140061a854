"""Random demands answered by the planner, each answer tested live, and the next-cheaper one too.

Sixty seeded demands are answered from profiles measured right before, on the same host. Each
recommendation is deployed and driven at the rate; then the next cheaper configuration that the
planner rejected. A recommendation that holds is right, a cheaper one that fails shows that it was
tight. What this host does not hold whole is not asked for: a share of the replicas, at its share of
the rate, queues more than all of them, so that its test says little of theirs. One line a demand is
kept beside the cells, in ``answers.jsonl``; measuring goes on where it was interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.demand_cells import FOLDER, measure, missing, profiles_of, read_cells
from benchmarks.grid_records import GRIDS, append, behind, drop_unfinished, spec_of
from benchmarks.grid_replay import Choice, answered, chosen
from benchmarks.live import SEED, Live, built, host_size, live
from benchmarks.prediction import met
from loadtests.objective import Slo
from loadtests.slo import required_n
from planner.curve import predictor
from planner.recommend import best_on_host
from planner.records import Bottleneck, Recommendation, ServiceProfile
from serving import host_facts
from serving.records import Deployment

Result = dict[str, Any]
DEMANDS = 60
CHUNK = 10
AIM_HOLD, AIM_TIGHT = 57, 0.5
TRIES = 3
REQUESTS, SHORTEST_S, LONGEST_S = 1500, 8.0, 20.0
FILE = FOLDER / "answers.jsonl"

LOWEST_SHARE, HIGHEST_SHARE = 0.15, 1.0
"""Rates are drawn between these shares of what the fastest profile of the workload carries."""

LOWEST_LIMIT, HIGHEST_LIMIT = 1.5, 12.0
"""Limits are drawn between these times the shortest p99 that any profile has without load."""

_MOST_DRAWS = 50
_BY_LOAD = (Bottleneck.CAPACITY, Bottleneck.LATENCY, Bottleneck.COST)
_FEW = required_n(0, 0.99)


class Question(NamedTuple):
    """A demand, what the planner recommends for it, and what it would have to beat."""

    number: int
    workload: str
    rate_rps: float
    limit_ms: float
    best: Choice
    predicted_ms: tuple[float, float, float]
    cheaper: Choice | None
    passed_over: int


def question(
    number: int, workload: str, profiles: Sequence[ServiceProfile], replica_cpus: int
) -> Question:
    """The demand of that number.

    Draws that no plan answers, or only one that so many CPUs do not hold, are passed over, and
    counted.
    """
    draw = np.random.default_rng([SEED, number])
    fastest = max(p.capacity_rps for p in profiles)
    least_ms = min(predictor(p, SEED).unloaded(0.99) for p in profiles)
    for passed_over in range(_MOST_DRAWS):
        rate = fastest * _between(draw, LOWEST_SHARE, HIGHEST_SHARE)
        limit = least_ms * _between(draw, LOWEST_LIMIT, HIGHEST_LIMIT)
        rate, limit = float(f"{rate:.3g}"), float(f"{limit:.3g}")
        answer = answered(profiles, rate, limit)
        plan = best_on_host(answer)
        if plan is not None and chosen(plan).vcpus <= replica_cpus:
            best = chosen(plan)
            p99 = (plan.p99_ms.low, plan.p99_ms.mid, plan.p99_ms.high)
            cheaper = next_cheaper(profiles, best, answer)
            return Question(number, workload, rate, limit, best, p99, cheaper, passed_over)
    raise ValueError(f"demand {number}: nothing is recommended in {_MOST_DRAWS} draws")


def _between(draw: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def next_cheaper(
    profiles: Sequence[ServiceProfile], best: Choice, answer: Recommendation
) -> Choice | None:
    """The dearest configuration that is cheaper than ``best``, of several the fastest.

    It is one that the planner has weighed for this demand and rejected: a cell that no number
    of replicas allowed makes hold, or fewer replicas of one than it would need. None below
    the smallest size.
    """
    weighed = _weighed(answer)
    found = []
    for p in profiles:
        size = spec_of(p.instance)
        cheaper = int(np.ceil(best.vcpus / p.instance.vcpus - 1e-9)) - 1
        number = min(cheaper, answer.demand.max_replicas)
        if number >= 1 and (p.variant.name, size, p.threads) in weighed:
            choice = Choice((p.variant.name, size, p.threads, number), number * p.instance.vcpus)
            found.append((choice.vcpus, number * p.capacity_rps, choice))
    return max(found)[2] if found else None


def _weighed(answer: Recommendation) -> set[tuple[str, str, int]]:
    """(variant, size, threads) whose load or cost the planner looked at on the size itself."""
    plans = [plan.candidate for plan in (answer.best, *answer.alternatives) if plan]
    rejected = [r.candidate for r in answer.rejections if r.bottleneck in _BY_LOAD]
    own = (c for c in (*plans, *rejected) if c.instance == c.size)
    return {(c.variant, c.size, c.threads) for c in own}


def tested(bench: Live, asked: Question, choice: Choice, attempt_seed: int) -> Result:
    """Deploy a choice, drive it at the rate, and judge."""
    variant, size, threads, replicas = choice.key
    grid = GRIDS[asked.workload]
    deployment = Deployment(
        variant=built(asked.workload, grid.variants)[variant],
        instance=host_size(size),
        threads=threads,
        replicas=replicas,
    )
    rate = asked.rate_rps
    seconds = float(np.clip(REQUESTS / rate, SHORTEST_S, LONGEST_S))
    slo = Slo(quantile=0.99, limit_ms=asked.limit_ms)
    bench.deploy(deployment, anew=True)
    for attempt in range(TRIES):
        run, result = bench.drive(
            deployment, grid.batch, rate, seconds, attempt_seed + attempt, [slo]
        )
        if run.valid or behind(run):
            break
    latencies = result.samples.latency_s[result.samples.due_s >= result.steady_from_s]
    late = int(np.count_nonzero(latencies > asked.limit_ms / 1e3))
    refused = None
    if not run.valid and not behind(run):
        refused = f"{run.faults[0].code}: {run.faults[0].detail}"
    return {
        "key": list(choice.key),
        "vcpus": choice.vcpus,
        "seconds": seconds,
        "n": len(latencies),
        "late": late,
        "p99_ms": run.due_to_done.quantile_s(0.99) * 1e3,
        "behind": behind(run),
        "holds": None if refused else not behind(run) and late <= 0.01 * len(latencies),
        "verdict": run.verdicts[0].verdict.value if run.verdicts else "none",
        "refused": refused,
    }


def answer(bench: Live, asked: Question) -> Result:
    """One line: the demand, the recommendation, and what came of both tests."""
    seed = 10_000 + 10 * asked.number
    cheaper = asked.cheaper
    return {
        "number": asked.number,
        "workload": asked.workload,
        "rate_rps": asked.rate_rps,
        "limit_ms": asked.limit_ms,
        "predicted_p99_ms": list(asked.predicted_ms),
        "passed_over": asked.passed_over,
        "environment": bench.environment,
        "recommended": tested(bench, asked, asked.best, seed),
        "cheaper": None if cheaper is None else tested(bench, asked, cheaper, seed),
    }


def same(line: Mapping[str, Any], asked: Question) -> bool:
    """Whether a line answers this very question, with the same recommendation."""
    cheaper = None if line["cheaper"] is None else tuple(line["cheaper"]["key"])
    return (
        line["number"] == asked.number
        and (line["rate_rps"], line["limit_ms"]) == (asked.rate_rps, asked.limit_ms)
        and tuple(line["recommended"]["key"]) == asked.best.key
        and cheaper == (asked.cheaper.key if asked.cheaper else None)
    )


def chunk(begin: int) -> list[Result]:
    """The demands from ``begin`` on that are not answered yet, then all lines of the chunk.

    Ten in a row are of one workload, so that a part measures and builds one.
    """
    workload = list(GRIDS)[begin // CHUNK % len(GRIDS)]
    if missing(workload) or _left(_asked(workload, begin)):
        with live() as bench:
            grid = GRIDS[workload]
            first = Deployment(
                variant=built(workload, grid.variants)[grid.variants[0]],
                instance=host_size("sim-1"),
                threads=1,
            )
            bench.floor(first, grid.batch, ladder_only=True)
            measure(bench, workload)
            for q in _left(_asked(workload, begin)):
                sys.stderr.write(f"  demand {q.number + 1} of {DEMANDS}: {q.workload}\n")
                append(FILE, json.dumps(answer(bench, q)))
    kept = _kept()
    return [next(line for line in reversed(kept) if same(line, q)) for q in _asked(workload, begin)]


def _asked(workload: str, begin: int) -> list[Question]:
    profiles = profiles_of(read_cells(workload))
    replica_cpus = len(host_facts.host_placement().replica_cpus)
    return [
        question(number, workload, profiles, replica_cpus)
        for number in range(begin, min(begin + CHUNK, DEMANDS))
    ]


def _left(asked: Sequence[Question]) -> list[Question]:
    kept = _kept()
    return [q for q in asked if not any(same(line, q) for line in kept)]


def _kept() -> list[Result]:
    drop_unfinished(FILE)
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.is_file() else []


def parts() -> dict[str, Callable[[], list[Result]]]:
    """Ten demands a part."""
    return {
        f"demands_{begin // CHUNK}": partial(chunk, begin) for begin in range(0, DEMANDS, CHUNK)
    }


def render(results: Mapping[str, Any]) -> list[str]:
    """Rows of the table of aims and figures: the two aims, then every miss."""
    lines = [line for part in results.values() for line in part]
    if not lines:
        return []
    hold = [line for line in lines if line["recommended"]["holds"]]
    proven = sum(line["recommended"]["verdict"] == "holds" for line in hold)
    wrong = [line for line in lines if not line["recommended"]["holds"]]
    rivals = [line for line in lines if line["cheaper"] and line["cheaper"]["holds"] is not None]
    loose = [line for line in rivals if line["cheaper"]["holds"]]
    tight = [line for line in rivals if not line["cheaper"]["holds"]]
    asked = len(lines)
    fine = asked == DEMANDS and len(hold) >= AIM_HOLD
    share = len(tight) / len(rivals) if rivals else 0.0
    return [
        f"| recommendations for random demands that hold when tested | {AIM_HOLD} of {DEMANDS} "
        f"| {len(hold)} of {asked} ({proven} of them proven at 99 %"
        f"{_few(hold, 'recommended')}), {met(fine)} |",
        f"| the next cheaper configuration, rejected by the planner, fails when tested "
        f"| at least {AIM_TIGHT:.0%} | {len(tight)} of {len(rivals)} ({share:.0%}"
        f"{_few(tight, 'cheaper')}), "
        f"{met(asked == DEMANDS and share >= AIM_TIGHT)} |",
        *(f"| miss: {_miss(line, 'recommended')} |" for line in wrong),
        *(f"| not tight: {_miss(line, 'cheaper')} |" for line in loose),
    ]


def _few(lines: Sequence[Mapping[str, Any]], which: str) -> str:
    """Say which answers rest on so few requests that none late among them would prove nothing."""
    few = sorted(line[which]["n"] for line in lines if line[which]["n"] < _FEW)
    if not few:
        return ""
    return f"; {len(few)} rest on fewer than {_FEW} requests: n = {', '.join(map(str, few))}"


def _miss(line: Mapping[str, Any], which: str) -> str:
    one = line[which]
    variant, size, threads, replicas = one["key"]
    found = one["refused"] or (
        f"p99 {one['p99_ms']:.3g} ms, {one['late']} of {one['n']} late"
        + (", fell behind" if one["behind"] else "")
    )
    low, mid, high = line["predicted_p99_ms"]
    predicted = f"; predicted {mid:.3g} ms ({low:.3g}-{high:.3g})" if which == "recommended" else ""
    return (
        f"{line['workload']}, {line['rate_rps']:g} req/s, p99 at most {line['limit_ms']:g} ms "
        f"| - | {variant} on {replicas} x {size}, {threads} thread(s): {found}{predicted}"
    )
