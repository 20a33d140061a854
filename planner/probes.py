"""Probes: which cells are worth measuring next, by what they may save for their seconds.

Two kinds of cell may change an answer. A rejected one that was not measured, or not validly:
were each of its vCPUs as good as the best that was measured of its variant, what would it save?
And the predicted size that is itself the answer: were it worse than predicted, the cheapest
measured plan would be the answer. Nothing is known of the odds, so each is taken at one half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from planner.allocatable import allocatable_vcpus
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
from serving.records import COMMAND, InstanceType, Variant

ODDS = 0.5
_UNKNOWN = (Bottleneck.UNMEASURED, Bottleneck.INVALID)


class _Chance(NamedTuple):
    """What one cell may save, and why one would think so."""

    candidate: Candidate
    saving_usd: float | None
    why: str

    @property
    def cell(self) -> tuple[str, str, int]:
        return self.candidate.variant, self.candidate.size, self.candidate.threads

    @property
    def worth(self) -> float:
        return math.inf if self.saving_usd is None else self.saving_usd


def measure_command(variant: Variant, candidate: Candidate, demand: Demand) -> str:
    """The command that measures one cell against a demand's limit."""
    slo = demand.slo
    limit = f"--p{'95' if slo.quantile == 0.95 else '99'} {slo.limit_ms:g}ms"
    if variant.runtime == COMMAND:
        return (
            f"tonnage run --cmd '{variant.file}' --instance {candidate.size} "
            f"--batch {demand.batch} --rate {demand.rate_rps:g} --p99 {slo.limit_ms:g}ms"
        )
    return (
        f"tonnage measure {variant.workload} --variant {candidate.variant} --instance "
        f"{candidate.size} --threads {candidate.threads} --batch {demand.batch} --max-load {limit}"
    )


def probes(
    answer: Recommendation,
    profiles: Sequence[ServiceProfile],
    variants: Sequence[Variant],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
    *,
    seconds: float,
    budget_s: float,
) -> tuple[Probe, ...]:
    """Cells by expected saving per second, as many as ``budget_s`` allows at ``seconds`` each.

    ``profiles`` are those that were measured. A cell that cannot save anything is left out.
    """
    plans = [p for p in (answer.best, *answer.alternatives) if p and p.usd_per_month is not None]
    chances = [
        *_if_the_answer_fails(plans),
        *_if_the_unmeasured_holds(answer, plans, profiles, instances, prices),
    ]
    by_cell: dict[tuple[str, str, int], _Chance] = {}
    for chance in chances:
        if chance.cell not in by_cell or by_cell[chance.cell].worth < chance.worth:
            by_cell[chance.cell] = chance
    ranked = sorted(by_cell.values(), key=lambda c: (-c.worth, c.cell))
    named = {variant.name: variant for variant in variants}
    return tuple(
        Probe(
            variant=c.candidate.variant,
            size=c.candidate.size,
            threads=c.candidate.threads,
            batch=answer.demand.batch,
            seconds=seconds,
            saving_usd_per_month=c.saving_usd,
            why=c.why,
            command=measure_command(named[c.candidate.variant], c.candidate, answer.demand),
        )
        for c in ranked[: int(budget_s / seconds + 1e-9)]
    )


def _if_the_answer_fails(plans: Sequence[Plan]) -> list[_Chance]:
    """The best plan, where it stands on a predicted size."""
    if not plans or not plans[0].predicted_size:
        return []
    best = plans[0]
    measured = next((p for p in plans if not p.predicted_size), None)
    usd = best.usd_per_month or 0.0
    saving = None if measured is None else ODDS * ((measured.usd_per_month or 0.0) - usd)
    return [_Chance(best.candidate, saving, "the recommendation stands on this predicted size")]


def _if_the_unmeasured_holds(
    answer: Recommendation,
    plans: Sequence[Plan],
    profiles: Sequence[ServiceProfile],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
) -> list[_Chance]:
    demand = answer.demand
    best_usd = plans[0].usd_per_month if plans else None
    each_vcpu = _best_per_vcpu(profiles, demand.batch)
    factors = {factor.target_family: factor.low for factor in prices.factors}
    chances = []
    for rejection in answer.rejections:
        candidate = rejection.candidate
        size = _size(candidate.size, instances)
        rps = each_vcpu.get(candidate.variant, max(each_vcpu.values(), default=0.0))
        if rejection.bottleneck not in _UNKNOWN or size is None or not rps:
            continue
        least = min(
            (
                _instances_at_best(demand, rps * factors[shape.cpu_family], shape)
                * price.usd_per_hour
                * HOURS_PER_MONTH
                for price in prices.prices
                if (shape := instances.get(price.instance)) is not None
                and shape.cpu_family in factors
                and allocatable_vcpus(shape) >= size.vcpus
                and (shape.enforcement == "cpuset" or size.enforcement == "quota")
            ),
            default=math.inf,
        )
        if best_usd is None and least < math.inf:
            chances.append(
                _Chance(candidate, None, f"no plan holds yet; {_brief(rejection.reason)}")
            )
        elif best_usd is not None and least < best_usd:
            saving = ODDS * (best_usd - least)
            chances.append(_Chance(candidate, saving, _brief(rejection.reason)))
    return chances


def _best_per_vcpu(profiles: Sequence[ServiceProfile], batch: int) -> dict[str, float]:
    """Requests per second of one vCPU at the best size of each variant, upper bound."""
    best: dict[str, float] = {}
    for p in profiles:
        if p.batch == batch:
            rps = p.capacity_interval.high / p.instance.vcpus
            best[p.variant.name] = max(rps, best.get(p.variant.name, 0.0))
    return best


def _instances_at_best(demand: Demand, rps: float, shape: InstanceType) -> int:
    return math.ceil(demand.rate_rps / (UTILISATION_CAP * rps * shape.vcpus) - 1e-9)


def _size(name: str, instances: Mapping[str, InstanceType]) -> InstanceType | None:
    """The size that a candidate names, ``sim-1:quota`` included."""
    plain, _, enforcement = name.partition(":")
    found = instances.get(plain)
    if found is None or not enforcement:
        return found
    return found.model_copy(update={"enforcement": enforcement})


def _brief(reason: str) -> str:
    """The reason without its command, which the probe has itself."""
    return reason.partition(", but at the lower end")[0]
