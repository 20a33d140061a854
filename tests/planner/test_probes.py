"""What to measure next: ranked by what it may save, within a budget, with its command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from planner.prices import PriceList
from planner.probes import measure_command, probes
from planner.recommend import recommend
from planner.records import Candidate, CpuFactor, Price, Probe
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
        rate: float, limit: float, prices: PriceList, *, seconds: float = 10, budget: float = 100
    ) -> tuple[Probe, ...]:
        wanted = demand(rate, limit)
        made = recommend(wanted, known, [], variants, sizes, prices.prices, prices.factors, 0)
        return probes(made, known, variants, sizes, prices, seconds=seconds, budget_s=budget)

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
        "tonnage measure credit --variant fp32 --instance sim-0.5 --threads 1 --batch 1 "
        "--max-load --p99 500ms"
    )


def test_what_cannot_save_is_not_listed(ask: Build) -> None:
    """Where a share costs more than the machine, nothing is worth its seconds."""
    assert ask(10, 500, listed(vm4=0.2, task=0.3)) == ()


def test_without_a_plan_any_answer_is_news(ask: Build) -> None:
    """No figure for a saving then, and the reason says so."""
    found = ask(10, 2, listed(vm4=0.2, task=0.005))
    assert found
    assert all(p.saving_usd_per_month is None for p in found)
    assert all(p.why.startswith("no plan holds yet") for p in found)


@pytest.mark.parametrize(("budget", "cells"), [(0, 0), (9, 0), (10, 1), (100, 2)])
def test_the_budget_bounds_the_list(ask: Build, budget: float, cells: int) -> None:
    """So many cells as its seconds pay for, the most telling first."""
    prices = listed(vm4=0.2, task=0.005)
    found = ask(10, 500, prices, budget=budget)
    assert found == ask(10, 500, prices)[:cells]


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
    (found,) = probes(made, known, variants, sizes, prices, seconds=14, budget_s=60)
    assert (found.size, found.threads) == ("sim-4", 4)
    assert found.saving_usd_per_month is None
    assert found.why == "the recommendation stands on this predicted size"


def test_the_server_of_a_user_is_measured_by_its_command(variant: Build, demand: Build) -> None:
    """There is no study to name, but a command to start."""
    own = variant("server", runtime="command", file="uvicorn app:app --port {port}")
    cell = Candidate(
        variant="server", size="sim-2", threads=0, instance="sim-2", replicas_per_instance=1
    )
    assert measure_command(own, cell, demand(60, 80)) == (
        "tonnage run --cmd 'uvicorn app:app --port {port}' --instance sim-2 --batch 1 "
        "--rate 60 --p99 80ms"
    )
