"""The nearest demands that work, when a demand is one that nothing holds.

Each constraint is relaxed alone, all others as they were demanded: those whose relaxation
lets something hold are the ones that bind. Rate and limits are searched over the sizing of
every placement, gates over the values that variants and replicas have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from loadtests.objective import Slo
from planner.candidates import Placement, place, replica_memory_gib
from planner.highest import distinct, highest_plan, highest_rate, sizing_of
from planner.prices import PriceList
from planner.profile import Refusal
from planner.recommend import recommend
from planner.records import (
    MOST_REPLICAS,
    Constraint,
    Demand,
    Nearest,
    Plan,
    ServiceProfile,
)
from planner.sizing import quantile_name
from serving.records import InstanceType, Variant


class _Known(NamedTuple):
    """Everything beside the demand that an answer follows from."""

    profiles: Sequence[ServiceProfile]
    refused: Sequence[Refusal]
    variants: Sequence[Variant]
    instances: Mapping[str, InstanceType]
    prices: PriceList
    seed: int

    def placements(self, demand: Demand) -> list[Placement]:
        return place(
            demand, self.profiles, self.refused, self.variants, self.instances, self.prices
        )[0]

    def best(self, demand: Demand) -> Plan | None:
        prices, factors = self.prices
        return recommend(
            demand,
            self.profiles,
            self.refused,
            self.variants,
            self.instances,
            prices,
            factors,
            self.seed,
            batching=False,
        ).best


def nearest(
    demand: Demand,
    profiles: Sequence[ServiceProfile],
    refused: Sequence[Refusal],
    variants: Sequence[Variant],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
    seed: int,
) -> tuple[Nearest, ...]:
    """The nearest demand that a plan holds, one for each constraint that is enough to relax.

    For a ``demand`` that nothing holds; () where no single change of it is enough. The spare
    replicas and the region stay as they are.
    """
    known = _Known(profiles, refused, variants, instances, prices, seed)
    return tuple(
        found
        for search in (_rate, _limits, _replicas, _quality, _memory)
        for found in search(demand, known)
    )


def _rate(demand: Demand, known: _Known) -> Iterator[Nearest]:
    rate = highest_rate(known.placements(demand), demand, known.seed)
    found = highest_plan(demand, rate, known.best) if 0 < rate < demand.rate_rps else None
    if found is not None:
        yield Nearest(
            constraint=Constraint.RATE,
            asked=demand.rate_rps,
            works=found[0],
            plan=found[1],
        )


def _limits(demand: Demand, known: _Known) -> Iterator[Nearest]:
    """The tightest limit of each objective while the others stay."""
    placements = distinct(known.placements(demand))
    for slo in demand.slos:
        sizings = [sizing_of(p, demand, known.seed) for p in placements]
        least = math.inf
        for sizing in sorted(sizings, key=lambda s: s.floor_ms(slo.quantile)):
            if sizing.floor_ms(slo.quantile) >= least:
                break
            least = min(least, sizing.least_ms(slo.quantile))
        if slo.limit_ms < least < math.inf:
            works = _rounded_up(least)
            plan = known.best(_with_limit(demand, slo, works))
            if plan is not None:
                yield Nearest(
                    constraint=Constraint.LIMIT,
                    of=quantile_name(slo),
                    asked=slo.limit_ms,
                    works=works,
                    plan=plan,
                )


def _replicas(demand: Demand, known: _Known) -> Iterator[Nearest]:
    unbound = demand.model_copy(update={"max_replicas": MOST_REPLICAS})
    options = [
        (p.candidate.replicas_per_instance, sizing_of(p, unbound, known.seed))
        for p in distinct(known.placements(unbound))
    ]
    fewest = MOST_REPLICAS + 1
    for held, sizing in sorted(options, key=lambda option: option[0] * option[1].fewest):
        if held * sizing.fewest >= fewest:
            break
        number = sizing.smallest
        if isinstance(number, int):
            fewest = min(fewest, held * number)
    if demand.max_replicas < fewest <= MOST_REPLICAS:
        plan = known.best(demand.model_copy(update={"max_replicas": fewest}))
        if plan is not None:
            yield Nearest(
                constraint=Constraint.REPLICAS,
                asked=demand.max_replicas,
                works=fewest,
                plan=plan,
            )


def _quality(demand: Demand, known: _Known) -> Iterator[Nearest]:
    """The best quality that a variant which holds has, for each measure alone."""
    for measure, least in demand.min_quality.items():
        others = {name: value for name, value in demand.min_quality.items() if name != measure}
        had = (getattr(v.quality, measure, None) for v in known.variants)
        below = {_rounded_down(value) for value in had if value is not None and value < least}

        def with_floor(
            floor: float, name: str = measure, kept: dict[str, float] = others
        ) -> Demand:
            return demand.model_copy(update={"min_quality": {**kept, name: floor}})

        found = _first(sorted(below, reverse=True), with_floor, known)
        if found is not None:
            works, plan = found
            yield Nearest(
                constraint=Constraint.QUALITY, of=measure, asked=least, works=works, plan=plan
            )


def _memory(demand: Demand, known: _Known) -> Iterator[Nearest]:
    most = demand.max_replica_memory_gib
    if most is None:
        return
    unbound = demand.model_copy(update={"max_replica_memory_gib": None})
    needed = {replica_memory_gib(p.profile) for p in known.placements(unbound)}
    above = sorted({_rounded_up(gib) for gib in needed if gib > most})

    def with_limit(gib: float) -> Demand:
        return demand.model_copy(update={"max_replica_memory_gib": gib})

    found = _first(above, with_limit, known)
    if found is not None:
        yield Nearest(constraint=Constraint.MEMORY, asked=most, works=found[0], plan=found[1])


def _first(
    values: Sequence[float], changed: Callable[[float], Demand], known: _Known
) -> tuple[float, Plan] | None:
    """The first value with a plan, by bisection: each permits all that those before do."""
    low, high = 0, len(values)
    found = None
    while low < high:
        middle = (low + high) // 2
        plan = known.best(changed(values[middle]))
        if plan is None:
            low = middle + 1
        else:
            high, found = middle, (values[middle], plan)
    return found


def _with_limit(demand: Demand, slo: Slo, limit_ms: float) -> Demand:
    """The demand with another limit on one of its objectives."""
    first, *more = (
        s.model_copy(update={"limit_ms": limit_ms}) if s == slo else s for s in demand.slos
    )
    return demand.model_copy(update={"slo": first, "more_slos": tuple(more)})


def _rounded_up(value: float) -> float:
    """To three significant digits, never below."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit) * unit:.6g}")


def _rounded_down(value: float) -> float:
    """A quality to four decimals, never above."""
    return math.floor(value * 1e4) / 1e4
