"""The recommendation: the cheapest candidate that holds, and why every other one is not it."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from planner.candidates import Placement, place
from planner.curve import Predictor, predictor
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
from planner.sizing import Shortage, Sizing, quantile_name
from serving.records import InstanceType, Variant

PLANS = 10
"""So many of the cheapest plans are worked out, with a price and without; what cannot be
cheaper than they are is rejected for its cost, without simulating it."""

_SAME_RATE = 0.05


class _Option(NamedTuple):
    """A placement that may hold, and a bound that its rank cannot fall below."""

    placement: Placement
    sizing: Sizing
    bound: tuple[float, float, float]


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
    """Size every candidate that may be among the cheapest for ``demand``, and rank the plans.

    Priced plans come first, by their monthly cost; plans on the host's own sizes, which
    have no price, follow by vCPUs and memory. Plans and rejections together are exactly the
    candidates. BadInput when the price list and the catalogue contradict each other.
    """
    price_list = PriceList(tuple(prices), tuple(factors))
    placements, rejections = place(demand, profiles, refused, variants, instances, price_list)
    priced: list[_Option] = []
    unpriced: list[_Option] = []
    sizings = _Sizings(demand, seed)
    for placement in placements:
        sizing = sizings.of(placement)
        if sizing.hopeless is not None:
            rejections.append(_rejected(placement, sizing.hopeless))
            continue
        option = _Option(placement, sizing, _size(placement, sizing.fewest))
        (unpriced if placement.price is None else priced).append(option)
    plans = [
        *_cheapest(priced, demand, rejections),
        *_cheapest(unpriced, demand, rejections),
    ]
    note = _binding(*plans[0]) if plans else _why_none(rejections)
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


class _Sizings:
    """Sizings by what they depend on; many shapes share one."""

    def __init__(self, demand: Demand, seed: int) -> None:
        self._demand, self._seed = demand, seed
        self._predictors: dict[int, Predictor] = {}
        self._sizings: dict[tuple[int, float, float, float, int], Sizing] = {}

    def of(self, placement: Placement) -> Sizing:
        profile, factor = placement.profile, placement.factor
        held = placement.candidate.replicas_per_instance
        # By identity: hashing a profile takes longer than all else here.
        key = (id(profile), factor.low, factor.mid, factor.high, held)
        if key not in self._sizings:
            found = self._predictors.get(key[0]) or predictor(profile, self._seed)
            self._predictors[key[0]] = found
            self._sizings[key] = Sizing(found, factor, held, self._demand)
        return self._sizings[key]


def _cheapest(
    options: list[_Option], demand: Demand, rejections: list[Rejection]
) -> list[tuple[Plan, _Option]]:
    """Rank the plans that hold, at least the ``PLANS`` cheapest; the others become rejections.

    Branch and bound: by the number of instances that the rate alone asks for, until no
    option that is left can come before the plans that there are.
    """
    options.sort(key=lambda option: (option.bound, _names(option.placement)))
    plans: list[tuple[Plan, _Option]] = []
    sizes: list[tuple[float, float, float]] = []
    tried = 0
    for option in options:
        if len(sizes) >= PLANS and option.bound > sizes[PLANS - 1]:
            break
        tried += 1
        number = option.sizing.smallest
        if isinstance(number, Shortage):
            rejections.append(_rejected(option.placement, number))
        else:
            plans.append((_plan(option, demand, number), option))
            insort(sizes, _size(option.placement, number))
    rejections += [_too_dear(option) for option in options[tried:]]
    plans.sort(key=lambda pair: _rank(pair[0], pair[1].placement))
    return plans


def _size(placement: Placement, number: int) -> tuple[float, float, float]:
    """Rank ``number`` instances: monthly cost (0 without a price), vCPUs, memory."""
    instance, price = placement.instance, placement.price
    usd = 0.0 if price is None else number * price.usd_per_hour * HOURS_PER_MONTH
    return usd, number * instance.vcpus, number * instance.memory_gib


def _rank(plan: Plan, placement: Placement) -> tuple[object, ...]:
    return (*_size(placement, plan.instances), plan.p99_ms.high, *_names(placement))


def _names(placement: Placement) -> tuple[str, str, int, str]:
    c = placement.candidate
    return c.variant, c.size, c.threads, c.instance


def _rejected(placement: Placement, shortage: Shortage) -> Rejection:
    bottleneck, reason = shortage
    return Rejection(candidate=placement.candidate, bottleneck=bottleneck, reason=reason)


def _too_dear(option: _Option) -> Rejection:
    usd, vcpus, _ = option.bound
    least = f"{vcpus:g} vCPU" if option.placement.price is None else f"USD {usd:,.2f} per month"
    return Rejection(
        candidate=option.placement.candidate,
        bottleneck=Bottleneck.COST,
        reason=f"at least {least} for the rate alone ({option.sizing.fewest} x "
        f"{option.placement.candidate.instance}); {PLANS} plans that hold come before it",
    )


def _plan(option: _Option, demand: Demand, number: int) -> Plan:
    placement, sizing = option.placement, option.sizing
    candidate, profile, instance, factor, price = placement
    replicas = number * candidate.replicas_per_instance
    p50, p99 = sizing.latency(replicas, 0.5), sizing.latency(replicas, 0.99)
    measured = _measured_there(placement, demand, replicas)
    if measured is not None:
        p50, p99 = _around(p50, measured.p50_ms), _around(p99, measured.p99_ms)
    per_month = None if price is None else number * price.usd_per_hour * HOURS_PER_MONTH
    rows_per_s = demand.rate_rps * demand.batch
    rows_per_month = rows_per_s * HOURS_PER_MONTH * 3600
    upper = sizing.upper_ms(number)
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
        capacity_rps=sizing.carried_rps(replicas),
        rows_per_s=rows_per_s,
        utilisation=demand.rate_rps / (replicas * profile.capacity_rps * factor.mid),
        latency_basis="predicted" if measured is None else "measured",
        usd_per_month=per_month,
        usd_per_million=None if per_month is None else per_month / rows_per_month * 1e6,
        price_basis=_price_basis(price, factor),
        margin=(
            f"{quantile_name(demand)} upper bound {upper:.3g} ms, "
            f"{1 - upper / demand.slo.limit_ms:.0%} below the limit of {demand.slo.limit_ms:g} ms"
        ),
        staffing=sizing.staffing(number),
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


def _binding(plan: Plan, option: _Option) -> str:
    """One sentence: what keeps the best plan from being smaller."""
    fewer = plan.instances - 1
    instance = plan.candidate.instance
    shortage = option.sizing.shortage(fewer) if fewer else None
    if shortage is None:
        return (
            f"One {instance} is enough, so only a smaller instance could be cheaper; {plan.margin}."
        )
    bottleneck, reason = shortage
    return f"Bound by {bottleneck}: on {fewer} x {instance}, {reason}."


def _why_none(rejections: Sequence[Rejection]) -> str:
    """One sentence: what most candidates fail on when none holds."""
    counts = Counter(r.bottleneck.value for r in rejections)
    listed = ", ".join(
        f"{n} on {name}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    return (
        f"No candidate holds: {listed} of {len(rejections)} in all." if listed else "No candidate."
    )
