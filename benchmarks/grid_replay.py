"""Choosing from the records of a grid: the planner, random search, a rule of thumb. Pure.

A demand is a rate and a limit on the p99; what is to be found is the configuration with the
fewest vCPUs that holds it. The truth is what the exhaustive measurement found. A choice that
does not hold is a miss, however cheap, and so is none at all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import product
from statistics import fmean, median
from typing import Any, NamedTuple

from benchmarks.grid_records import GridRecord, Key, host_sizes, spec_of
from loadtests.objective import Slo
from planner.curve import predictor
from planner.profile import build_profiles
from planner.recommend import best_on_host, recommend
from planner.records import Demand, Plan, Recommendation, ServiceProfile
from planner.surface import HIGHEST_UTILISATION

BUDGET_SHARE = 0.15
WITHIN = 0.05
SEED = 7
SEARCHES = 200
MOST_REPLICAS = 16
_THUMB = 0.7

PICKED = (
    "picked by a rule of this benchmark, not by the planner's probes (these weigh prices, which "
    "host sizes have none of): every variant on the largest size, then the fastest on others"
)
"""Who picks the cells that are profiled, see :func:`profiled`."""


class Choice(NamedTuple):
    """A configuration that was chosen, and the vCPUs that it costs."""

    key: Key
    vcpus: float


class Asked(NamedTuple):
    """A demand of the grid, and the vCPUs of the cheapest configuration that held it."""

    rate_rps: float
    limit_ms: float
    optimum: GridRecord


Choose = Callable[[float, float], Choice | None]


def score(
    records: Sequence[GridRecord], rates_rps: Sequence[float], limits_ms: Sequence[float]
) -> dict[str, Any]:
    """All three ways of choosing against the truth, in the same measuring time.

    Variants that the quality gate bars are no choice for anybody. The no-op ladder, by which
    every run is judged, is part of everybody's time, once.
    """
    records = [record for record in records if record.deployment.variant.barred is None]
    asked, nobody = demands(records, rates_rps, limits_ms)
    ladder = max((record.ladder_seconds for record in records), default=0.0)
    exhaustive = ladder + sum(record.seconds for record in records)
    budget = BUDGET_SHARE * exhaustive - ladder
    profiles, spent = profiled(records, budget)
    return {
        "exhaustive_seconds": exhaustive,
        "ladder_seconds": ladder,
        "planner_seconds": ladder + spent,
        "profiles": [f"{p.variant.name} on {spec_of(p.instance)}" for p in profiles],
        "demands": [[one.rate_rps, one.limit_ms, _words(one.optimum.key)] for one in asked],
        "held_by_none": nobody,
        "predictions": predictions(records),
        "planner": outcome(records, asked, lambda r, limit: planned(profiles, r, limit)),
        "rule_of_thumb": outcome(records, asked, lambda r, _: rule_of_thumb(profiles, r)),
        "random": searched(records, asked, budget),
    }


def demands(
    records: Sequence[GridRecord], rates_rps: Sequence[float], limits_ms: Sequence[float]
) -> tuple[list[Asked], int]:
    """Every rate with every limit that some configuration holds; how many none does."""
    asked = []
    for rate, limit in product(rates_rps, limits_ms):
        holding = [record for record in records if record.holds(rate, limit)]
        if holding:
            asked.append(Asked(rate, limit, min(holding, key=lambda r: (r.vcpus, r.key))))
    return asked, len(rates_rps) * len(limits_ms) - len(asked)


def predictions(records: Sequence[GridRecord]) -> dict[str, Any]:
    """What the planner says of every run that it may speak of, against its p99, by replicas.

    From the profile of the configuration's own replica, however long it took to measure.
    """
    known = {
        record.key[:3]: profile for record in records for profile in build_profiles(record.cell)[0]
    }
    found: dict[int, list[tuple[float, bool, bool]]] = {}
    for record in records:
        profile, number = known.get(record.key[:3]), record.key[3]
        if profile is None:
            continue
        for run in record.truth:
            rate, p99_ms = run.run.rate_rps or 0.0, 1e3 * run.due_to_done.quantile_s(0.99)
            if not run.valid or rate > HIGHEST_UTILISATION * number * profile.capacity_rps:
                continue
            low, mid, high = predictor(profile, SEED).latency(number, rate, 0.99, rate)
            off = abs(mid / p99_ms - 1)
            found.setdefault(number, []).append((off, low <= p99_ms <= high, p99_ms > high))
    return {
        str(number): {
            "runs": len(some),
            "median_error": median(off for off, _, _ in some),
            "inside": sum(inside for _, inside, _ in some),
            "above": sum(above for _, _, above in some),
        }
        for number, some in sorted(found.items())
    }


def outcome(
    records: Sequence[GridRecord], asked: Sequence[Asked], choose: Choose
) -> dict[str, Any]:
    """How many choices hold at nearly the least cost; by how much others exceed it; all misses."""
    within, excesses, misses = 0, [], []
    for one in asked:
        choice = choose(one.rate_rps, one.limit_ms)
        held = choice is not None and holds(records, choice, one.rate_rps, one.limit_ms)
        excess = choice.vcpus / one.optimum.vcpus - 1 if choice else math.inf
        if held:
            excesses.append(excess)
        if held and excess <= WITHIN + 1e-9:
            within += 1
        else:
            misses.append(_miss(one, choice, held))
    mean = fmean(excesses) if excesses else None
    return {"within": within, "hold": len(excesses), "mean_excess": mean, "misses": misses}


def holds(
    records: Sequence[GridRecord], choice: Choice, rate_rps: float, limit_ms: float
) -> bool | None:
    """What was measured of the choice; where it was not, whether fewer replicas held already."""
    variant, size, threads, replicas = choice.key
    same = {r.key[3]: r for r in records if r.key[:3] == (variant, size, threads)}
    if replicas in same:
        return same[replicas].holds(rate_rps, limit_ms)
    fewer = [r.holds(rate_rps, limit_ms) for number, r in same.items() if number < replicas]
    return True if any(fewer) else None


def profiled(records: Sequence[GridRecord], budget_s: float) -> tuple[list[ServiceProfile], float]:
    """Profiles of the cells that are worth their time, and the seconds they took.

    Every variant on one largest size first, with whole CPUs where there is one; then the
    fastest of them on the other sizes, the next fastest, and so on, as long as the budget lasts.
    """
    cells = [record for record in records if record.cell]
    largest = max((record.vcpus for record in cells), default=0.0)
    by_size = sorted(cells, key=lambda r: (-r.vcpus, r.deployment.instance.enforcement))
    best = {record.key[0]: record for record in reversed(by_size)}
    first = [record for record in cells if best[record.key[0]] is record]
    found: dict[Key, ServiceProfile] = {}
    spent = 0.0
    for record in first:
        spent = _take(record, budget_s, spent, found)
    speed = {key[0]: profile.capacity_rps for key, profile in found.items()}
    rest = [record for record in cells if best[record.key[0]] is not record]
    rest.sort(key=lambda r: (-speed.get(r.key[0], 0.0), r.vcpus == largest, -r.vcpus))
    for record in rest:
        spent = _take(record, budget_s, spent, found)
    return list(found.values()), spent


def _take(
    record: GridRecord, budget_s: float, spent: float, found: dict[Key, ServiceProfile]
) -> float:
    """Spend a cell's time if there is enough left, also where no profile comes of it."""
    if spent + record.cell_seconds > budget_s:
        return spent
    for profile in build_profiles(record.cell)[0]:
        found[record.key] = profile
    return spent + record.cell_seconds


def planned(profiles: Sequence[ServiceProfile], rate_rps: float, limit_ms: float) -> Choice | None:
    """What the product recommends from these profiles alone."""
    best = best_on_host(answered(profiles, rate_rps, limit_ms)) if profiles else None
    return None if best is None else chosen(best)


def answered(
    profiles: Sequence[ServiceProfile],
    rate_rps: float,
    limit_ms: float,
    most_replicas: int = MOST_REPLICAS,
) -> Recommendation:
    """The product's recommendation, on the host's own sizes, which cost their vCPUs."""
    batch = profiles[0].batch
    demand = Demand(
        name="asked",
        title=f"{rate_rps:g} req/s, p99 at most {limit_ms:g} ms",
        batch=batch,
        batch_range=(batch, batch),
        rate_rps=rate_rps,
        slo=Slo(quantile=0.99, limit_ms=limit_ms),
        max_replicas=most_replicas,
    )
    variants = {p.variant.name: p.variant for p in profiles}
    return recommend(
        demand, profiles, [], variants.values(), host_sizes(), [], [], SEED, batching=False
    )


def chosen(plan: Plan) -> Choice:
    """A plan on a host size as a choice."""
    c = plan.candidate
    return Choice((c.variant, c.size, c.threads, plan.replicas), plan.vcpus)


def rule_of_thumb(profiles: Sequence[ServiceProfile], rate_rps: float) -> Choice | None:
    """``ceil(R / (0.7 Xmax)) + 1`` replicas of whatever is cheapest then; no latency in it."""
    choices = [
        Choice((p.variant.name, spec_of(p.instance), p.threads, n), n * p.instance.vcpus)
        for p in profiles
        for n in (math.ceil(rate_rps / (_THUMB * p.capacity_rps)) + 1,)
    ]
    return min(choices, key=lambda choice: (choice.vcpus, choice.key), default=None)


def searched(
    records: Sequence[GridRecord], asked: Sequence[Asked], budget_s: float
) -> dict[str, Any]:
    """Random search: configurations measured in random order until the time is up.

    The cheapest of them that held is chosen; the mean over many searches.
    """
    counts = []
    for number in range(SEARCHES):
        order = list(records)
        random.Random(SEED + number).shuffle(order)
        seen, spent = [], 0.0
        for record in order:
            spent += record.seconds
            if spent > budget_s:
                break
            seen.append(record)
        counts.append(outcome(records, asked, lambda r, limit, seen=seen: _seen(seen, r, limit)))
    return {
        "searches": SEARCHES,
        "within": fmean(one["within"] for one in counts),
        "hold": fmean(one["hold"] for one in counts),
    }


def _seen(records: Sequence[GridRecord], rate_rps: float, limit_ms: float) -> Choice | None:
    holding = [r for r in records if r.holds(rate_rps, limit_ms)]
    best = min(holding, key=lambda r: (r.vcpus, r.key), default=None)
    return None if best is None else Choice(best.key, best.vcpus)


def _miss(one: Asked, choice: Choice | None, held: bool | None) -> str:
    asked = f"{one.rate_rps:g} req/s, p99 at most {one.limit_ms:g} ms"
    best = f"{_words(one.optimum.key)} holds with {one.optimum.vcpus:g} vCPU"
    if choice is None:
        return f"{asked}: nothing was chosen, {best}"
    words = {True: "holds", False: "does not hold", None: "was not measured"}[held]
    return f"{asked}: {_words(choice.key)} {words} with {choice.vcpus:g} vCPU, {best}"


def _words(key: Key) -> str:
    variant, size, threads, replicas = key
    return f"{variant} on {replicas} x {size}" + (f" ({threads} threads)" if threads > 1 else "")
