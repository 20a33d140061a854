"""The nearest demands that work, when a demand is one that nothing holds.

Each constraint is relaxed alone, all others as they were demanded: those whose relaxation
lets something hold are the ones that bind. Where none is enough alone, two are relaxed together:
the first as little as it may be with the second out of the way (a limit a tenth more), then the
second as little as that leaves. Rate and limits are searched over the sizing of every placement,
gates over the values that variants and replicas have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, islice
from typing import NamedTuple

from loadtests.objective import Slo
from planner.candidates import Placement, place, replica_memory_gib
from planner.constraint import Change, Constraint
from planner.highest import distinct, highest_plan, highest_rate, sizing_of
from planner.prices import PriceList
from planner.profile import Refusal
from planner.recommend import recommend
from planner.records import (
    MOST_REPLICAS,
    Demand,
    Nearest,
    Plan,
    ServiceProfile,
)
from planner.sizing import quantile_name
from serving.records import InstanceType, Variant

_MOST_PAIRS = 3
_EASED = 1.1
_IDLE = 1e-3
"""Of the rate: so few requests that none waits."""
_NO_LIMIT_MS = 1e9


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

    For a ``demand`` that nothing holds. Where no single change of it is enough, one for each two
    that are, at most ``_MOST_PAIRS``; () where that is not enough either. The spare replicas and
    the region stay as they are.
    """
    known = _Known(profiles, refused, variants, instances, prices, seed)
    rate, *others = _parts(demand)
    alone = tuple(near for part in (rate, *others) for near in part.search(demand, known))
    # A rate is what comes in: of two it gives way where nothing else is enough.
    return (
        alone
        or tuple(islice(_pairs(combinations(others, 2), demand, known), _MOST_PAIRS))
        or tuple(islice(_pairs(((other, rate) for other in others), demand, known), _MOST_PAIRS))
    )


class _Part(NamedTuple):
    """One figure of a demand: the search for where it would work, and the demand without it."""

    search: Callable[[Demand, _Known], Iterator[Nearest]]
    without: Callable[[Demand], Demand]


def _parts(demand: Demand) -> list[_Part]:
    """All figures that may give way, the rate first."""
    most = {"max_replicas": MOST_REPLICAS}
    return [
        _Part(_rate, lambda d: d.model_copy(update={"rate_rps": _IDLE * d.rate_rps})),
        *(
            _Part(partial(_limit, slo.quantile), partial(_unlimited, slo.quantile))
            for slo in demand.slos
        ),
        _Part(_replicas, lambda d: d.model_copy(update=most)),
        *(_Part(partial(_quality, name), partial(_ungated, name)) for name in demand.min_quality),
        _Part(_memory, lambda d: d.model_copy(update={"max_replica_memory_gib": None})),
    ]


def _pairs(
    pairs: Iterable[tuple[_Part, _Part]], demand: Demand, known: _Known
) -> Iterator[Nearest]:
    """Where two figures are enough together."""
    for first, second in pairs:
        for near in first.search(second.without(demand), known):
            works = near.works
            if near.constraint is Constraint.LIMIT:  # the last ms would cost the second too much
                works = _rounded_up(_EASED * works)
            change = Change(constraint=near.constraint, of=near.of, asked=near.asked, works=works)
            for last in second.search(_with(demand, change), known):
                yield last.model_copy(update={"besides": change})


def _with(demand: Demand, change: Change) -> Demand:
    """The demand with one figure as it would work."""
    works = change.works
    match change.constraint:
        case Constraint.RATE:
            return demand.model_copy(update={"rate_rps": works})
        case Constraint.LIMIT:
            slo = next(s for s in demand.slos if quantile_name(s) == change.of)
            return _with_limit(demand, slo, works)
        case Constraint.REPLICAS:
            return demand.model_copy(update={"max_replicas": round(works)})
        case Constraint.QUALITY:
            floors = {**demand.min_quality, change.of: works}
            return demand.model_copy(update={"min_quality": floors})
        case Constraint.MEMORY:
            return demand.model_copy(update={"max_replica_memory_gib": works})


def _unlimited(quantile: float, demand: Demand) -> Demand:
    slo = next(s for s in demand.slos if s.quantile == quantile)
    return _with_limit(demand, slo, _NO_LIMIT_MS)


def _ungated(measure: str, demand: Demand) -> Demand:
    others = {name: least for name, least in demand.min_quality.items() if name != measure}
    return demand.model_copy(update={"min_quality": others})


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


def _limit(quantile: float, demand: Demand, known: _Known) -> Iterator[Nearest]:
    """The tightest limit of one objective while the others stay."""
    slo = next(s for s in demand.slos if s.quantile == quantile)
    sizings = [sizing_of(p, demand, known.seed) for p in distinct(known.placements(demand))]
    least = math.inf
    for sizing in sorted(sizings, key=lambda s: s.floor_ms(quantile)):
        if sizing.floor_ms(quantile) >= least:
            break
        least = min(least, sizing.least_ms(quantile))
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


def _quality(measure: str, demand: Demand, known: _Known) -> Iterator[Nearest]:
    """The best quality that a variant which holds has, by one measure alone."""
    least = demand.min_quality[measure]
    had = (getattr(v.quality, measure, None) for v in known.variants)
    below = {_rounded_down(value) for value in had if value is not None and value < least}

    def with_floor(floor: float) -> Demand:
        return demand.model_copy(update={"min_quality": {**demand.min_quality, measure: floor}})

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
