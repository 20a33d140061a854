"""Autoscaling advice: what it follows from, the laws it obeys, and when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.objective import Slo
from planner import autoscaling
from planner.advice import AutoscalingAdvice, AutoscalingRefusal, ScalingSettings
from planner.autoscaling import advise
from planner.candidates import HERE
from planner.curve import predictor
from planner.daily import Daily
from planner.recommend import recommend
from planner.records import HOURS_PER_MONTH, Demand, Interval, Plan
from planner.shared_core import SharedCore
from planner.sizing import Sizing

Build = Callable[..., Any]
Answer = AutoscalingAdvice | AutoscalingRefusal

NO_COST = {"low": 1.0, "mid": 1.0, "high": 1.0}

# Two peaks; nights need one replica of 95 req/s, days up to five.
DAY = [30.0] * 7 + [100, 200, 260, 280, 300, 300, 280, 260, 260, 240, 200, 160, 120, 90, 60, 40, 30]


class World:
    """One profile on its own size, with a price, asked for a day."""

    def __init__(
        self, profile: Build, variant: Build, instance: Build, demand: Build, slow: float = 1
    ) -> None:
        times = (9 * slow, 10 * slow, 11 * slow)
        self.profile, self._demand = profile(times, 95.0 / slow), demand
        self._catalogue = {"sim-1": instance("sim-1")}
        self._variants = [variant()]

    def demand(self, daily: Daily, limit_ms: float = 80.0, **changes: Any) -> Demand:
        made: Demand = self._demand(daily.peak_rps, limit_ms, daily=daily, **changes)
        return made

    def plan(self, demand: Demand) -> Plan:
        best = recommend(
            demand, [self.profile], [], self._variants, self._catalogue, [], [], 0
        ).best
        assert best is not None
        return best

    def ask(self, demand: Demand, **profile: Any) -> Answer:
        changed = self.profile.model_copy(update=profile)
        answer = advise(demand, self.plan(demand), changed, HERE, 0.05, 0)
        assert answer is not None
        return answer


@pytest.fixture(scope="module")
def world(profile: Build, variant: Build, instance: Build, demand: Build) -> World:
    return World(profile, variant, instance, demand)


@pytest.fixture(scope="module")
def slow_world(profile: Build, variant: Build, instance: Build, demand: Build) -> World:
    """Ten times as slow, so that a burst has a tenth of the requests."""
    return World(profile, variant, instance, demand, 10)


def slow_day(rise_s: float = 300) -> Daily:
    return Daily.hourly(DAY, rise_s=rise_s)


def test_a_day_is_followed(world: World) -> None:
    """Never fewer replicas than the planner asks for, fewer at night, and it costs less."""
    demand = world.demand(slow_day())
    plan, advice = world.plan(demand), world.ask(demand)
    assert isinstance(advice, AutoscalingAdvice)
    assert advice.burst.holds
    assert advice.burst.share_over <= 0.01
    assert advice.settings.min_replicas < plan.replicas
    for rate, replicas in zip(DAY, advice.replicas, strict=True):
        asked = demand.model_copy(update={"rate_rps": rate})
        needed = Sizing(predictor(world.profile, 0), HERE, 1, asked).smallest
        assert needed <= replicas <= plan.replicas
    assert advice.static_usd_per_month == pytest.approx(plan.replicas * 0.05 * HOURS_PER_MONTH)
    # Ten minutes longer at each way down than the hours alone.
    falls = sum(max(0, a - b) for a, b in zip(advice.replicas, advice.replicas[1:], strict=False))
    expected = (sum(advice.replicas) + falls * 600 / 3600) / 24
    assert advice.mean_replicas == pytest.approx(expected, rel=0.01)
    assert advice.usd_per_month == pytest.approx(0.05 * HOURS_PER_MONTH * advice.mean_replicas)


def test_a_spare_replica_is_there_all_day(world: World) -> None:
    """N+1 holds at night as well as at the peak."""
    alone = world.ask(world.demand(slow_day()))
    spare = world.ask(world.demand(slow_day(), spare_replicas=1))
    assert isinstance(alone, AutoscalingAdvice)
    assert isinstance(spare, AutoscalingAdvice)
    assert min(spare.replicas) >= 2
    assert all(b >= a for a, b in zip(alone.replicas, spare.replicas, strict=True))
    assert sum(spare.replicas) > sum(alone.replicas)


def test_queue_bounds_follow_from_the_limit(world: World) -> None:
    """As many as a replica answers in time, and enough that a backlog can be seen."""
    advice = world.ask(world.demand(slow_day(), limit_ms=400))
    assert isinstance(advice, AutoscalingAdvice)
    assert advice.max_ongoing_requests == 38  # 0.4 s at 95 a second
    assert advice.max_ongoing_requests >= 4 * advice.settings.target_ongoing_requests


def test_a_slow_start_against_a_fast_rise_is_refused(world: World) -> None:
    """The reason names the start-up, and what the rise did even with most replicas there."""
    day = Daily.hourly([30.0] * 12 + [120.0] * 12, rise_s=1)
    answer = world.ask(world.demand(day), startup_s=14.0)
    assert isinstance(answer, AutoscalingRefusal)
    assert answer.reason.startswith("start-up of 14 s, and 4 s until Ray Serve decides, is longer")
    assert answer.burst is not None
    assert not answer.burst.holds
    assert answer.burst.share_over > 0.01


def test_a_burst_may_miss_no_objective(world: World) -> None:
    """That half of all are in time holds during a rise that the p99, or a budget, does not."""
    day = Daily.hourly([30.0] * 12 + [120.0] * 12, rise_s=1)

    def ask(**more: Any) -> Answer:
        return world.ask(world.demand(day, quantile=0.5, **more), startup_s=14.0)

    assert isinstance(ask(), AutoscalingAdvice)
    tail = ask(more_slos=(Slo(quantile=0.99, limit_ms=80),))
    assert isinstance(tail, AutoscalingRefusal)
    assert "p99 <= 80 ms does not hold even with" in tail.reason
    assert tail.burst is not None
    assert not tail.burst.holds
    budget = ask(error_budget=1e-6)
    assert isinstance(budget, AutoscalingRefusal)
    assert "the error budget of 0.0001 %: " in budget.reason


def test_a_machine_that_comes_late_counts_as_start_up(slow_world: World) -> None:
    """A day that is followed with replicas alone is not when each needs a new machine first."""
    day = Daily.hourly([rate / 10 for rate in DAY], rise_s=60)
    late = day.model_copy(update={"machine_start_s": 600.0})
    ask, demand = slow_world.ask, slow_world.demand
    quick, slow = ask(demand(day, limit_ms=800)), ask(demand(late, limit_ms=800))
    least = [
        a.settings.min_replicas if isinstance(a, AutoscalingAdvice) else a.static_replicas
        for a in (quick, slow)
    ]
    assert least[1] > least[0]


def test_what_cannot_be_followed_says_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No start-up time, a flat day, a rise too large to replay; nothing without a day."""
    demand = world.demand(slow_day())
    assert "not measured" in world.ask(demand, startup_s=None).reason  # type: ignore[union-attr]
    flat = world.ask(world.demand(Daily.hourly([300.0] * 24)))
    assert isinstance(flat, AutoscalingRefusal)
    assert "the day needs all" in flat.reason
    plan = world.plan(demand)
    undated = demand.model_copy(update={"daily": None})
    assert advise(undated, plan, world.profile, HERE, None, 0) is None
    monkeypatch.setattr(autoscaling, "MOST_REPLAYED", 100)
    assert "give a shorter rise_s" in world.ask(demand).reason  # type: ignore[union-attr]


def test_at_rest_it_holds_what_a_long_replay_holds(world: World) -> None:
    """The fixed point at a constant rate, against the replay: within one replica."""
    demand = world.demand(slow_day())
    follower = autoscaling._Follower(demand, slow_day(), world.profile, HERE, 5, 0)
    target = follower.target
    for rate in (40.0, 120.0, 200.0):
        steady = Daily.hourly([rate] * 24)
        other = autoscaling._Follower(world.demand(steady), steady, world.profile, HERE, 5, 0)
        scaling = ScalingSettings(min_replicas=1, max_replicas=5, target_ongoing_requests=target)
        other.target = target
        replayed = other._replay(scaling, other.hardest(scaling), 1)
        expected = follower.held(rate, target, 1)
        assert replayed.replicas_before == expected
        assert replayed.most_replicas - expected in (0, 1)


def test_replicas_that_share_a_core_work_longer_when_a_day_is_followed(
    world: World, instance: Build
) -> None:
    """By what sharing costs, and they are given less by as much."""
    sharing = SharedCore(replicas=4, low=1.2, mid=1.2, high=1.2, runs=(("four", "one"),))
    quarter = world.profile.model_copy(
        update={"instance": instance("sim-0.25"), "capacity_rps": 23.75, "saturated_rps": 23.75}
    )
    quarter = quarter.model_copy(
        update={"capacity_interval": Interval(low=23.75, mid=23.75, high=23.75)}
    )
    free, costly = (
        autoscaling._Follower(world.demand(slow_day()), slow_day(), profile, HERE, 8, 0)
        for profile in (
            quarter.model_copy(update={"sharing": sharing.model_copy(update=NO_COST)}),
            quarter.model_copy(update={"sharing": sharing}),
        )
    )
    assert costly._work.busy_s == pytest.approx(1.2 * free._work.busy_s)
    # Five quarters are on two cores, but four of them, at night, may be on one.
    five = autoscaling._Follower(
        world.demand(slow_day()), slow_day(), quarter.model_copy(update={"sharing": sharing}),
        HERE, 5, 0,
    )  # fmt: skip
    assert five._replica_rps == costly._replica_rps
    assert costly._replica_rps == pytest.approx(free._replica_rps / 1.2)


def least_cost(answer: Answer) -> float:
    """Mean replicas over the day: all of them where nothing is advised."""
    if isinstance(answer, AutoscalingRefusal):
        return answer.static_replicas
    return answer.mean_replicas


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    night=st.floats(0.5, 12),
    peak=st.floats(13, 33),
    rise=st.sampled_from([5.0, 60.0]),
    start=st.sampled_from([1.0, 8.0]),
    limit=st.sampled_from([600.0, 1000.0]),
)
def test_laws(
    slow_world: World, night: float, peak: float, rise: float, start: float, limit: float
) -> None:
    """Bounds are ordered; a looser limit, or more replicas allowed, never costs more."""
    day = Daily.hourly([night] * 12 + [peak] * 12, rise_s=rise)
    demand = slow_world.demand(day, limit_ms=limit, max_replicas=8)
    answer = slow_world.ask(demand, startup_s=start)
    if isinstance(answer, AutoscalingAdvice):
        s = answer.settings
        assert 1 <= s.min_replicas <= min(answer.replicas)
        assert max(answer.replicas) <= s.max_replicas <= demand.max_replicas
        assert answer.mean_replicas <= answer.static_replicas
    looser = slow_world.ask(
        slow_world.demand(day, limit_ms=1.5 * limit, max_replicas=8), startup_s=start
    )
    assert least_cost(looser) <= least_cost(answer) + 1e-9
    more = slow_world.ask(demand.model_copy(update={"max_replicas": 16}), startup_s=start)
    assert least_cost(more) <= least_cost(answer) + 1e-9


def test_the_same_question_has_the_same_answer(world: World) -> None:
    """Everything is seeded."""
    demand = world.demand(Daily.hourly(DAY, rise_s=30))
    assert world.ask(demand) == world.ask(demand)


def test_going_down_takes_its_delay() -> None:
    """Minute by minute, the highest number of the ten minutes before; midnight wraps round."""
    minutes = autoscaling._by_minute([1, 3, 1], 1800, 600)
    assert minutes.tolist() == [1] * 30 + [3] * 40 + [1] * 20
    assert autoscaling._by_minute([2, 1], 60, 600).tolist() == [2, 2]
    assert np.array_equal(autoscaling._by_minute([1, 2], 120, 0), [1, 1, 2, 2])


def test_one_machine_is_not_scaled(world: World) -> None:
    """With all replicas on it, fewer of them save nothing; nor when no machine ever empties."""
    demand = world.demand(slow_day())
    plan = world.plan(demand)

    def on(held: int, instances: int) -> Answer | None:
        candidate = plan.candidate.model_copy(update={"replicas_per_instance": held})
        shared = {"candidate": candidate, "instances": instances}
        return advise(demand, plan.model_copy(update=shared), world.profile, HERE, 0.1, 0)

    one, two = on(8, 1), on(3, 2)
    assert isinstance(one, AutoscalingRefusal)
    assert "on one machine" in one.reason
    assert isinstance(two, AutoscalingAdvice)
    assert two.usd_per_month == pytest.approx(0.1 * HOURS_PER_MONTH * two.mean_machines)
    assert 1 < two.mean_machines < 2
