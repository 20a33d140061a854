"""The GPU verdict: how far CPUs reach is the edge of what holds, and prices follow from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.arrivals import Mix
from planner.gpu import break_even_usd_per_hour, cpu_reaches, gpus_needed, rows_per_s_of
from planner.mixture import mixed_of
from planner.prices import Price, PriceList
from planner.reach import CpuReach
from planner.recommend import recommend
from planner.records import HOURS_PER_MONTH, CpuFactor, Demand

Build = Callable[..., Any]


class World:
    """Two sizes here and one shape that can be bought."""

    def __init__(self, profile: Build, variant: Build, instance: Build) -> None:
        shapes = [
            instance("sim-0.5"),
            instance("sim-1"),
            instance("vm-2", vcpus=2, memory_gib=8, cpu_family="cloud"),
        ]
        self.instances = {i.name: i for i in shapes}
        self.variants = [variant()]
        self.profiles = [
            profile((9, 11), 95 * cpus / batch, instance=self.instances[size], batch=batch)
            for size, cpus in (("sim-0.5", 0.5), ("sim-1", 1.0))
            for batch in (1, 4)
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

    def reaches(self, demand: Demand, prices: PriceList | None = None) -> tuple[CpuReach, ...]:
        given = self.prices if prices is None else prices
        return cpu_reaches(demand, self.profiles, [], self.variants, self.instances, given, 0)

    def holds(self, demand: Demand, rate: float, *, priced: bool = True) -> bool:
        asked = demand.model_copy(update={"rate_rps": rate})
        prices, factors = self.prices
        best = recommend(
            asked,
            self.profiles,
            [],
            self.variants,
            self.instances,
            prices,
            factors,
            0,
            batching=False,
        ).best
        return best is not None and (best.usd_per_month is not None) >= priced


@pytest.fixture(scope="module")
def world(profile: Build, variant: Build, instance: Build) -> World:
    return World(profile, variant, instance)


def test_it_is_the_edge_of_what_holds(world: World, demand: Build) -> None:
    """At the rate a plan with a price holds, one percent above none does; without batching."""
    asked = demand(60, 80, max_replicas=4)
    (reach,) = world.reaches(asked)
    assert world.holds(asked, reach.rate_rps)
    assert not world.holds(asked, 1.01 * reach.rate_rps)
    best = recommend(
        asked.model_copy(update={"rate_rps": reach.rate_rps}),
        world.profiles, [], world.variants, world.instances, *world.prices, 0, batching=False,
    ).best  # fmt: skip
    assert best is not None
    assert best.usd_per_month is not None
    assert reach.usd_per_hour == pytest.approx(best.usd_per_month / HOURS_PER_MONTH)
    assert reach.usd_per_million == best.usd_per_million
    assert (reach.instance, reach.replicas) == ("vm-2", best.replicas)


def test_where_the_rounded_rate_is_a_hole_it_reaches_a_little_less_far(
    world: World, demand: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No plan at the very rate that was found is not: no plan at any."""
    asked = demand(60, 80, max_replicas=4)
    (reach,) = world.reaches(asked)

    def holey(demand: Demand, *rest: Any, batching: bool) -> Any:
        found = recommend(demand, *rest, batching=batching)
        hole = demand.rate_rps == reach.rate_rps
        return found.model_copy(update={"best": None}) if hole else found

    monkeypatch.setattr("planner.gpu.recommend", holey)
    (less,) = world.reaches(asked)
    assert less.rate_rps == pytest.approx(0.98 * reach.rate_rps, rel=0.005)
    assert less.replicas > 0


def test_every_measured_batch_of_the_range_is_asked_for(world: World, demand: Build) -> None:
    """The demanded one and those measured within its range, each with its own rate."""
    reaches = world.reaches(demand(60, 80, batch_range=(1, 8), max_replicas=4))
    assert [r.batch for r in reaches] == [1, 4]
    assert reaches[0].rate_rps > reaches[1].rate_rps > 0
    assert reaches[1].rows_per_s == 4 * reaches[1].rate_rps


def test_without_a_price_there_is_a_rate_alone(world: World, demand: Build) -> None:
    """Sizes of this host reach somewhere, and nothing says what a GPU may cost."""
    (reach,) = world.reaches(demand(60, 80), PriceList((), ()))
    assert reach.rate_rps > 0
    assert (reach.usd_per_hour, reach.gpu_usd_per_hour) == (None, None)
    assert break_even_usd_per_hour(reach, 1e6) is None


def test_a_hopeless_objective_reaches_nowhere(world: World, demand: Build) -> None:
    """Below the time of one request nothing holds, however little is asked."""
    (reach,) = world.reaches(demand(60, 5))
    assert (reach.rate_rps, reach.instances, reach.usd_per_hour) == (0, 0, None)


@settings(max_examples=15, deadline=None)
@given(limit=st.floats(30, 200), most=st.integers(2, 12))
def test_laws(world: World, demand: Build, limit: float, most: int) -> None:
    """A looser limit and more replicas never reach less far, to the three digits that are kept.

    What can be bought comes before what only this host has, however far that reaches.
    """
    (one,) = world.reaches(demand(60, limit, max_replicas=most))
    (looser,) = world.reaches(demand(60, 1.3 * limit, max_replicas=most))
    (more,) = world.reaches(demand(60, limit, max_replicas=most + 2))
    for other in (looser, more):
        bought = [reach.usd_per_hour is not None for reach in (one, other)]
        assert bought in ([False, True], [bought[0]] * 2)
        assert other.rate_rps >= one.rate_rps * 0.99 or bought == [False, True]


def test_of_a_mix_it_is_the_edge_of_what_its_mixture_holds(world: World, demand: Build) -> None:
    """One reach, of its own rows; a rate above that of batch 4 alone and below that of 1."""
    mix = Mix(batches=(1, 4), weights=(1, 1))
    asked = demand(60, 200, batch=4, batch_range=(1, 4), mix=mix, max_replicas=4)
    profiles = mixed_of(asked, world.profiles, 0)
    assert len(profiles) == 2
    rest = (world.variants, world.instances)
    (reach,) = cpu_reaches(asked, profiles, [], *rest, world.prices, 0)

    def holds(rate: float) -> bool:
        at = asked.model_copy(update={"rate_rps": rate})
        best = recommend(at, profiles, [], *rest, *world.prices, 0, batching=False).best
        return best is not None and best.usd_per_month is not None

    assert holds(reach.rate_rps)
    assert not holds(1.01 * reach.rate_rps)
    assert (reach.mix, reach.rows_per_s) == (mix, 2.5 * reach.rate_rps)
    one, four = world.reaches(demand(60, 200, batch_range=(1, 4), max_replicas=4))
    assert four.rate_rps < reach.rate_rps < one.rate_rps


def test_rows_a_second_of_a_mix_follow_from_its_time() -> None:
    """Three calls of 1 row in 1 ms and one of 100 in 7 ms: 103 rows in 10 ms."""
    reach = CpuReach(batch=100, mix=Mix(batches=(1, 100), weights=(3, 1)), rate_rps=10)
    of_each = {1: 1 / 1e-3, 100: 100 / 7e-3}
    assert rows_per_s_of(reach, of_each) == pytest.approx(103 / 10e-3)
    assert rows_per_s_of(reach, {100: 1e4}) is None
    assert rows_per_s_of(CpuReach(batch=100, rate_rps=10), of_each) == of_each[100]
    assert "mix" not in CpuReach(batch=100, rate_rps=10).model_dump()


def test_gpus_are_counted_from_what_was_measured() -> None:
    """At the planner's cap of 70 %, and a spare one where spares are demanded."""
    reach = CpuReach(batch=100, rate_rps=700, usd_per_hour=2.0, spare_replicas=1)
    assert reach.gpu_usd_per_hour == 1.0
    assert gpus_needed(reach, 100_001) == 2
    assert gpus_needed(reach, 60_000) == 3
    assert break_even_usd_per_hour(reach, 60_000) == pytest.approx(2 / 3)
