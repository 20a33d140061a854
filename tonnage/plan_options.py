"""What is asked of a recommendation beyond its plan, or where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.advice import AutoscalingRefusal
from planner.autoscaling import advise
from planner.candidates import HERE, size_name
from planner.gpu import cpu_reaches
from planner.nearest import nearest
from planner.prices import PriceList
from planner.profile import Refusal
from planner.records import CpuFactor, Plan, PredictedProfile, Recommendation, ServiceProfile
from serving.records import InstanceType, Variant


def with_options(
    answer: Recommendation,
    profiles: Sequence[ServiceProfile],
    refused: Sequence[Refusal],
    variants: Sequence[Variant],
    catalogue: Mapping[str, InstanceType],
    prices: PriceList,
    seed: int,
) -> Recommendation:
    """The recommendation with how far CPUs reach, and with what could be made of its best plan.

    Where there is none, with the nearest demands that have one.
    """
    demand, plan = answer.demand, answer.best
    reaches = cpu_reaches(demand, profiles, refused, variants, catalogue, prices, seed)
    found: dict[str, object] = {"cpu_reaches": reaches}
    if plan is None:
        found["nearest"] = nearest(demand, profiles, refused, variants, catalogue, prices, seed)
    else:
        c = plan.candidate
        same = [
            p
            for p in profiles
            if not isinstance(p, PredictedProfile)
            and (p.variant.name, size_name(p.instance.label, catalogue), p.threads)
            == (c.variant, c.size, c.threads)
        ]
        measured = next((p for p in same if p.batch == demand.batch), None)
        factor = _factor(plan, catalogue, prices)
        offer = prices.offers(demand.region).get(c.instance)
        price = None if offer is None else offer.usd_per_hour
        if c.max_batch > 1 and demand.daily is not None:
            found["autoscaling"] = AutoscalingRefusal(
                reason="its replicas answer several requests a call, and the replay of a day knows "
                "one at a time",
                static_replicas=plan.replicas,
            )
        elif c.max_batch == 1 and measured is not None:
            found["autoscaling"] = advise(demand, plan, measured, factor, price, seed)
        elif demand.daily is not None:
            where = plan.unmeasured_on(c.size, demand)
            found["autoscaling"] = AutoscalingRefusal(
                reason=f"{where} was not measured, and nothing follows a day on a guess",
                static_replicas=plan.replicas,
            )
    return answer.model_copy(update=found)


def _factor(plan: Plan, catalogue: Mapping[str, InstanceType], prices: PriceList) -> CpuFactor:
    """The CPU factor that the plan was sized with."""
    c = plan.candidate
    if c.instance == c.size:
        return HERE
    family = catalogue[c.instance].cpu_family
    return next(f for f in prices.factors if f.target_family == family)
