"""What an instance type means on this host: a grant per replica, for the kernel to enforce."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Literal

from serving import host_facts, placement
from serving.cgroups import CgroupTree
from serving.errors import BadInput
from serving.own_limits import read_own_limits
from serving.records import CONTAINER, Grant, InstanceType

# The kernel rounds a memory limit down to whole pages.
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def enforcement(tree: CgroupTree | None) -> Literal["cgroup-v1", "cgroup-v2", "affinity"]:
    """How instance types are enforced with such a tree, or without one."""
    if tree is None:
        return "affinity"
    return "cgroup-v1" if tree.version == 1 else "cgroup-v2"


def container_instance() -> InstanceType:
    """The instance type ``container``: what Tonnage itself may use, read from the kernel.

    BadInput where that is more than an instance type may have.
    """
    limits = read_own_limits()
    most = 8
    if limits.vcpus > most:
        raise BadInput(
            f"instance '{CONTAINER}': {limits.vcpus:g} CPUs may be used here, and sizes end at "
            f"{most} vCPUs; start Tonnage on fewer, e.g. taskset --cpu-list 0-{most - 1} tonnage"
        )
    quota = "no quota" if limits.quota_cpus is None else f"a quota of {limits.quota_cpus:g}"
    memory = "the machine's memory" if limits.memory_bytes is None else "a memory limit"
    return InstanceType(
        name=CONTAINER,
        vcpus=limits.vcpus,
        memory_gib=math.floor(100 * host_facts.memory_limit_gib()) / 100,
        enforcement="quota" if limits.quota_binds else "cpuset",
        cpu_family="host",
        threads_per_core=max(len(core) for core in host_facts.physical_cores()),
        note=f"what Tonnage itself may use: {len(limits.cpus)} CPUs, {quota}, {memory}; "
        "shared with generator and ingress",
    )


def check_fits_host(instance: InstanceType) -> None:
    """BadInput when the whole host (or the container we are in) is too small for the instance."""
    limits = read_own_limits()
    if instance.vcpus > limits.vcpus:
        raise BadInput(
            f"instance {instance.name} has {instance.vcpus:g} vCPUs, this host has "
            f"{limits.vcpus:g}; choose a smaller --instance"
        )
    memory_gib = host_facts.memory_limit_gib()
    if instance.memory_gib > memory_gib:
        raise BadInput(
            f"instance {instance.name} has {instance.memory_gib:g} GiB, this host has "
            f"{memory_gib:.1f}; choose a smaller --instance"
        )


def grants_of(
    instance: InstanceType, replicas: int, free_cpus: Sequence[int], tree: CgroupTree | None
) -> list[Grant]:
    """One grant per replica, on CPUs of ``free_cpus``; BadInput when those are too few."""
    if instance.is_container:
        return [_container_grant(replicas)]
    cpus = placement.cpus_of_replicas(instance, replicas, free_cpus)
    if tree is None:
        return [Grant(method="affinity", cpus=c, quota_cpus=None, memory_bytes=None) for c in cpus]
    quota = instance.vcpus if instance.enforcement == "quota" else None
    memory = int(instance.memory_gib * 2**30) // _PAGE_BYTES * _PAGE_BYTES
    return [
        Grant(method=enforcement(tree), cpus=c, quota_cpus=quota, memory_bytes=memory) for c in cpus
    ]


def _container_grant(replicas: int) -> Grant:
    if replicas > 1:
        raise BadInput(
            f"instance '{CONTAINER}' is everything there is here: it holds one replica, not "
            f"{replicas}; ask for one, or for a size such as sim-1"
        )
    limits = read_own_limits()
    return Grant(
        method="container",
        cpus=limits.cpus,
        quota_cpus=limits.quota_cpus if limits.quota_binds else None,
        memory_bytes=limits.memory_bytes,
    )
