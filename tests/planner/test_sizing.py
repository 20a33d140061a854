"""Sizing and search: as good as trying everything, and much less of it is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planning import synthetic
from loadtests.objective import Slo
from planner import curve, recommend
from planner.curve import predictor
from planner.records import Bottleneck, CpuFactor, Demand, Plan, Recommendation, ServiceProfile
from planner.sizing import Shortage, Sizing
from planner.surface import SIMULATED_REPLICAS, Surface

Build = Callable[..., Any]

FACTOR = CpuFactor(target_family="cloud", low=0.7, mid=0.9, high=1.1, basis="assumed")


@settings(max_examples=100, deadline=None)
@given(
    rate=st.floats(1, 20_000),
    limit=st.floats(10, 150),
    held=st.integers(1, 9),
    spare=st.integers(0, 3),
    most=st.integers(4, 400),
    q=st.sampled_from([0.5, 0.95, 0.99]),
)
def test_the_number_found_is_the_first_that_holds(
    profile: Build,
    demand: Build,
    rate: float,
    limit: float,
    held: int,
    spare: int,
    most: int,
    q: float,
) -> None:
    """Bisection between simulated counts gives what trying every number gives."""
    wanted = demand(rate, limit, spare_replicas=spare, max_replicas=most, quantile=q)
    sizing = Sizing(predictor(profile(), 0), FACTOR, held, wanted)
    found = sizing.smallest
    holds = [n for n in range(sizing.fewest, most // held + 1) if sizing.shortage(n) is None]
    if sizing.hopeless is None and holds:
        assert found == holds[0]
    else:
        assert isinstance(found, Shortage)
    # Below what the rate alone asks for, it is always the capacity.
    if sizing.fewest > 1:
        shortage = sizing.shortage(sizing.fewest - 1)
        assert shortage is not None
        assert shortage.bottleneck is Bottleneck.CAPACITY


@settings(max_examples=100, deadline=None)
@given(rate=st.floats(1, 300_000), more=st.floats(1, 3), q=st.sampled_from([0.5, 0.99, 0.999]))
def test_more_load_never_needs_fewer_replicas(
    profile: Build, demand: Build, rate: float, more: float, q: float
) -> None:
    """Also across the number from which on the staffing law takes over."""
    less, greater = (
        Sizing(predictor(profile(), 0), FACTOR, 1, demand(r, 60, max_replicas=10_000, quantile=q))
        for r in (rate, rate * more)
    )
    assert less.needed <= greater.needed
    if isinstance(greater.smallest, int):
        assert isinstance(less.smallest, int)
        assert less.smallest <= greater.smallest


def test_thousands_of_replicas_are_staffed_by_law_and_the_plan_says_so(
    profile: Build, demand: Build
) -> None:
    """Fewer than 70 % of capacity would ask for, more than the load; the sentence has both."""
    p = profile()
    wanted = demand(100_000, 60, max_replicas=10_000)
    sizing = Sizing(predictor(p, 0), FACTOR.model_copy(update={"low": 0.9}), 1, wanted)
    load = 100_000 / (p.capacity_interval.low * 0.9)
    number = sizing.smallest
    assert isinstance(number, int)
    assert load / 0.85 <= number < load / 0.7
    assert "staffing law, not from a simulation" in sizing.staffing(number)
    assert sizing.carried_rps(number) >= 100_000 * (1 - 1e-6)
    few = Sizing(predictor(p, 0), FACTOR, 1, demand(1000, 60, max_replicas=64))
    assert few.staffing(20) == ""


@pytest.fixture(scope="module")
def world() -> Callable[..., Recommendation]:
    """Ask for a plan over the benchmark's shapes in its first regions, 8 of its variants."""
    profiles, instances, prices = synthetic(regions=3, speeds=(0.6, 1.6))

    def ask(rate: float, limit: float, most: int = 64) -> Recommendation:
        wanted = Demand(
            name="x",
            title="X",
            batch=profiles[0].batch,
            batch_range=(1, 10_000),
            rate_rps=rate,
            slo=Slo(limit_ms=limit),
            max_replicas=most,
        )
        variants = list({p.variant.name: p.variant for p in profiles}.values())
        return recommend.recommend(
            wanted, profiles, [], variants, instances, prices.prices, prices.factors, 7
        )

    return ask


def plans_of(answer: Recommendation) -> list[Plan]:
    return ([answer.best] if answer.best else []) + list(answer.alternatives)


@settings(max_examples=8, deadline=None)
@given(rate=st.floats(100, 30_000), limit=st.floats(0.3, 60))
def test_pruning_loses_none_of_the_cheapest_plans(
    world: Callable[..., Recommendation], rate: float, limit: float
) -> None:
    """The first ten, with a price and without, are those of a search that tries everything."""
    pruned = world(rate, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recommend, "PLANS", 10**6)
        everything = world(rate, limit)
    for priced in (True, False):
        some, every = (
            [p for p in plans_of(a) if (p.usd_per_month is not None) == priced]
            for a in (pruned, everything)
        )
        assert some[:10] == every[:10]
    assert pruned.note == everything.note
    count = len(plans_of(everything)) + len(everything.rejections)
    assert len(plans_of(pruned)) + len(pruned.rejections) == count


def test_what_cannot_be_cheaper_is_not_simulated(
    world: Callable[..., Recommendation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,500 candidates, most of them rejected for their cost, by a few surfaces."""
    made: list[tuple[str, int]] = []
    real = curve.simulate_surface

    def counted(profile: ServiceProfile, replicas: int, *rest: Any) -> Surface:
        made.append((profile.content_hash(), replicas))
        return real(profile, replicas, *rest)

    monkeypatch.setattr(curve, "simulate_surface", counted)
    curve.predictor.cache_clear()
    answer = world(4_000, 50)
    dear = [r for r in answer.rejections if r.bottleneck is Bottleneck.COST]
    assert len(answer.rejections) > 1_500
    assert len(dear) > 0.8 * len(answer.rejections)
    assert "10 plans that hold come before it" in dear[0].reason
    assert len(made) == len(set(made)) < 40


def test_known_surfaces_are_used_and_others_are_not(
    profile: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A what-if simulates nothing that a run kept; another code's surface is not believed."""
    p = profile()
    surfaces = [predictor(p, 0).surface(k) for k in SIMULATED_REPLICAS]
    expected = curve.predict(p, 3, 150, 0)
    again = [Surface.model_validate_json(s.model_dump_json()) for s in surfaces]

    def none(*_: Any) -> Surface:
        raise AssertionError("simulated again")

    monkeypatch.setattr(curve, "simulate_surface", none)
    curve.predictor.cache_clear()
    for surface in again:
        predictor(p, 0).know(surface)
    assert curve.predict(p, 3, 150, 0) == expected
    for change in ({"code": "0" * 12}, {"profile": "0" * 12}, {"seed": 1}):
        curve.predictor.cache_clear()
        predictor(p, 0).know(again[0].model_copy(update=change))
        with pytest.raises(AssertionError, match="simulated again"):
            curve.predict(p, 1, 50, 0)
    curve.predictor.cache_clear()
