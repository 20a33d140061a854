"""The recommendation: the cheapest candidate that holds, and why every other one is not it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from planner.candidates import Placement, place
from planner.curve import predict_quantile, unloaded_ms
from planner.prices import PriceList
from planner.profile import Refusal
from planner.records import (
    HOURS_PER_MONTH,
    Bottleneck,
    CpuFactor,
    Demand,
    Interval,
    MeasuredPoint,
    Plan,
    Price,
    Recommendation,
    Rejection,
    ServiceProfile,
)
from serving.records import InstanceType, Variant

UTILISATION_CAP = 0.7
"""Share of the measured capacity that a plan may use: beyond it latency grows faster than
any prediction is certain, and nothing is left for a burst."""

_SAME_RATE = 0.05

Shortage = tuple[Bottleneck, str]


def recommend(
    demand: Demand,
    profiles: Iterable[ServiceProfile],
    refused: Iterable[Refusal],
    variants: Iterable[Variant],
    instances: Mapping[str, InstanceType],
    prices: Sequence[Price],
    factors: Sequence[CpuFactor],
    seed: int,
) -> Recommendation:
    """Size every candidate for ``demand``, and rank the plans.

    Priced plans come first, by their monthly cost; plans on the host's own sizes, which
    have no price, follow by vCPUs and memory. Plans and rejections together are exactly the
    candidates. BadInput when the price list and the catalogue contradict each other.
    """
    price_list = PriceList(tuple(prices), tuple(factors))
    placements, rejections = place(demand, profiles, refused, variants, instances, price_list)
    plans: list[tuple[Plan, Placement]] = []
    for placement in placements:
        answer = _sized(placement, demand, seed)
        if isinstance(answer, Plan):
            plans.append((answer, placement))
        else:
            rejections.append(answer)
    plans.sort(key=lambda pair: _rank(pair[0]))
    note = _binding(*plans[0], demand, seed) if plans else _why_none(rejections)
    return Recommendation(
        demand=demand,
        best=plans[0][0] if plans else None,
        alternatives=tuple(plan for plan, _ in plans[1:]),
        rejections=tuple(rejections),
        note=note,
    )


def best_on_host(recommendation: Recommendation) -> Plan | None:
    """Pick the best plan on a size as it was measured: the one that can be confirmed here."""
    best = [recommendation.best] if recommendation.best else []
    plans = [*best, *recommendation.alternatives]
    return next((p for p in plans if p.candidate.instance == p.candidate.size), None)


def _rank(plan: Plan) -> tuple[object, ...]:
    c = plan.candidate
    tie = (plan.p99_ms.high, c.variant, c.size, c.threads, c.instance)
    if plan.usd_per_month is None:
        return (1, plan.vcpus, plan.memory_gib, *tie)
    return (0, plan.usd_per_month, plan.vcpus, plan.memory_gib, *tie)


def _sized(placement: Placement, demand: Demand, seed: int) -> Plan | Rejection:
    """Find the smallest number of whole instances that holds, or why none up to the limit does."""
    held = placement.candidate.replicas_per_instance
    most = demand.max_replicas // held
    hopeless = _hopeless(placement, demand, most)
    if hopeless is not None:
        return _rejected(placement, hopeless)
    number = math.ceil((_needed(placement, demand) + demand.spare_replicas) / held)
    while (shortage := _shortage(placement, demand, number, seed)) is not None:
        if number >= most:
            return _rejected(placement, shortage)
        number += 1
    return _plan(placement, demand, number, seed)


def _rejected(placement: Placement, shortage: Shortage) -> Rejection:
    bottleneck, reason = shortage
    return Rejection(candidate=placement.candidate, bottleneck=bottleneck, reason=reason)


def _capacity_at_cap(placement: Placement) -> float:
    """Cap what one replica may be given, in requests per second, at the lower bound."""
    return UTILISATION_CAP * placement.profile.capacity_interval.low * placement.factor.low


def _needed(placement: Placement, demand: Demand) -> int:
    """Replicas that the utilisation cap asks for, spares not counted."""
    return max(1, math.ceil(demand.rate_rps / _capacity_at_cap(placement) - 1e-9))


def _hopeless(placement: Placement, demand: Demand, most: int) -> Shortage | None:
    """Name what no number of instances cures."""
    floor = unloaded_ms(placement.profile, demand.slo.quantile) / placement.factor.low
    if floor > demand.slo.limit_ms:
        return Bottleneck.LATENCY, (
            f"{_quantile(demand)} is {floor:.3g} ms without any load, "
            f"over the limit of {demand.slo.limit_ms:g} ms"
        )
    working = most * placement.candidate.replicas_per_instance - demand.spare_replicas
    if working < _needed(placement, demand):
        return Bottleneck.CAPACITY, (
            f"{demand.rate_rps:g} req/s need {_working(_needed(placement, demand))} of "
            f"{_capacity_at_cap(placement):.3g} req/s (at {UTILISATION_CAP:.0%} of capacity, "
            f"lower bound), {max(working, 0)} fit into max_replicas = {demand.max_replicas}"
        )
    return None


def _shortage(placement: Placement, demand: Demand, number: int, seed: int) -> Shortage | None:
    """Name what ``number`` instances fail on, without their spares or with them."""
    replicas = number * placement.candidate.replicas_per_instance
    working = replicas - demand.spare_replicas
    can = max(working, 0) * _capacity_at_cap(placement)
    if working < _needed(placement, demand):
        return Bottleneck.CAPACITY, (
            f"{_working(max(working, 0))} carr{'ies' if working == 1 else 'y'} "
            f"{can:.3g} req/s at {UTILISATION_CAP:.0%} "
            f"of capacity, {demand.rate_rps:g} are demanded"
        )
    upper = _upper_ms(placement, demand, replicas, seed)
    if upper > demand.slo.limit_ms:
        return Bottleneck.LATENCY, (
            f"{_quantile(demand)} may be {upper:.3g} ms with {_working(working)} "
            f"(upper bound), over the limit of {demand.slo.limit_ms:g} ms"
        )
    return None


def _upper_ms(placement: Placement, demand: Demand, replicas: int, seed: int) -> float:
    """Upper bound of the demanded quantile, with and without the spare replicas."""
    return max(
        _latency(placement, k, demand.rate_rps, demand.slo.quantile, seed).high
        for k in {replicas, replicas - demand.spare_replicas}
    )


def _latency(
    placement: Placement, replicas: int, rate_rps: float, quantile: float, seed: int
) -> Interval:
    """Latency in ms where a vCPU is ``factor`` times as fast as the measured one.

    A queue on a faster CPU is the same queue in faster time: latency(rate) there is
    latency(rate / factor) / factor here.
    """
    factor, profile = placement.factor, placement.profile

    def at(speed: float) -> Interval:
        here = predict_quantile(profile, replicas, rate_rps / speed, quantile, seed)
        return Interval(low=here.low / speed, mid=here.mid / speed, high=here.high / speed)

    return Interval(low=at(factor.high).low, mid=at(factor.mid).mid, high=at(factor.low).high)


def _plan(placement: Placement, demand: Demand, number: int, seed: int) -> Plan:
    candidate, profile, instance, factor, price = placement
    replicas = number * candidate.replicas_per_instance
    p50 = _latency(placement, replicas, demand.rate_rps, 0.5, seed)
    p99 = _latency(placement, replicas, demand.rate_rps, 0.99, seed)
    measured = _measured_there(placement, demand, replicas)
    if measured is not None:
        p50, p99 = _around(p50, measured.p50_ms), _around(p99, measured.p99_ms)
    per_month = None if price is None else number * price.usd_per_hour * HOURS_PER_MONTH
    rows_per_s = demand.rate_rps * demand.batch
    rows_per_month = rows_per_s * HOURS_PER_MONTH * 3600
    upper = _upper_ms(placement, demand, replicas, seed)
    return Plan(
        candidate=candidate,
        replicas=replicas,
        instances=number,
        vcpus=number * instance.vcpus,
        memory_gib=number * instance.memory_gib,
        replica_memory_gib=placement.replica_memory_gib,
        model_file=profile.variant.file,
        p50_ms=p50,
        p99_ms=p99,
        capacity_rps=replicas * _capacity_at_cap(placement),
        rows_per_s=rows_per_s,
        utilisation=demand.rate_rps / (replicas * profile.capacity_rps * factor.mid),
        latency_basis="predicted" if measured is None else "measured",
        usd_per_month=per_month,
        usd_per_million=None if per_month is None else per_month / rows_per_month * 1e6,
        price_basis=_price_basis(price, factor),
        margin=(
            f"{_quantile(demand)} upper bound {upper:.3g} ms, "
            f"{1 - upper / demand.slo.limit_ms:.0%} below the limit of {demand.slo.limit_ms:g} ms"
        ),
    )


def _measured_there(placement: Placement, demand: Demand, replicas: int) -> MeasuredPoint | None:
    """Find the run that measured this plan itself: one replica, this size, about this rate."""
    if replicas != 1 or placement.candidate.instance != placement.candidate.size:
        return None
    points = placement.profile.measured_points
    off = [(abs(p.rate_rps / demand.rate_rps - 1), p.rate_rps, p) for p in points]
    near = [entry for entry in off if entry[0] <= _SAME_RATE]
    return min(near, key=lambda entry: entry[:2])[2] if near else None


def _around(predicted: Interval, measured: float) -> Interval:
    """Put the measured figure into the range of it and what was predicted."""
    return Interval(
        low=min(predicted.low, measured), mid=measured, high=max(predicted.high, measured)
    )


def _price_basis(price: Price | None, factor: CpuFactor) -> str:
    if price is None:
        return "host vCPU: no price"
    return (
        f"{price.usd_per_hour:g} USD/h, {price.region}, as of {price.as_of} ({price.source}); "
        f"one vCPU there = {factor.low:g} to {factor.high:g} of one here ({factor.basis})"
    )


def _quantile(demand: Demand) -> str:
    return f"p{100 * demand.slo.quantile:g}"


def _binding(plan: Plan, placement: Placement, demand: Demand, seed: int) -> str:
    """One sentence: what keeps the best plan from being smaller."""
    fewer = plan.instances - 1
    shortage = _shortage(placement, demand, fewer, seed) if fewer else None
    if shortage is None:
        return (
            f"One {placement.candidate.instance} is enough, so only a smaller instance could "
            f"be cheaper; {plan.margin}."
        )
    bottleneck, reason = shortage
    return f"Bound by {bottleneck}: on {fewer} x {placement.candidate.instance}, {reason}."


def _why_none(rejections: Sequence[Rejection]) -> str:
    """One sentence: what most candidates fail on when none holds."""
    counts = Counter(r.bottleneck.value for r in rejections)
    listed = ", ".join(
        f"{n} on {name}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    return (
        f"No candidate holds: {listed} of {len(rejections)} in all." if listed else "No candidate."
    )


def _working(replicas: int) -> str:
    """Replicas that answer, spares not counted."""
    return f"{replicas} working replica" + ("" if replicas == 1 else "s")
