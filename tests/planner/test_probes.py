"""What to measure next: ranked by what it may save, within a budget, with its command."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from planner.measuring import measure_command
from planner.prices import Price, PriceList
from planner.probes import probes
from planner.recommend import recommend
from planner.records import Candidate, CpuFactor, Probe
from serving.records import InstanceType

Build = Callable[..., Any]

FACTORS = (CpuFactor(target_family="cloud", low=0.5, mid=0.8, high=1.0, basis="assumed"),)


def listed(**usd_per_hour: float) -> PriceList:
    prices = tuple(
        Price(
            instance=name,
            usd_per_hour=usd,
            region="x",
            as_of="2025-01-15",
            source="list",
            cpu_family="cloud",
        )
        for name, usd in usd_per_hour.items()
    )
    return PriceList(prices, FACTORS)


def takes_s(alone_s: float, size: InstanceType | None = None) -> float:
    """Five seconds for the deployment, and a thousand requests."""
    return 5 + 1000 * alone_s


@pytest.fixture
def ask(profile: Build, variant: Build, instance: Build, demand: Build) -> Callable[..., Any]:
    """Probes after fp32 was measured on one vCPU and int8 nowhere."""
    cloud = {"cpu_family": "cloud", "memory_gib": 8}
    sizes: dict[str, InstanceType] = {
        "sim-0.5": instance("sim-0.5"),
        "sim-1": instance("sim-1"),
        "vm4": instance("vm4", vcpus=4, **cloud),
        "task": instance("task", vcpus=0.5, enforcement="quota", **cloud),
    }
    variants = [variant("fp32"), variant("int8")]
    known = [profile((9.0, 11.0), 95.0, variant=variants[0], instance=sizes["sim-1"])]

    def answer(
        rate: float, limit: float, prices: PriceList, *, budget: float = 10_000
    ) -> tuple[Probe, ...]:
        wanted = demand(rate, limit)
        made = recommend(wanted, known, [], variants, sizes, prices.prices, prices.factors, 0)
        return probes(made, known, sizes, prices, takes_s=takes_s, budget_s=budget)

    return answer


def test_a_share_may_be_cheaper_than_a_machine(ask: Build) -> None:
    """10 req/s on half a CPU at best: 4 dollars where a machine of 146 is the answer."""
    found = ask(10, 500, listed(vm4=0.2, task=0.005))
    assert [(p.variant, p.size) for p in found] == [
        ("fp32", "sim-0.5"),
        ("int8", "sim-0.5"),
    ]
    # One task carries 0.7 * 99.75 / 2 * 0.5 = 17 req/s at best; the odds are one half.
    assert found[0].saving_usd_per_month == pytest.approx(0.5 * (0.2 - 0.005) * 730)
    assert found[0].why.startswith("not measured at batch 1")
    assert found[0].command == (
        "tonnage measure RUN --variant fp32 --instance sim-0.5 --threads 1 --batch 1"
    )
    # A request alone is hoped to take what half of a vCPU with 99.75 a second would.
    assert found[0].seconds == pytest.approx(5 + 1000 * 2 / 99.75)


@pytest.fixture
def beside_a_container(
    profile: Build, variant: Build, instance: Build, demand: Build
) -> Callable[..., tuple[Probe, ...]]:
    """Probes after sim-1 was measured with whole CPUs, where a container of one is cheaper."""
    cloud = {"cpu_family": "cloud", "memory_gib": 8}
    sizes = {
        "sim-1": instance("sim-1"),
        "vm4": instance("vm4", vcpus=4, **cloud),
        "task": instance("task", vcpus=1, enforcement="quota", **cloud),
    }
    known, prices = [profile()], listed(vm4=0.2, task=0.01)
    made = recommend(
        demand(10, 500), known, [], [variant()], sizes, prices.prices, prices.factors, 0
    )
    return partial(probes, made, known, sizes, prices, takes_s=takes_s, budget_s=1e4)


def test_a_size_with_whole_cpus_is_measured_with_the_quota_of_a_container(
    beside_a_container: Callable[..., tuple[Probe, ...]],
) -> None:
    """What is known of sim-1 does not say what a container of one vCPU does."""
    (found,) = beside_a_container()
    assert found.size == "sim-1:quota"
    assert "--instance sim-1:quota " in found.command
    assert found.saving_usd_per_month == pytest.approx(0.5 * (0.2 - 0.01) * 730)


def test_what_cannot_save_is_not_listed(ask: Build) -> None:
    """Where a share costs more than the machine, nothing is worth its seconds."""
    assert ask(10, 500, listed(vm4=0.2, task=0.3)) == ()


def test_without_a_plan_any_answer_is_news(ask: Build) -> None:
    """No figure for a saving then, and the reason says so."""
    found = ask(10, 2, listed(vm4=0.2, task=0.005))
    assert found
    assert all(p.saving_usd_per_month is None for p in found)
    assert all(p.why.startswith("no plan holds yet") for p in found)


@pytest.mark.parametrize(("budget", "cells"), [(0, 0), (25, 0), (25.1, 1), (50, 1), (50.2, 2)])
def test_the_budget_bounds_the_list(ask: Build, budget: float, cells: int) -> None:
    """So many cells of 25.05 s as it pays for, the most telling first."""
    prices = listed(vm4=0.2, task=0.005)
    found = ask(10, 500, prices, budget=budget)
    assert found == ask(10, 500, prices)[:cells]


def test_a_size_that_this_host_cannot_give_is_not_listed(
    beside_a_container: Callable[..., tuple[Probe, ...]],
) -> None:
    """Its command would only be refused."""
    assert beside_a_container(can_be_measured=lambda size: size.enforcement == "cpuset") == ()


def test_a_recommendation_on_a_predicted_size_asks_for_its_measurement(
    profile: Build, variant: Build, instance: Build, demand: Build
) -> None:
    """At stake is the difference to the cheapest measured plan, if there is one."""
    cloud = {"cpu_family": "cloud", "memory_gib": 32}
    sizes = {
        name: instance(name, vcpus=vcpus, enforcement="cpuset", **extra)
        for name, vcpus, extra in (
            ("sim-1", 1, {}),
            ("sim-2", 2, {}),
            ("sim-4", 4, {}),
            ("vm8", 8, cloud),
        )
    }
    known = [profile((40.0 / n,), 25.0 * n, instance=sizes[f"sim-{n}"], threads=n) for n in (1, 2)]
    variants, prices = [variant()], listed(vm8=0.4)
    wanted = demand(1, 38)
    made = recommend(wanted, known, [], variants, sizes, prices.prices, prices.factors, 0)
    assert made.best is not None
    assert made.best.predicted_size
    (found,) = probes(made, known, sizes, prices, takes_s=takes_s, budget_s=600)
    assert (found.size, found.threads) == ("sim-4", 4)
    assert found.saving_usd_per_month is None
    assert found.why == "the recommendation stands on this predicted size"


def test_a_run_that_is_measured_as_a_whole_has_its_own_command(demand: Build) -> None:
    """The command again, with one more size; of other runs a cell is added."""
    cell = Candidate(
        variant="mine", size="sim-2", threads=2, instance="sim-2", replicas_per_instance=1
    )
    assert measure_command(cell, demand(), "tonnage run --model my.onnx") == (
        "tonnage run --model my.onnx --instance sim-2"
    )
    assert measure_command(cell, demand(quantile=0.999), "tonnage measure runs/x") == (
        "tonnage measure runs/x --variant mine --instance sim-2 --threads 2 --batch 1"
    )
