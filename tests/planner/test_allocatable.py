"""What a bought instance leaves to replicas, against the figures that clouds publish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from planner.allocatable import allocatable_gib, allocatable_vcpus, kept_in_words
from planner.candidates import ingress_vcpus, place
from planner.prices import Price, PriceList
from planner.records import Bottleneck, CpuFactor

Build = Callable[..., Any]

PRICES = PriceList(
    (
        Price(
            instance="vm",
            usd_per_hour=0.1,
            region="x",
            as_of="2025-01-15",
            source="list",
            cpu_family="cloud",
        ),
    ),
    (CpuFactor(target_family="cloud", low=1, mid=1, high=1, basis="assumed"),),
)


@pytest.mark.parametrize(("vcpus", "millicores"), [(1, 60), (2, 100), (4, 140), (8, 180)])
def test_cpu_is_reserved_as_aks_publishes_it(
    instance: Build, vcpus: int, millicores: float
) -> None:
    """The table of "Node resource reservations in Azure Kubernetes Service"."""
    kept = vcpus - allocatable_vcpus(instance("vm", vcpus=vcpus, enforcement="cpuset"))
    assert 1e3 * kept == pytest.approx(millicores)


@pytest.mark.parametrize(("gib", "kept"), [(4, 1.0), (64, 5.48), (128, 9.32), (256, 11.88)])
def test_memory_is_reserved_as_gke_publishes_it(instance: Build, gib: float, kept: float) -> None:
    """25 % of 4 GiB, 20 % of 4 more, 10 % of 8 more, 6 % beyond; and 100 MiB for eviction."""
    left = allocatable_gib(instance("vm", memory_gib=gib))
    assert gib - left == pytest.approx(kept + 100 / 1024)


@pytest.mark.parametrize(("gib", "kept"), [(8, 2.0), (16, 4.0), (32, 5050 / 1024)])
def test_or_as_aks_does_for_250_pods(instance: Build, gib: float, kept: float) -> None:
    """20 MB a pod and 50, at most a quarter, where that is more."""
    left = allocatable_gib(instance("vm", memory_gib=gib))
    assert gib - left == pytest.approx(kept + 100 / 1024)


@pytest.mark.parametrize(("gib", "pods"), [(2, 11), (8, 58), (16, 58), (32, 234), (384, 737)])
def test_eks_keeps_less(instance: Build, gib: float, pods: int) -> None:
    """11 MiB a pod and 255, for as many pods as the machine's interfaces have addresses."""
    left = allocatable_gib(instance("vm", memory_gib=gib))
    assert gib - left > (11 * pods + 255 + 100) / 1024


def test_what_is_kept_is_said_with_its_source(instance: Build) -> None:
    """In words, for the report."""
    node = kept_in_words(instance("vm", vcpus=4, memory_gib=8))
    assert node.startswith("0.14 vCPU and 2.1 GiB of each for the kubelet: the most that GKE, EKS")
    assert "not measured" in node
    task = kept_in_words(instance("task", vcpus=0.5, enforcement="quota", memory_gib=1))
    assert task == "0.25 GiB of each for the service's own parts (EKS on Fargate)"


def test_a_container_keeps_its_cpu_and_gives_a_quarter_gib(instance: Build) -> None:
    """There is no kubelet in it that counts on its CPU."""
    task = instance("task", vcpus=0.5, enforcement="quota", memory_gib=1)
    assert allocatable_vcpus(task) == 0.5
    assert allocatable_gib(task) == 0.75


@pytest.mark.parametrize(("ingress_ms", "held"), [(0.0, 3), (2.0, 3), (5.0, 2), (12.0, 1)])
def test_the_ingress_takes_its_cpu_from_the_node(
    profile: Build, instance: Build, demand: Build, ingress_ms: float, held: int
) -> None:
    """100 requests of 5 ms are half a CPU beside each replica of one: two fit into 3.86."""
    sizes = {
        "sim-1": instance("sim-1"),
        "vm": instance("vm", vcpus=4, memory_gib=16, enforcement="cpuset", cpu_family="cloud"),
    }
    one = profile(capacity_rps=100.0, ingress_cpu_ms=ingress_ms)
    assert ingress_vcpus(one) == pytest.approx(ingress_ms / 10)
    placed, _ = place(demand(), [one], [], [one.variant], sizes, PRICES)
    (there,) = (p for p in placed if p.candidate.instance == "vm")
    assert there.candidate.replicas_per_instance == held


def test_a_replica_of_all_vcpus_does_not_fit_a_node(
    profile: Build, instance: Build, demand: Build
) -> None:
    """Two whole CPUs on a machine that has two: the kubelet needs a part of them."""
    sizes = {
        "sim-2": instance("sim-2"),
        "vm": instance("vm", vcpus=2, memory_gib=16, enforcement="cpuset", cpu_family="cloud"),
    }
    two = profile(instance=sizes["sim-2"], threads=2)
    _, rejected = place(demand(), [two], [], [two.variant], sizes, PRICES)
    ((bottleneck, reason),) = [(r.bottleneck, r.reason) for r in rejected]
    assert bottleneck is Bottleneck.CAPACITY
    assert "need 2.01 vCPU, vm has 1.9 of 2 to give" in reason
