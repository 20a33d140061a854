"""The nearest demands that work lie on the edge of what holds, and differ in one figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.objective import Slo
from planner.constraint import Change, Constraint
from planner.nearest import nearest
from planner.prices import Price, PriceList
from planner.recommend import recommend
from planner.records import CpuFactor, Demand, Nearest, Plan
from serving.records import Quality

Build = Callable[..., Any]

CLOSER = {Constraint.RATE: 1.01, Constraint.LIMIT: 0.98}
"""How far beyond the edge nothing holds: what rounding and the search leave open."""


class World:
    """A good and a quick variant on two sizes, and one shape that can be bought."""

    def __init__(self, profile: Build, variant: Build, instance: Build) -> None:
        shapes = [
            instance("sim-0.5"),
            instance("sim-1"),
            instance("vm-2", vcpus=2, memory_gib=8, cpu_family="cloud"),
        ]
        self.instances = {i.name: i for i in shapes}
        self.variants = [
            variant("good", quality=Quality(n_rows=100, auc=0.8, f1=0.5)),
            variant("quick", quality=Quality(n_rows=100, auc=0.75, f1=0.6)),
        ]
        self.profiles = [
            profile(
                (9 / speed, 11 / speed),
                95 * speed * cpus,
                variant=v,
                instance=self.instances[size],
                peak_memory_bytes=memory << 20,
            )
            for v, speed, memory in zip(self.variants, (1.0, 2.0), (400, 200), strict=True)
            for size, cpus in (("sim-0.5", 0.5), ("sim-1", 1.0))
        ]
        price = Price(
            instance="vm-2",
            usd_per_hour=0.1,
            region="r",
            as_of="2025-01-15",
            source="list",
            cpu_family="cloud",
        )
        factor = CpuFactor(target_family="cloud", low=0.5, mid=0.8, high=1, basis="assumed")
        self.prices = PriceList((price,), (factor,))

    def best(self, demand: Demand) -> Plan | None:
        prices, factors = self.prices
        return recommend(
            demand, self.profiles, [], self.variants, self.instances, prices, factors, 0
        ).best

    def near(self, demand: Demand) -> dict[tuple[Constraint, str], Nearest]:
        assert self.best(demand) is None
        found = nearest(demand, self.profiles, [], self.variants, self.instances, self.prices, 0)
        return {(one.constraint, one.of): one for one in found}


@pytest.fixture(scope="module")
def world(profile: Build, variant: Build, instance: Build) -> World:
    return World(profile, variant, instance)


def changed(demand: Demand, one: Change, figure: float) -> Demand:
    """The demand with the figure that ``one`` is about replaced."""
    match one.constraint:
        case Constraint.RATE:
            update: dict[str, Any] = {"rate_rps": figure}
        case Constraint.REPLICAS:
            update = {"max_replicas": int(figure)}
        case Constraint.QUALITY:
            update = {"min_quality": {**demand.min_quality, one.of: figure}}
        case Constraint.MEMORY:
            update = {"max_replica_memory_gib": figure}
        case _:
            slos = [
                Slo(quantile=s.quantile, limit_ms=figure)
                if f"p{100 * s.quantile:g}" == one.of
                else s
                for s in demand.slos
            ]
            update = {"slo": slos[0], "more_slos": tuple(slos[1:])}
    return demand.model_copy(update=update)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(100, 4000),
    limit=st.floats(2, 40),
    median=st.none() | st.floats(2, 30),
    most=st.integers(2, 12),
    spare=st.integers(0, 1),
)
def test_it_is_the_edge_of_what_holds(
    world: World,
    demand: Build,
    rate: float,
    limit: float,
    median: float | None,
    most: int,
    spare: int,
) -> None:
    """What is said to work does, with the plan that it names; a little beyond nothing does."""
    more = () if median is None else (Slo(quantile=0.5, limit_ms=median),)
    asked = demand(rate, limit, more_slos=more, max_replicas=most, spare_replicas=spare)
    if world.best(asked) is not None:
        return
    for one in world.near(asked).values():
        base = asked
        if one.besides is not None:  # the first of two has given way already
            base = changed(asked, one.besides, one.besides.works)
        assert world.best(changed(base, one, one.works)) == one.plan
        if one.constraint is Constraint.REPLICAS:
            beyond = one.works - 1
        else:
            beyond = CLOSER[one.constraint] * one.works
        assert world.best(changed(base, one, beyond)) is None


def test_a_rate_that_is_too_high_is_the_rates_and_the_replicas_matter(
    world: World, demand: Build
) -> None:
    """No limit helps against too much load; a lower rate does, and so do more replicas."""
    found = world.near(demand(3000, 60, max_replicas=4))
    assert set(found) == {(Constraint.RATE, ""), (Constraint.REPLICAS, "")}
    rate, replicas = found[Constraint.RATE, ""], found[Constraint.REPLICAS, ""]
    assert 0.6 * 4 * 190 < rate.works < 0.7 * 4 * 190
    assert replicas.works == replicas.plan.replicas > 4


def test_a_limit_below_the_service_time_is_the_limits_alone(world: World, demand: Build) -> None:
    """Neither fewer requests nor more replicas make one faster; each objective by itself."""
    found = world.near(demand(60, 3))
    assert set(found) == {(Constraint.LIMIT, "p99")}
    assert 5.5 < found[Constraint.LIMIT, "p99"].works < 12
    median = world.near(demand(60, 80, more_slos=(Slo(quantile=0.5, limit_ms=3),)))
    assert set(median) == {(Constraint.LIMIT, "p50")}


def test_where_one_change_is_not_enough_two_are(world: World, demand: Build) -> None:
    """Two limits below the service time; a limit and too few replicas: no rate is asked to fall."""
    both = demand(60, 3, more_slos=(Slo(quantile=0.5, limit_ms=3),))
    ((key, one),) = world.near(both).items()
    assert key == (Constraint.LIMIT, "p50")
    assert one.besides is not None
    assert (one.besides.constraint, one.besides.of) == (Constraint.LIMIT, "p99")
    assert one.works < one.besides.works
    few = demand(600, 3, max_replicas=1)
    ((key, one),) = world.near(few).items()
    assert key == (Constraint.REPLICAS, "")
    assert one.besides is not None
    assert (one.besides.constraint, one.besides.asked) == (Constraint.LIMIT, 3)
    eased = changed(few, one.besides, one.besides.works)
    assert world.best(changed(eased, one, one.works)) == one.plan
    assert world.best(changed(eased, one, one.works - 1)) is None
    assert world.best(changed(few, one, one.works)) is None


def test_three_at_once_are_too_many(world: World, demand: Build) -> None:
    """Two limits, and a quality that no variant has: nothing near works."""
    more = (Slo(quantile=0.5, limit_ms=3),)
    assert world.near(demand(60, 3, more_slos=more, min_quality={"auc": 0.9})) == {}


def test_gates_give_way_to_the_next_variant_or_size(world: World, demand: Build) -> None:
    """The best quality that a variant which holds has; the least memory that one needs."""
    fast = demand(60, 9, min_quality={"auc": 0.78})
    found = world.near(fast)
    assert found[Constraint.QUALITY, "auc"].works == 0.75
    assert found[Constraint.QUALITY, "auc"].plan.candidate.variant == "quick"
    small = demand(60, 80, max_replica_memory_gib=0.1)
    ((key, one),) = world.near(small).items()
    assert key == (Constraint.MEMORY, "")
    assert one.works == pytest.approx(200 / 1024 * 1.25, rel=0.01)
    assert one.works >= 200 / 1024 * 1.25
    assert world.near(demand(60, 80, min_quality={"auc": 0.78, "f1": 0.55})).keys() == {
        (Constraint.QUALITY, "auc"),
        (Constraint.QUALITY, "f1"),
    }
