"""The recommendation: the cheapest candidate that holds, and why every other one is not it."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from loadtests.objective import Slo
from planner.allocatable import kept_in_words
from planner.batch_choice import Batchings, Found, batch_choice
from planner.candidates import HERE, Placement, place
from planner.curve import Predictor, predictor
from planner.measuring import measure_command
from planner.options import Cost, Option, cost_of, names_of
from planner.pareto import objectives, with_pareto
from planner.prices import Price, PriceList
from planner.profile import Refusal
from planner.records import (
    HOURS_PER_MONTH,
    Bottleneck,
    CpuFactor,
    Demand,
    Interval,
    MeasuredPoint,
    Plan,
    PredictedProfile,
    Recommendation,
    Rejection,
    ServiceProfile,
)
from planner.sharing import capacity
from planner.sizing import Shortage, Sizing, quantile_name
from serving.records import InstanceType, Variant

PLANS = 10
"""So many of the cheapest plans are worked out, with a price and without; what cannot be
cheaper than they are is rejected for its cost, without simulating it."""

_SAME_RATE = 0.05


def recommend(
    demand: Demand,
    profiles: Iterable[ServiceProfile],
    refused: Iterable[Refusal],
    variants: Iterable[Variant],
    instances: Mapping[str, InstanceType],
    prices: Sequence[Price],
    factors: Sequence[CpuFactor],
    seed: int,
    quality_loss: Mapping[str, float] | None = None,
    measure_with: str | None = None,
    *,
    batching: bool = True,
) -> Recommendation:
    """Size every candidate that may be among the cheapest for ``demand``, and rank the plans.

    Priced plans come first, by their monthly cost; plans on the host's own sizes, which
    have no price, follow by vCPUs and memory. At equal cost a measured size comes before a
    predicted one: one scales out before one guesses. Plans and rejections together are exactly the
    candidates without batching; with ``batching`` the cheapest that shares calls is a plan besides,
    where it is strictly cheaper than the best of them, and of a mix a rejection besides says where
    none was tried. ``quality_loss`` is that of each variant against the baseline, as a fraction of
    one; ``measure_with`` as in :func:`planner.measuring.measure_command`. BadInput when the price
    list and the catalogue contradict each other.
    """
    losses = quality_loss or {}
    reject = partial(_rejected, demand=demand, measure_with=measure_with)
    price_list = PriceList(tuple(prices), tuple(factors))
    known = list(profiles)
    placements, rejections = place(
        demand, known, refused, variants, instances, price_list, measure_with
    )
    priced: list[Option] = []
    unpriced: list[Option] = []
    sizings = _Sizings(demand, seed)
    for placement in placements:
        sizing = sizings.of(placement)
        if sizing.hopeless is not None:
            rejections.append(reject(placement, sizing, sizing.hopeless))
            continue
        option = Option(placement, sizing, cost_of(placement, sizing.fewest))
        (unpriced if placement.price is None else priced).append(option)
    kinds = [
        _cheapest(options, demand, rejections, losses, reject) for options in (priced, unpriced)
    ]
    choice = None
    if batching:
        batchings = Batchings(demand, known, seed)
        may = [p for p in placements if demand.mix and sizings.of(p).fast_enough]
        rejections += _unshared(batchings, may, kinds)
        found, kind = _batched(batchings, placements, kinds)
        if found is not None:
            without = kind[0][0].replicas if kind else None
            choice = batch_choice(found, demand, without)
            loss = losses.get(found.option.placement.candidate.variant)
            kind.append((_plan(found.option, demand, found.number, loss), found.option))
    plans = [pair for kind in kinds for pair in _ranked(kind)]
    note = _binding(*plans[0]) + _together(plans[0][0], demand) if plans else _why_none(rejections)
    return Recommendation(
        demand=demand,
        best=plans[0][0] if plans else None,
        alternatives=tuple(plan for plan, _ in plans[1:]),
        rejections=tuple(rejections),
        note=note,
        batching=choice,
    )


def best_on_host(recommendation: Recommendation) -> Plan | None:
    """Pick the best plan on a size as it was measured: the one that can be confirmed here."""
    best = [recommendation.best] if recommendation.best else []
    plans = [p for p in (*best, *recommendation.alternatives) if not p.predicted]
    return next((p for p in plans if p.candidate.instance == p.candidate.size), None)


class _Sizings:
    """Sizings by what they depend on; many shapes share one."""

    def __init__(self, demand: Demand, seed: int) -> None:
        self._demand, self._seed = demand, seed
        self._predictors: dict[int, Predictor] = {}
        self._sizings: dict[tuple[int, float, float, float, bool, int], Sizing] = {}

    def of(self, placement: Placement) -> Sizing:
        profile, factor = placement.profile, placement.factor
        held = placement.candidate.replicas_per_instance
        # By identity: hashing a profile takes longer than all else here.
        key = (id(profile), factor.low, factor.mid, factor.high, factor is HERE, held)
        if key not in self._sizings:
            found = self._predictors.get(key[0]) or predictor(profile, self._seed)
            self._predictors[key[0]] = found
            self._sizings[key] = Sizing(found, factor, held, self._demand)
        return self._sizings[key]


def _cheapest(
    options: list[Option],
    demand: Demand,
    rejections: list[Rejection],
    losses: Mapping[str, float],
    reject: Callable[[Placement, Sizing, Shortage], Rejection],
) -> list[tuple[Plan, Option]]:
    """Rank the plans that hold, at least the ``PLANS`` cheapest; the others become rejections.

    Branch and bound: by the number of instances that the rate alone asks for, until no
    option that is left can come before the plans that there are. So no plan left untried could
    dominate one of the first: it costs more.
    """
    options.sort(key=lambda option: (option.bound, names_of(option.placement)))
    plans: list[tuple[Plan, Option]] = []
    sizes: list[Cost] = []
    tried = 0
    for option in options:
        if len(sizes) >= PLANS and option.bound > sizes[PLANS - 1]:
            break
        tried += 1
        number = option.sizing.smallest
        if isinstance(number, Shortage):
            rejections.append(reject(option.placement, option.sizing, number))
        else:
            loss = losses.get(option.placement.candidate.variant)
            plans.append((_plan(option, demand, number, loss), option))
            insort(sizes, cost_of(option.placement, number))
    rejections += [_too_dear(option) for option in options[tried:]]
    return _ranked(plans)


def _ranked(plans: Sequence[tuple[Plan, Option]]) -> list[tuple[Plan, Option]]:
    """In the planner's order, those of the Pareto set marked."""
    ranked = sorted(plans, key=lambda pair: (objectives(pair[0]), names_of(pair[1].placement)))
    marked = with_pareto([plan for plan, _ in ranked])
    return [(plan, option) for plan, (_, option) in zip(marked, ranked, strict=True)]


def _batched(
    batchings: Batchings,
    placements: Sequence[Placement],
    kinds: Sequence[list[tuple[Plan, Option]]],
) -> tuple[Found | None, list[tuple[Plan, Option]]]:
    """The cheapest candidate with batching, if it would be the best plan, and whose plans it joins.

    ``kinds`` are the plans with a price and those without one. Where any hold, what is cheaper than
    the best of all is of its kind; where none does, one with a price comes first.
    """
    for kind, priced in zip(kinds, (True, False), strict=True):
        own = [p for p in placements if (p.price is not None) == priced]
        best = kind[0] if kind else None
        below = None if best is None else cost_of(best[1].placement, best[0].instances)
        if best is None and any(kinds):
            continue
        found = batchings.cheapest(own, below)
        if found is not None or best is not None:
            return found, kind
    return None, kinds[0]


def _unshared(
    batchings: Batchings,
    placements: Sequence[Placement],
    kinds: Sequence[list[tuple[Plan, Option]]],
) -> list[Rejection]:
    """Of a mix, where sharing calls would have been tried: against the best plan, or without one.

    ``placements`` are those that sharing calls may help.
    """
    for kind, priced in zip(kinds, (True, False), strict=True):
        if kind:
            plan, option = kind[0]
            own = [p for p in placements if (p.price is not None) == priced]
            return batchings.refused(own, cost_of(option.placement, plan.instances))
    return batchings.refused(placements, None)


def _rejected(
    placement: Placement,
    sizing: Sizing,
    shortage: Shortage,
    *,
    demand: Demand,
    measure_with: str | None,
) -> Rejection:
    """A shortage as a rejection; of a predicted size that may hold it is a lack of knowledge."""
    bottleneck, reason = shortage
    profile = placement.profile
    if isinstance(profile, PredictedProfile):
        reason = f"{_predicted(profile)}: {reason}"
        if sizing.may_hold:
            bottleneck = Bottleneck.UNMEASURED
            command = measure_command(placement.candidate, demand, measure_with)
            reason += ", but at the lower end of its interval it holds; measure this"
            reason += f": `{command}`"
    return Rejection(candidate=placement.candidate, bottleneck=bottleneck, reason=reason)


def _too_dear(option: Option) -> Rejection:
    usd, _, vcpus, _ = option.bound
    least = f"{vcpus:g} vCPU" if option.placement.price is None else f"USD {usd:,.2f} per month"
    return Rejection(
        candidate=option.placement.candidate,
        bottleneck=Bottleneck.COST,
        reason=f"at least {least} for the rate alone ({option.sizing.fewest} x "
        f"{option.placement.candidate.instance}); {PLANS} plans that hold come before it",
    )


def _predicted(profile: PredictedProfile) -> str:
    """What a predicted profile rests on, with the error of leaving out one that was measured."""
    start = f"predicted {profile.unmeasured}, from {', '.join(profile.measured_at)}; "
    if profile.left_out_error is None:
        return start + "two make a line, and nothing tests it"
    inner = "" if profile.unmeasured == "size" else "between "
    return start + f"each {inner}left out in turn is missed by at most {profile.left_out_error:.0%}"


def _ingress(placement: Placement, demand: Demand) -> str:
    """CPU that the ingress needs at the demanded rate, and whether it is in the instances."""
    vcpus = demand.rate_rps * placement.profile.ingress_cpu_ms / 1e3 / placement.factor.mid
    if placement.factor is HERE:
        where = "on top of the replicas"
        points = placement.profile.platform
        if points and demand.rate_rps > points[-1].rate_rps * (1 + _SAME_RATE):
            where += (
                f"; how long requests wait for it was measured up to {points[-1].rate_rps:,.0f} "
                "req/s in all, and more is not in the prediction"
            )
    elif placement.instance.enforcement == "quota":
        where = "outside of these containers, not in their cost"
    else:
        where = "room for it is kept on the instances"
    return f"{vcpus:.2g} vCPU at this rate, {where}"


def _plan(option: Option, demand: Demand, number: int, quality_loss: float | None) -> Plan:
    placement, sizing = option.placement, option.sizing
    candidate, profile, instance, factor, price = placement
    replicas = number * candidate.replicas_per_instance
    p50, p99 = sizing.latency(replicas, 0.5), sizing.latency(replicas, 0.99)
    measured = _measured_there(placement, demand, replicas)
    if measured is not None:
        p50, p99 = _around(p50, measured.p50_ms), _around(p99, measured.p99_ms)
    per_month = None if price is None else number * price.usd_per_hour * HOURS_PER_MONTH
    rows_per_s = demand.rate_rps * demand.mean_batch
    rows_per_month = rows_per_s * HOURS_PER_MONTH * 3600
    said = {}
    if isinstance(profile, PredictedProfile):
        said[profile.unmeasured] = _predicted(profile)
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
        utilisation=demand.rate_rps / (replicas * capacity(profile, replicas).mid * factor.mid),
        latency_basis="predicted" if measured is None else "measured",
        usd_per_month=per_month,
        usd_per_million=None if per_month is None else per_month / rows_per_month * 1e6,
        price_basis=_price_basis(price, factor),
        margin="; ".join(
            _margin(slo, sizing.upper_ms(number, slo.quantile)) for slo in demand.slos
        ),
        staffing=sizing.staffing(number),
        predicted_size=said.get("size", ""),
        predicted_batch=said.get("batch size", ""),
        predicted_length=said.get("length", ""),
        quality_loss=quality_loss,
        ingress=_ingress(placement, demand),
        kept="" if factor is HERE else kept_in_words(instance),
    )


def _margin(slo: Slo, upper_ms: float) -> str:
    return (
        f"{quantile_name(slo)} upper bound {upper_ms:.3g} ms, "
        f"{1 - upper_ms / slo.limit_ms:.0%} below the limit of {slo.limit_ms:g} ms"
    )


def _measured_there(placement: Placement, demand: Demand, replicas: int) -> MeasuredPoint | None:
    """Find the run that measured this plan itself: one replica, this size, about this rate."""
    if replicas != 1 or placement.candidate.instance != placement.candidate.size:
        return None
    if demand.mix is not None:  # of which no run was made
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


def _binding(plan: Plan, option: Option) -> str:
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


def _together(plan: Plan, demand: Demand) -> str:
    """What the spare replicas do not help against; "" where they help against a machine, too."""
    held = plan.candidate.replicas_per_instance
    if not demand.spare_replicas or held <= demand.spare_replicas:
        return ""
    return (
        f" A {plan.candidate.instance} that is lost takes {held} replicas with it, and "
        f"{demand.spare_replicas} {'is' if demand.spare_replicas == 1 else 'are'} to spare."
    )


def _why_none(rejections: Sequence[Rejection]) -> str:
    """One sentence: what most candidates fail on when none holds."""
    counts = Counter(r.bottleneck.value for r in rejections)
    listed = ", ".join(
        f"{n} on {name}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    return (
        f"No candidate holds: {listed} of {len(rejections)} in all." if listed else "No candidate."
    )
