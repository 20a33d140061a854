"""Dynamic batching as an option: offered where it saves replicas, and only on what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loadtests.histogram import Histogram
from planner.batch_choice import choose_batching
from planner.batch_law import PRIOR_RESIDUAL
from planner.candidates import HERE
from planner.recommend import recommend
from planner.records import HOURS_PER_MONTH, BatchChoice, Demand, MeasuredPoint, Plan

Build = Callable[..., Any]


class World:
    """One size, profiles at several batches, and the plan that one at a time asks for."""

    def __init__(self, profile: Build, variant: Build, instance: Build) -> None:
        self._profile, self._size = profile, instance("sim-1")
        self._variants = [variant()]

    def profiles(self, fixed_ms: float, row_ms: float, batches: tuple[int, ...]) -> list[Any]:
        made = []
        for batch in batches:
            mean = fixed_ms + row_ms * batch
            times = np.repeat([0.95 * mean, mean, 1.05 * mean], 200) / 1e3
            made.append(
                self._profile(
                    service=Histogram.of(times),
                    batch=batch,
                    capacity_rps=1e3 / (mean + 0.3),
                    instance=self._size,
                )
            )
        return made

    def plan(self, demand: Demand, profiles: list[Any]) -> Plan:
        sizes = {"sim-1": self._size}
        best = recommend(demand, profiles, [], self._variants, sizes, [], [], 0).best
        assert best is not None
        return best

    def ask(self, demand: Demand, profiles: list[Any]) -> BatchChoice | None:
        return choose_batching(
            demand, self.plan(demand, profiles), profiles, HERE, 0.1, 0, room_gib=2
        )


@pytest.fixture(scope="module")
def world(profile: Build, variant: Build, instance: Build) -> World:
    return World(profile, variant, instance)


def test_a_large_fixed_part_is_shared(world: World, demand: Build) -> None:
    """10 ms a call and .2 ms a row: fewer replicas than one at a time needs, within the limit."""
    asked = demand(300, 150)
    choice = world.ask(asked, world.profiles(10, 0.2, (1, 4, 16)))
    assert choice is not None
    assert choice.replicas < choice.instead_of
    assert choice.max_batch in (2, 4, 8, 16)
    assert choice.latency_ms.high <= 150
    assert choice.residual < 0.02
    assert choice.usd_per_month == pytest.approx(choice.instances * 0.1 * HOURS_PER_MONTH)


def test_two_batches_are_a_wide_law(world: World, demand: Build) -> None:
    """Nothing tests a line through two points, so the prior counts against it."""
    asked = demand(300, 150)
    tested = world.ask(asked, world.profiles(10, 0.2, (1, 4, 16)))
    assumed = world.ask(asked, world.profiles(10, 0.2, (1, 16)))
    assert tested is not None
    assert assumed is not None
    assert assumed.residual == PRIOR_RESIDUAL
    assert assumed.replicas >= tested.replicas


def test_what_was_measured_beyond_the_prediction_is_added(world: World, demand: Build) -> None:
    """Runs that were 200 ms slower than their queue explains are so in batches as well."""
    asked, plain = demand(300, 2000), world.profiles(10, 0.2, (1, 4, 16))
    plan = world.plan(asked, plain)
    slow = MeasuredPoint(rate_rps=10, utilisation=0.1, p50_ms=11, p95_ms=20, p99_ms=220, n=1000)
    seen = [p.model_copy(update={"measured_points": (slow,)}) for p in plain[:1]] + plain[1:]
    without, added = (
        choose_batching(asked, plan, profiles, HERE, None, 0, room_gib=2)
        for profiles in (plain, seen)
    )
    assert without is not None
    assert added is not None
    assert added.latency_ms.low == without.latency_ms.low
    assert 180 < added.latency_ms.mid - without.latency_ms.mid < 220
    assert 180 < added.latency_ms.high - without.latency_ms.high < 220


def test_a_batch_that_does_not_fit_is_not_offered(world: World, demand: Build) -> None:
    """Two GiB at 16 rows and a quarter more are over what a replica has; 4 rows fit."""
    asked, profiles = demand(300, 150), world.profiles(10, 0.2, (1, 4, 16))
    plan = world.plan(asked, profiles)
    large = profiles[2].model_copy(update={"peak_memory_bytes": 2 << 30})
    choice = choose_batching(asked, plan, [*profiles[:2], large], HERE, None, 0, room_gib=2)
    assert choice is not None
    assert choice.max_batch <= 4


def test_a_spare_replica_is_kept(world: World, demand: Build) -> None:
    """With one to spare, the others hold alone."""
    profiles = world.profiles(10, 0.2, (1, 4, 16))
    alone, spare = (
        world.ask(demand(300, 150, spare_replicas=n, max_replicas=16), profiles) for n in (0, 1)
    )
    assert alone is not None
    assert spare is not None
    assert spare.replicas == alone.replicas + 1


@pytest.mark.parametrize("batches", [(1,), (4, 16)])
def test_it_needs_the_demanded_batch_and_another(
    world: World, demand: Build, batches: tuple[int, ...], profile: Build
) -> None:
    """One batch size is no law, and neither is one that begins above what is asked for."""
    asked = demand(300, 150)
    plan = world.plan(asked, world.profiles(10, 0.2, (1,)))
    profiles = world.profiles(10, 0.2, batches)
    assert choose_batching(asked, plan, profiles, HERE, None, 0, room_gib=2) is None


def test_rows_that_cost_what_they_cost_share_nothing(world: World, demand: Build) -> None:
    """Without a fixed part a batch takes as long as its rows one by one."""
    assert world.ask(demand(200, 200), world.profiles(0.01, 10, (1, 4, 16))) is None


def test_a_share_of_a_cpu_is_left_alone(world: World, demand: Build, instance: Build) -> None:
    """The law across batch sizes knows no stalls of a quota."""
    asked = demand(300, 150)
    profiles = world.profiles(10, 0.2, (1, 4))
    plan = world.plan(asked, profiles)
    half = [p.model_copy(update={"instance": instance("sim-0.5")}) for p in profiles]
    assert choose_batching(asked, plan, half, HERE, None, 0, room_gib=2) is None
