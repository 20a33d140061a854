"""Recommendations: what is chosen, what is rejected and why, and the laws they obey."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.objective import Slo
from planner.prices import Price
from planner.profile import Refusal
from planner.recommend import best_on_host, recommend
from planner.records import (
    Bottleneck,
    CpuFactor,
    Demand,
    MeasuredPoint,
    Recommendation,
    ServiceProfile,
)
from serving.errors import BadInput
from serving.records import InstanceType, Quality, Variant

Build = Callable[..., Any]

FACTORS = [CpuFactor(target_family="cloud", low=0.5, mid=0.8, high=1.0, basis="assumed")]


def price(instance: str, usd_per_hour: float, cpu_family: str = "cloud") -> Price:
    return Price(
        instance=instance,
        usd_per_hour=usd_per_hour,
        region="us-east-1",
        as_of="2025-01-15",
        source="list",
        cpu_family=cpu_family,
    )


PRICES = [price("vm-2", 0.10), price("vm-4", 0.19), price("share-0.5", 0.03)]


class World:
    """A catalogue, variants and profiles, and a way to ask for a recommendation."""

    def __init__(self, profile: Build, variant: Build, instance: Build) -> None:
        cloud = {"cpu_family": "cloud", "memory_gib": 8}
        shapes = [
            instance("sim-0.5"),
            instance("sim-1"),
            instance("sim-2"),
            instance("vm-2", vcpus=2, **cloud),
            instance("vm-4", vcpus=4, **cloud),
            instance("share-0.5", vcpus=0.5, enforcement="quota", **cloud),
        ]
        self.instances: Mapping[str, InstanceType] = {i.name: i for i in shapes}
        self.variants: Sequence[Variant] = [variant("fp32"), variant("int8")]
        self.profiles: Sequence[ServiceProfile] = [
            profile(
                (9 / speed, 11 / speed),
                95 * speed * cpus,
                variant=v,
                instance=self.instances[size],
            )
            for v, speed in zip(self.variants, (1.0, 1.5), strict=True)
            for size, cpus in (("sim-0.5", 0.5), ("sim-1", 1.0))
        ]
        self.refused: list[Refusal] = [
            Refusal(("fp32", "sim-2 (cpuset)", 1, 1), "shares its CPUs with the load generator"),
            Refusal(("int8", "sim-2 (cpuset)", 1, 1), "no valid paced run: noisy_host: 12 % steal"),
        ]

    def ask(self, demand: Demand, seed: int = 0, **changes: Any) -> Recommendation:
        parts: dict[str, Any] = {
            "profiles": self.profiles,
            "refused": self.refused,
            "variants": self.variants,
            "instances": self.instances,
            "prices": PRICES,
            "factors": FACTORS,
        }
        return recommend(demand, **(parts | changes), seed=seed)


@pytest.fixture(scope="module")
def world(profile: Build, variant: Build, instance: Build) -> World:
    return World(profile, variant, instance)


def rejected_for(answer: Recommendation, **wanted: Any) -> list[tuple[Bottleneck, str]]:
    return [
        (r.bottleneck, r.reason)
        for r in answer.rejections
        if all(getattr(r.candidate, key) == value for key, value in wanted.items())
    ]


def test_the_cheapest_priced_plan_is_best(world: World, demand: Build) -> None:
    """Plans come by cost, host plans (which have none) after them by size."""
    answer = world.ask(demand())
    assert answer.best is not None
    plans = [answer.best, *answer.alternatives]
    costs = [p.usd_per_month for p in plans if p.usd_per_month is not None]
    assert costs == sorted(costs)
    assert [p.usd_per_month is None for p in plans] == sorted(
        p.usd_per_month is None for p in plans
    )
    host = [p for p in plans if p.usd_per_month is None]
    assert [p.vcpus for p in host] == sorted(p.vcpus for p in host)
    assert all(p.price_basis == "host vCPU: no price" for p in host)
    assert best_on_host(answer) == host[0]


def test_without_prices_the_best_plan_is_on_the_host(world: World, demand: Build) -> None:
    """Everything else is rejected for want of a price."""
    answer = world.ask(demand(), prices=[])
    assert answer.best is not None
    assert answer.best == best_on_host(answer)
    assert rejected_for(answer, instance="vm-2", variant="fp32", size="sim-1") == [
        (Bottleneck.COST, "no price for vm-2 in the price list")
    ]


def test_a_price_needs_a_cpu_factor(world: World, demand: Build) -> None:
    """What was measured here says nothing about another CPU without one."""
    ((bottleneck, reason),) = rejected_for(
        world.ask(demand(), factors=[]), instance="vm-2", variant="fp32", size="sim-1"
    )
    assert bottleneck is Bottleneck.COST
    assert "no CPU factor for cloud" in reason


def test_a_plan_adds_up(world: World, demand: Build) -> None:
    """Totals, cost per month of 730 h, and per million rows at the demanded rate."""
    wanted = demand(rate_rps=200, limit_ms=500, batch=1)
    answer = world.ask(wanted)
    assert answer.best is not None
    for plan in (answer.best, *answer.alternatives):
        c = plan.candidate
        assert plan.replicas == plan.instances * c.replicas_per_instance
        name = c.instance
        assert plan.vcpus == plan.instances * world.instances[name].vcpus
        assert plan.memory_gib == plan.instances * world.instances[name].memory_gib
        assert plan.rows_per_s == 200
        assert plan.capacity_rps >= 200
        assert plan.replica_memory_gib == pytest.approx(0.3125)
        if plan.usd_per_month is not None:
            hourly = next(p.usd_per_hour for p in PRICES if p.instance == name)
            assert plan.usd_per_month == pytest.approx(plan.instances * hourly * 730)
            assert plan.usd_per_million == pytest.approx(plan.instances * hourly / 3600 / 200 * 1e6)


def test_a_slower_cpu_needs_more_and_is_less_certain(world: World, demand: Build) -> None:
    """At half speed at worst, capacity halves and the interval spans every factor."""
    answer = world.ask(demand(rate_rps=30, limit_ms=500))
    assert answer.best is not None
    plans = {
        (p.candidate.variant, p.candidate.size, p.candidate.instance): p
        for p in (answer.best, *answer.alternatives)
    }
    here, there = plans["fp32", "sim-1", "sim-1"], plans["fp32", "sim-1", "vm-2"]
    assert there.replicas == 1  # of two vCPUs the kubelet keeps a part of one
    assert there.capacity_rps == pytest.approx(0.5 * here.capacity_rps)
    assert there.p50_ms.low < here.p50_ms.high < there.p50_ms.high
    assert "0.5 to 1 of one here (assumed)" in there.price_basis


def test_a_size_with_whole_cpus_is_not_promised_under_a_quota(
    world: World, demand: Build, instance: Build, profile: Build
) -> None:
    """A quota has about twice the tail; the size has to be measured with one."""
    shares = {**world.instances, "share-0.5": instance("share-0.5", vcpus=1, enforcement="quota")}
    shares["share-0.5"] = shares["share-0.5"].model_copy(update={"cpu_family": "cloud"})
    answer = world.ask(demand(), instances=shares)
    ((bottleneck, reason),) = rejected_for(
        answer, instance="share-0.5", variant="fp32", size="sim-1"
    )
    assert bottleneck is Bottleneck.UNMEASURED
    assert reason.endswith(
        "measure this: `tonnage measure RUN --variant fp32 --instance sim-1:quota --threads 1 "
        "--batch 1`"
    )
    quota = profile(variant=world.variants[0], instance=instance("sim-1", enforcement="quota"))
    answer = world.ask(demand(), instances=shares, profiles=[*world.profiles, quota])
    assert not [r for r in rejected_for(answer, size="sim-1:quota") if "quota" in r[1]]


def test_a_barred_variant_is_rejected_with_its_figure(world: World, demand: Build) -> None:
    """Quality comes before latency and cost."""
    barred = [v.model_copy(update={"barred": "AUC falls by 0.02"}) for v in world.variants]
    answer = world.ask(demand(), variants=barred)
    assert answer.best is None
    assert {(r.bottleneck, r.reason) for r in answer.rejections} == {
        (Bottleneck.QUALITY, "AUC falls by 0.02")
    }
    assert answer.note == "No candidate holds: 6 on quality of 6 in all."


def test_what_was_not_measured_says_why(world: World, demand: Build) -> None:
    """Refused, invalid, not at this batch, and not at all are told apart."""
    answer = world.ask(demand())
    assert rejected_for(answer, size="sim-2", variant="fp32") == [
        (Bottleneck.UNMEASURED, "shares its CPUs with the load generator")
    ]
    assert rejected_for(answer, size="sim-2", variant="int8") == [
        (Bottleneck.INVALID, "no valid paced run: noisy_host: 12 % steal")
    ]
    other = world.ask(demand(batch=100, batch_range=(100, 100)), refused=[])
    assert other.best is None
    assert rejected_for(other, size="sim-1", variant="fp32") == [
        (
            Bottleneck.UNMEASURED,
            "not measured at batch 100, only at batch 1, and one batch size makes no law; measure "
            "this: `tonnage measure RUN --variant fp32 --instance sim-1 --threads 1 --batch 100`",
        )
    ]
    assert rejected_for(other, size="sim-2", variant="fp32") == [
        (
            Bottleneck.UNMEASURED,
            "not measured at batch 100, nor at any other, and a law takes 2 measured sizes of "
            "whole CPUs, there are 1; measure this: `tonnage measure RUN --variant fp32 "
            "--instance sim-2 --threads 1 --batch 100`",
        )
    ]


def test_too_much_load_is_a_matter_of_capacity(world: World, demand: Build) -> None:
    """The reason says how many replicas are needed, and how many are allowed."""
    answer = world.ask(demand(rate_rps=6_000))
    ((bottleneck, reason),) = rejected_for(answer, instance="sim-1", variant="fp32", size="sim-1")
    assert bottleneck is Bottleneck.CAPACITY
    assert "need 95 working replicas of 63.2 req/s" in reason
    assert "16 fit into max_replicas = 16" in reason


def test_a_limit_below_the_service_time_is_a_matter_of_latency(world: World, demand: Build) -> None:
    """No number of replicas makes one request faster."""
    ((bottleneck, reason),) = rejected_for(
        world.ask(demand(limit_ms=5)), instance="sim-1", variant="fp32", size="sim-1"
    )
    assert bottleneck is Bottleneck.LATENCY
    assert "without any load, over the limit of 5 ms" in reason


def test_a_tail_that_stays_over_the_limit_is_a_matter_of_latency(
    world: World, demand: Build
) -> None:
    """Few replicas allowed, a queue that its upper bound does not let pass."""
    ((bottleneck, reason),) = rejected_for(
        world.ask(demand(rate_rps=55, limit_ms=30, max_replicas=1)),
        instance="sim-1",
        variant="fp32",
        size="sim-1",
    )
    assert bottleneck is Bottleneck.LATENCY
    assert "with 1 working replica (upper bound), over the limit of 30 ms" in reason


def test_memory_bounds_replicas_and_then_candidates(
    world: World, demand: Build, profile: Build
) -> None:
    """A quarter more than the measured peak each, in what the kubelet leaves of the instance."""
    fat = [
        p.model_copy(update={"peak_memory_bytes": peak})
        for p, peak in zip(world.profiles, (3 << 30, 1 << 30, 1 << 30, 7 << 30), strict=True)
    ]
    answer = world.ask(demand(limit_ms=500), profiles=fat)
    assert rejected_for(answer, variant="int8", size="sim-1", instance="vm-4") == [
        (
            Bottleneck.MEMORY,
            "a replica needs 8.75 GiB with 25% headroom, vm-4 has 5.90 of 8 GiB to give",
        )
    ]
    assert rejected_for(answer, variant="fp32", size="sim-0.5", instance="sim-0.5") == [
        (Bottleneck.MEMORY, "needs 3.75 GiB with 25% headroom, has 2 GiB")
    ]
    held = {
        (c.variant, c.size, c.instance): c.replicas_per_instance
        for c in (p.candidate for p in (answer.best, *answer.alternatives) if p)
    }
    assert held["fp32", "sim-1", "vm-4"] == 3
    assert held["int8", "sim-0.5", "vm-4"] == 4


def test_spare_replicas_come_on_top(world: World, demand: Build) -> None:
    """N+1: the demand holds with one replica gone."""
    plain = best_on_host(world.ask(demand(rate_rps=100, limit_ms=500)))
    spared = best_on_host(world.ask(demand(rate_rps=100, limit_ms=500, spare_replicas=1)))
    assert plain is not None
    assert spared is not None
    assert spared.candidate == plain.candidate
    assert spared.replicas == plain.replicas + 1


def test_a_measured_plan_says_so(world: World, demand: Build) -> None:
    """One replica, this size, this rate: the figure is the measured one, in its interval."""
    point = MeasuredPoint(rate_rps=61, utilisation=61 / 95, p50_ms=15, p95_ms=40, p99_ms=70, n=1000)
    measured = [p.model_copy(update={"measured_points": (point,)}) for p in world.profiles]
    answer = world.ask(demand(rate_rps=60, limit_ms=200), profiles=measured)
    plans = [p for p in (answer.best, *answer.alternatives) if p]
    basis = {(p.candidate.instance, p.replicas): (p.latency_basis, p.p99_ms.mid) for p in plans}
    assert basis["sim-1", 1] == ("measured", 70)
    assert basis["vm-4", 3][0] == "predicted"


def test_the_note_names_the_binding_constraint(world: World, demand: Build) -> None:
    """What keeps the best plan from having one instance less."""
    bound = world.ask(demand(rate_rps=300, limit_ms=500, max_replicas=64))
    assert bound.note.startswith("Bound by capacity: on ")
    assert "300 are demanded" in bound.note
    alone = world.ask(demand(rate_rps=1, limit_ms=5000))
    assert alone.note.startswith("One share-0.5 is enough")


def test_files_that_contradict_each_other_are_refused(world: World, demand: Build) -> None:
    """A price for another CPU than the catalogue's is nobody's price."""
    with pytest.raises(BadInput, match=r"cpu_family = 'other' for vm-2, instances\.toml says"):
        world.ask(demand(), prices=[price("vm-2", 0.1, "other")])


def test_every_objective_has_to_hold(world: World, demand: Build) -> None:
    """A median that is asked for as well changes the plan; what misses it says so by name."""
    alone = demand(rate_rps=94, limit_ms=500)
    before = best_on_host(world.ask(alone))
    assert before is not None
    median = Slo(quantile=0.5, limit_ms=0.97 * before.p50_ms.high)
    after = best_on_host(world.ask(alone.model_copy(update={"more_slos": (median,)})))
    assert after is not None
    assert after.candidate != before.candidate
    assert after.p50_ms.high <= median.limit_ms
    assert "p99 upper bound" in after.margin
    assert "p50 upper bound" in after.margin
    hopeless = demand(rate_rps=55, limit_ms=500, more_slos=(Slo(quantile=0.5, limit_ms=8),))
    answer = world.ask(hopeless)
    ((bottleneck, reason),) = rejected_for(answer, instance="sim-1", variant="fp32", size="sim-1")
    assert bottleneck is Bottleneck.LATENCY
    assert reason.startswith("p50 is ")
    queue = demand(rate_rps=55, limit_ms=500, more_slos=(Slo(quantile=0.95, limit_ms=14),))
    one = queue.model_copy(update={"max_replicas": 1})
    ((_, reason),) = rejected_for(world.ask(one), instance="sim-1", variant="fp32", size="sim-1")
    assert reason.startswith("p95 may be ")


def test_the_demands_own_gates_reject_with_their_figures(world: World, demand: Build) -> None:
    """Too little quality, none known, and more memory than a replica may have."""
    good = world.variants[0].model_copy(update={"quality": Quality(n_rows=9, auc=0.761)})
    known = [good, world.variants[1]]
    answer = world.ask(demand(min_quality={"auc": 0.77}), variants=known)
    assert answer.best is None
    assert rejected_for(answer, variant="fp32", size="sim-1") == [
        (Bottleneck.QUALITY, "auc is 0.761, and at least 0.77 is demanded")
    ]
    assert rejected_for(answer, variant="int8", size="sim-1") == [
        (Bottleneck.QUALITY, "its auc was not measured, and at least 0.77 is demanded")
    ]
    assert world.ask(demand(min_quality={"auc": 0.761}), variants=known).best is not None
    tight = world.ask(demand(max_replica_memory_gib=0.3))
    assert tight.best is None
    assert rejected_for(tight, variant="int8", size="sim-1") == [
        (
            Bottleneck.MEMORY,
            "needs 0.312 GiB with 25% headroom, max_replica_memory_gib = 0.3 is demanded",
        )
    ]
    assert world.ask(demand(max_replica_memory_gib=0.3125)).best is not None


def test_only_prices_of_the_region_count(world: World, demand: Build) -> None:
    """The same instance at that region's price; what is not sold there says where it is."""
    there = [
        p.model_copy(update={"region": "eu-west-1", "usd_per_hour": 2 * p.usd_per_hour})
        for p in PRICES[:1]
    ]
    everywhere = world.ask(demand(limit_ms=500), prices=[*PRICES, *there])
    assert everywhere == world.ask(demand(limit_ms=500))
    answer = world.ask(demand(limit_ms=500, region="eu-west-1"), prices=[*PRICES, *there])
    assert answer.best is not None
    assert (answer.best.candidate.instance, "eu-west-1" in answer.best.price_basis) == (
        "vm-2",
        True,
    )
    assert answer.best.usd_per_month == pytest.approx(answer.best.instances * 0.2 * 730)
    ((bottleneck, reason),) = rejected_for(answer, instance="vm-4", variant="int8", size="sim-1")
    assert bottleneck is Bottleneck.COST
    assert reason == "no price in eu-west-1 for vm-4, only in us-east-1"


rates = st.floats(1, 900)
limits = st.floats(8, 400)
quantiles = st.sampled_from([0.5, 0.95, 0.99])


def cost(answer: Recommendation) -> float:
    """Monthly cost of the best priced plan, inf without one."""
    paid = answer.best.usd_per_month if answer.best else None
    return float("inf") if paid is None else paid


def host_cost(answer: Recommendation) -> float:
    plan = best_on_host(answer)
    return float("inf") if plan is None else plan.vcpus


@settings(max_examples=60, deadline=None)
@given(rate=rates, factor=st.floats(1, 4), limit=limits, spare=st.integers(0, 2), q=quantiles)
def test_more_demand_is_never_cheaper(
    world: World, demand: Build, rate: float, factor: float, limit: float, spare: int, q: float
) -> None:
    """Neither in money nor, on the host, in vCPUs."""
    less, more = (
        world.ask(demand(r, limit, spare_replicas=spare, quantile=q)) for r in (rate, rate * factor)
    )
    assert cost(less) <= cost(more)
    assert host_cost(less) <= host_cost(more)


@settings(max_examples=60, deadline=None)
@given(rate=rates, factor=st.floats(1, 4), limit=limits, spare=st.integers(0, 2), q=quantiles)
def test_a_tighter_limit_is_never_cheaper(
    world: World, demand: Build, rate: float, factor: float, limit: float, spare: int, q: float
) -> None:
    """Neither in money nor, on the host, in vCPUs."""
    tight, loose = (
        world.ask(demand(rate, ms, spare_replicas=spare, quantile=q))
        for ms in (limit, limit * factor)
    )
    assert cost(loose) <= cost(tight)
    assert host_cost(loose) <= host_cost(tight)


@settings(max_examples=40, deadline=None)
@given(rate=rates, limit=limits, more=limits, q=quantiles, other=quantiles)
def test_another_objective_is_never_cheaper(
    world: World, demand: Build, rate: float, limit: float, more: float, q: float, other: float
) -> None:
    """Neither in money nor, on the host, in vCPUs; and both orders ask for the same."""
    if q == other:
        return
    first, second = Slo(quantile=q, limit_ms=limit), Slo(quantile=other, limit_ms=more)
    one, both, swapped = (
        world.ask(demand(rate).model_copy(update={"slo": slo, "more_slos": others}))
        for slo, others in ((first, ()), (first, (second,)), (second, (first,)))
    )
    assert cost(one) <= cost(both)
    assert host_cost(one) <= host_cost(both)
    assert (cost(both), host_cost(both)) == (cost(swapped), host_cost(swapped))


@settings(max_examples=40, deadline=None)
@given(rate=rates, limit=limits, batch=st.sampled_from([1, 7]), barred=st.booleans())
def test_candidates_are_plans_and_rejections(
    world: World, demand: Build, rate: float, limit: float, batch: int, barred: bool
) -> None:
    """Every size with every shape that has the vCPUs for it, once, and nothing else."""
    variants = [
        world.variants[0].model_copy(update={"barred": "worse" if barred else None}),
        world.variants[1],
    ]
    answer = world.ask(demand(rate, limit, batch=batch, batch_range=(1, 9)), variants=variants)
    plans = ([answer.best] if answer.best else []) + list(answer.alternatives)
    found = [
        (c.variant, c.size, c.threads, c.instance)
        for c in [p.candidate for p in plans] + [r.candidate for r in answer.rejections]
    ]
    expected = set()
    for v in variants:
        for size in ("sim-0.5", "sim-1", "sim-2"):
            expected.add((v.name, size, 1, size))
            if batch == 1 and size != "sim-2" and v.barred is None:
                small = [] if size == "sim-1" else ["share-0.5"]
                expected |= {(v.name, size, 1, shape) for shape in ("vm-2", "vm-4", *small)}
    assert len(found) == len(set(found))
    assert set(found) == expected


@settings(max_examples=15, deadline=None)
@given(rate=rates, limit=limits, seed=st.integers(0, 3))
def test_recommendations_are_deterministic(
    world: World, demand: Build, rate: float, limit: float, seed: int
) -> None:
    """Equal input gives equal records, in whatever order the profiles come."""
    first = world.ask(demand(rate, limit), seed=seed)
    again = world.ask(demand(rate, limit), seed=seed, profiles=world.profiles[::-1])
    assert first == again
