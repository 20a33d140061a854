"""The Pareto set: laws of domination, and how a recommendation marks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.pareto import dominates, objectives, with_pareto
from planner.recommend import recommend
from planner.records import Candidate, Interval, Plan, Recommendation

Build = Callable[..., Any]


def plan(
    usd: float | None, p99: float, loss: float | None, instances: int, predicted: bool
) -> Plan:
    return Plan(
        candidate=Candidate(
            variant="v", size="sim-1", threads=1, instance="vm-2", replicas_per_instance=1
        ),
        replicas=instances,
        instances=instances,
        vcpus=2.0 * instances,
        memory_gib=4.0 * instances,
        replica_memory_gib=0.3,
        model_file="v.onnx",
        p50_ms=Interval(low=1, mid=1, high=1),
        p99_ms=Interval(low=1, mid=1, high=p99),
        capacity_rps=100,
        rows_per_s=50,
        utilisation=0.5,
        latency_basis="predicted",
        usd_per_month=usd,
        usd_per_million=None,
        price_basis="",
        margin="",
        predicted_size="from some" if predicted else "",
        quality_loss=loss,
    )


plans = st.builds(
    plan,
    usd=st.sampled_from([10.0, 20.0, 30.0]),
    p99=st.sampled_from([1.0, 2.0, 5.0, 9.0]),
    loss=st.sampled_from([None, 0.0, 0.002]),
    instances=st.integers(1, 4),
    predicted=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(plans, min_size=1, max_size=12))
def test_the_set_is_what_no_plan_dominates(listed: list[Plan]) -> None:
    """No member dominates another, members dominate every other plan, the first is a member."""
    ranked = with_pareto(sorted(listed, key=objectives))
    members = [objectives(p) for p in ranked if p.pareto]
    others = [objectives(p) for p in ranked if not p.pareto]
    assert not any(dominates(a, b) for a in members for b in members)
    assert all(any(dominates(a, b) for a in members) for b in others)
    assert ranked[0].pareto


def test_more_machines_for_the_same_money_are_a_trade() -> None:
    """Slower but less to lose with one instance: neither dominates; slower and as much: it does."""
    one, two = plan(20, 5, 0.0, 1, False), plan(20, 9, 0.0, 2, False)
    assert [p.pareto for p in with_pareto([one, two])] == [True, True]
    worse = plan(20, 9, 0.0, 1, False)
    assert [p.pareto for p in with_pareto([one, worse])] == [True, False]


def test_an_unknown_loss_is_no_advantage() -> None:
    """A variant whose quality nobody measured is not better than one that loses nothing."""
    known, unknown = plan(20, 5, 0.0, 1, False), plan(20, 5, None, 1, False)
    assert [p.pareto for p in with_pareto([known, unknown])] == [True, False]


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(1, 900), limit=st.floats(12, 400))
def test_a_recommendation_marks_its_set(
    profile: Build, variant: Build, instance: Build, demand: Build, rate: float, limit: float
) -> None:
    """The best plan is in it, with the loss of its variant; hosts' plans are a set of their own."""
    sizes = {name: instance(name) for name in ("sim-0.5", "sim-1")}
    variants = [variant("fp32"), variant("int8")]
    profiles = [
        profile(
            (9 / speed, 11 / speed),
            95 * speed * sizes[size].vcpus,
            variant=v,
            instance=sizes[size],
        )
        for v, speed in zip(variants, (1.0, 1.5), strict=True)
        for size in sizes
    ]
    losses = {"fp32": 0.0, "int8": 0.002}
    answer: Recommendation = recommend(
        demand(rate, limit), profiles, [], variants, sizes, [], [], 0, losses
    )
    if answer.best is None:
        assert answer.pareto == ()
        return
    assert answer.pareto[0] == answer.best
    for found in (answer.best, *answer.alternatives):
        assert found.quality_loss == losses[found.candidate.variant]
