"""Probes: which cells are worth measuring next, by what they may save for their seconds.

Two kinds of cell may change an answer. A rejected one that was not measured, or not validly:
were each of its vCPUs as good as the best that was measured of its variant, what would it save?
And the predicted size or batch size that is itself the answer: were it worse than predicted, the
cheapest measured plan would be the answer. Nothing is known of the odds, so each is taken at one
half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from planner.allocatable import allocatable_vcpus
from planner.candidates import size_name
from planner.measuring import MEASURE_IT, measure_command
from planner.prices import PriceList
from planner.records import (
    HOURS_PER_MONTH,
    Bottleneck,
    Candidate,
    Demand,
    Plan,
    Probe,
    Recommendation,
    ServiceProfile,
)
from planner.sizing import UTILISATION_CAP
from serving.records import InstanceType

ODDS = 0.5
WORTH = 0.02
"""A cell that can save less than this share of the cost would settle nothing."""

_UNKNOWN = (Bottleneck.UNMEASURED, Bottleneck.INVALID)


class _Chance(NamedTuple):
    """What one cell may save, and why one would think so."""

    candidate: Candidate
    saving_usd: float | None
    why: str


def probes(
    answer: Recommendation,
    profiles: Sequence[ServiceProfile],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
    *,
    takes_s: Callable[[float, InstanceType], float],
    can_be_measured: Callable[[InstanceType], bool] = lambda size: True,
    budget_s: float,
    measure_with: str | None = None,
) -> tuple[Probe, ...]:
    """Cells by expected saving per second, as many as fit into ``budget_s``.

    ``takes_s`` says how many seconds a cell of a size takes whose requests take so many alone,
    which is hoped for at the best capacity that was measured; ``can_be_measured`` whether this host
    can give a size. ``profiles`` are those that were measured; ``measure_with`` is that of
    :func:`planner.measuring.measure_command`. A cell that cannot save anything to speak of is left
    out.
    """
    each_vcpu = _best_per_vcpu(profiles, answer.demand.batch)
    plans = [p for p in (answer.best, *answer.alternatives) if p and p.usd_per_month is not None]
    chances = {
        _cell(chance.candidate): chance
        for chance in (
            *_if_the_unmeasured_holds(answer, plans, profiles, instances, prices),
            *_if_the_answer_fails(plans),
        )
    }
    every = []
    for c in chances.values():
        size = _size(c.candidate.size, instances)
        rps = _hoped(each_vcpu, c.candidate.variant)
        if size is None or not rps or not can_be_measured(size):
            continue
        every.append(
            Probe(
                variant=c.candidate.variant,
                size=c.candidate.size,
                threads=c.candidate.threads,
                batch=answer.demand.batch,
                seconds=takes_s(1 / (rps * size.vcpus), size),
                saving_usd_per_month=c.saving_usd,
                why=c.why,
                command=measure_command(c.candidate, answer.demand, measure_with),
            )
        )
    every.sort(key=rank)
    chosen, left = [], budget_s
    for probe in every:
        if probe.seconds <= left:
            chosen.append(probe)
            left -= probe.seconds
    return tuple(chosen)


def rank(probe: Probe) -> tuple[float, float, str, str, int]:
    """Sorts probes, of one demand or of several: the one that is most worth its seconds first."""
    saving = math.inf if probe.saving_usd_per_month is None else probe.saving_usd_per_month
    return -saving / probe.seconds, probe.seconds, probe.variant, probe.size, probe.threads


def _hoped(each_vcpu: Mapping[str, float], variant: str) -> float:
    """What a vCPU may do for a variant: its best, or else the best of any; 0 without either."""
    return each_vcpu.get(variant, max(each_vcpu.values(), default=0.0))


def _if_the_answer_fails(plans: Sequence[Plan]) -> list[_Chance]:
    """The best plan, where it stands on a predicted size or batch size."""
    if not plans or not plans[0].predicted:
        return []
    best = plans[0]
    measured = next((p for p in plans if not p.predicted), None)
    usd = best.usd_per_month or 0.0
    saving = None if measured is None else ODDS * ((measured.usd_per_month or 0.0) - usd)
    why = f"the recommendation stands on this predicted {best.predicted}"
    return [_Chance(best.candidate, saving, why)]


def _if_the_unmeasured_holds(
    answer: Recommendation,
    plans: Sequence[Plan],
    profiles: Sequence[ServiceProfile],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
) -> list[_Chance]:
    each_vcpu = _best_per_vcpu(profiles, answer.demand.batch)
    known = {
        (p.variant.name, size_name(p.instance.label, instances), p.threads)
        for p in profiles
        if p.batch == answer.demand.batch
    }
    best_usd = plans[0].usd_per_month if plans else None
    chances: dict[tuple[str, str, int], _Chance] = {}
    for rejection in answer.rejections:
        candidate = rejection.candidate
        if rejection.bottleneck not in _UNKNOWN:
            continue
        if _cell(candidate) in known:  # with whole CPUs, and a container asks for a quota
            size = f"{candidate.size.partition(':')[0]}:quota"
            candidate = candidate.model_copy(update={"size": size})
        if _cell(candidate) in chances:
            continue
        rps = _hoped(each_vcpu, candidate.variant)
        least = _least_usd(candidate, answer.demand, rps, instances, prices)
        why = _brief(rejection.reason)
        if best_usd is None and least < math.inf:
            lacking = "no plan with a price holds yet" if answer.best else "no plan holds yet"
            chances[_cell(candidate)] = _Chance(candidate, None, f"{lacking}; {why}")
        elif best_usd is not None and least < (1 - WORTH) * best_usd:
            chances[_cell(candidate)] = _Chance(candidate, ODDS * (best_usd - least), why)
    return list(chances.values())


def _least_usd(
    candidate: Candidate,
    demand: Demand,
    rps: float,
    instances: Mapping[str, InstanceType],
    prices: PriceList,
) -> float:
    """Monthly cost on the cheapest shape, were every vCPU of the size worth ``rps``; or inf."""
    size = _size(candidate.size, instances)
    if size is None or not rps:
        return math.inf
    factors = {factor.target_family: factor.low for factor in prices.factors}
    least = math.inf
    for price in prices.offers(demand.region).values():
        shape = instances.get(price.instance)
        if shape is None or shape.cpu_family not in factors:
            continue
        held = int(allocatable_vcpus(shape) / size.vcpus + 1e-9)
        throttled = shape.enforcement == "quota" and size.enforcement == "cpuset"
        if held and not throttled:
            each = UTILISATION_CAP * rps * size.vcpus * factors[shape.cpu_family]
            replicas = math.ceil(demand.rate_rps / each - 1e-9) + demand.spare_replicas
            number = math.ceil(replicas / held)
            if number * held <= demand.max_replicas:
                least = min(least, number * price.usd_per_hour * HOURS_PER_MONTH)
    return least


def _best_per_vcpu(profiles: Sequence[ServiceProfile], batch: int) -> dict[str, float]:
    """Requests per second of one vCPU at the best size of each variant, upper bound.

    Of a variant never measured at ``batch``, from the batch size next to it: fewer rows make at
    most as many more requests, more rows none.
    """
    best: dict[str, tuple[float, float]] = {}
    for p in profiles:
        away = abs(math.log(p.batch / batch))
        rps = p.capacity_interval.high / p.instance.vcpus * max(1.0, p.batch / batch)
        best[p.variant.name] = max((-away, rps), best.get(p.variant.name, (-math.inf, 0.0)))
    return {name: rps for name, (_, rps) in best.items()}


def _cell(candidate: Candidate) -> tuple[str, str, int]:
    return candidate.variant, candidate.size, candidate.threads


def _size(name: str, instances: Mapping[str, InstanceType]) -> InstanceType | None:
    """The size that a candidate names, ``sim-1:quota`` included."""
    plain, _, enforcement = name.partition(":")
    found = instances.get(plain)
    if found is None or not enforcement:
        return found
    return found.model_copy(update={"enforcement": enforcement})


def _brief(reason: str) -> str:
    """The reason without its command, which the probe has itself."""
    return reason.partition(", but at the lower end")[0].partition(MEASURE_IT)[0]
