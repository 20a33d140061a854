"""The GPU verdict: how far CPUs reach, what that costs, and what a GPU may cost at most.

No figure of a GPU is made up. However fast it is, at least one has to be bought (and the
spare ones), so one that costs more per hour than the CPU plan cannot be cheaper; below that
price a measurement may be worth making.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from planner.candidates import Placement, place
from planner.curve import predictor
from planner.prices import PriceList
from planner.profile import Refusal
from planner.reach import CpuReach
from planner.recommend import recommend
from planner.records import HOURS_PER_MONTH, Demand, Plan, ServiceProfile
from planner.sizing import UTILISATION_CAP, Shortage, Sizing
from planner.surface import HIGHEST_UTILISATION
from serving.records import InstanceType, Variant

_CLOSE = 1e-3
_RETREATS = (1.0, 0.98, 0.95, 0.9)
"""Of the highest rate: rounded down it may meet another number of replicas, and none hold it."""


def cpu_reaches(
    demand: Demand,
    profiles: Sequence[ServiceProfile],
    refused: Sequence[Refusal],
    variants: Iterable[Variant],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
    seed: int,
) -> tuple[CpuReach, ...]:
    """How far CPUs reach at the demanded batch and at each measured one in its range."""
    low, high = demand.batch_range
    batches = sorted({demand.batch} | {p.batch for p in profiles if low <= p.batch <= high})
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
    rate = _highest(priced, demand, seed) or _highest(placements, demand, seed)
    none = CpuReach(batch=demand.batch, rate_rps=0, spare_replicas=demand.spare_replicas)
    if not rate:
        return none

    def best_at(rate_rps: float) -> Plan | None:
        asked = demand.model_copy(update={"rate_rps": rate_rps})
        return recommend(
            asked, profiles, refused, variants, instances, prices.prices, prices.factors, seed
        ).best

    rates = [float(f"{share * rate:.3g}") for share in _RETREATS]
    found = ((at, plan) for at in rates if (plan := best_at(at)) is not None)
    rate, best = next(found, (0.0, None))
    if best is None:
        return none
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


def _highest(placements: Sequence[Placement], demand: Demand, seed: int) -> float:
    """The highest rate that one of the placements holds, rounded down; 0 when none does."""
    options: dict[tuple[int, float, int], Placement] = {}
    for p in placements:
        # By identity: hashing a profile takes longer than all else here.
        options[id(p.profile), p.factor.low, p.candidate.replicas_per_instance] = p
    # Largest bound first, so that most need no search.
    found = 0.0
    for placement in sorted(options.values(), key=lambda p: -_bound(p, demand)):
        top = _bound(placement, demand)
        if top <= found:
            break
        found = max(found, _search(placement, demand, found, top, seed))
    if not found:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(found)) - 2)
    return float(f"{math.floor(found / unit + 1e-9) * unit:.6g}")


def _bound(placement: Placement, demand: Demand) -> float:
    """A rate that the placement cannot exceed, whatever its latency."""
    each = placement.profile.capacity_interval.low * placement.factor.low
    return HIGHEST_UTILISATION * each * _working(placement, demand)


def _working(placement: Placement, demand: Demand) -> int:
    held = placement.candidate.replicas_per_instance
    return max(0, demand.max_replicas // held * held - demand.spare_replicas)


def _search(placement: Placement, demand: Demand, low: float, high: float, seed: int) -> float:
    """The highest rate between ``low`` and ``high`` that holds; 0 when ``low`` does not."""

    def holds(rate: float) -> bool:
        sizing = Sizing(
            predictor(placement.profile, seed),
            placement.factor,
            placement.candidate.replicas_per_instance,
            demand.model_copy(update={"rate_rps": rate}),
        )
        return not isinstance(sizing.smallest, Shortage)

    if low and not holds(low):
        return 0.0
    low = low or _CLOSE * high
    if not holds(low):
        return 0.0
    while high - low > _CLOSE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
