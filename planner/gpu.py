"""The GPU verdict: how far CPUs reach, what that costs, and what a GPU may cost at most.

No figure of a GPU is made up. However fast it is, at least one has to be bought (and the
spare ones), so one that costs more per hour than the CPU plan cannot be cheaper; below that
price a measurement may be worth making.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from planner.candidates import place
from planner.highest import highest_plan, highest_rate
from planner.prices import PriceList
from planner.profile import Refusal
from planner.reach import CpuReach
from planner.recommend import recommend
from planner.records import HOURS_PER_MONTH, Demand, Plan, ServiceProfile
from planner.sizing import UTILISATION_CAP
from serving.records import InstanceType, Variant


def cpu_reaches(
    demand: Demand,
    profiles: Sequence[ServiceProfile],
    refused: Sequence[Refusal],
    variants: Iterable[Variant],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
    seed: int,
) -> tuple[CpuReach, ...]:
    """How far CPUs reach at the demanded batch and at each measured one in its range.

    Of a mix, whose profiles are those of :mod:`planner.mixture`, with that mix alone.
    """
    low, high = demand.batch_range
    batches = sorted({demand.batch} | {p.batch for p in profiles if low <= p.batch <= high})
    if demand.mix is not None:
        batches = [demand.batch]
    return tuple(
        _reach(
            demand.model_copy(update={"batch": batch}),
            profiles,
            refused,
            tuple(variants),
            instances,
            prices,
            seed,
        )
        for batch in batches
    )


def rows_per_s_of(reach: CpuReach, of_each: Mapping[int, float]) -> float | None:
    """Rows a second of something that serves a reach's requests one call after the other.

    ``of_each`` is that at each batch size alone. Of a mix a request takes the mean of the times of
    its batch sizes, so rows over time is sum w(b) b / sum w(b) b / R(b). None where one lacks.
    """
    if reach.mix is None:
        return of_each.get(reach.batch)
    shares = reach.mix.shares
    if not shares.keys() <= of_each.keys():
        return None
    return reach.mix.mean_batch / sum(s * b / of_each[b] for b, s in shares.items())


def gpus_needed(reach: CpuReach, gpu_rows_per_s: float) -> int:
    """GPUs for the rate that CPUs reach, at the planner's own cap, spare ones counted.

    From rows a second in process, so a lower bound: what serving adds is not in it.
    """
    return math.ceil(reach.rows_per_s / (UTILISATION_CAP * gpu_rows_per_s)) + reach.spare_replicas


def break_even_usd_per_hour(reach: CpuReach, gpu_rows_per_s: float) -> float | None:
    """Price of one GPU below which a measured one would be cheaper than the CPU plan."""
    number = gpus_needed(reach, gpu_rows_per_s)
    return None if reach.usd_per_hour is None else reach.usd_per_hour / number


def _reach(
    demand: Demand,
    profiles: Sequence[ServiceProfile],
    refused: Sequence[Refusal],
    variants: Sequence[Variant],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
    seed: int,
) -> CpuReach:
    placements, _ = place(demand, profiles, refused, variants, instances, prices)
    # A rate that can be bought says more than one that only this host can show.
    priced = [p for p in placements if p.price is not None]
    rate = highest_rate(priced, demand, seed) or highest_rate(placements, demand, seed)
    none = CpuReach(
        batch=demand.batch, mix=demand.mix, rate_rps=0, spare_replicas=demand.spare_replicas
    )
    if not rate:
        return none

    def best_for(asked: Demand) -> Plan | None:
        return recommend(
            asked,
            profiles,
            refused,
            variants,
            instances,
            prices.prices,
            prices.factors,
            seed,
            batching=False,
        ).best

    found = highest_plan(demand, rate, best_for)
    if found is None:
        return none
    rate, best = found
    usd = None if best.usd_per_month is None else best.usd_per_month / HOURS_PER_MONTH
    return none.model_copy(
        update={
            "rate_rps": rate,
            "variant": best.candidate.variant,
            "instance": best.candidate.instance,
            "instances": best.instances,
            "replicas": best.replicas,
            "usd_per_hour": usd,
            "usd_per_million": best.usd_per_million,
        }
    )
