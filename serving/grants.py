"""What an instance type means on this host: a grant per replica, for the kernel to enforce."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from serving import host_facts, placement
from serving.cgroups import CgroupTree
from serving.errors import BadInput
from serving.records import Grant, InstanceType

# The kernel rounds a memory limit down to whole pages.
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def enforcement(tree: CgroupTree | None) -> Literal["cgroup-v1", "cgroup-v2", "affinity"]:
    """How instance types are enforced with such a tree, or without one."""
    if tree is None:
        return "affinity"
    return "cgroup-v1" if tree.version == 1 else "cgroup-v2"


def check_fits_host(instance: InstanceType) -> None:
    """BadInput when the whole host is too small for the instance."""
    host_cpus = len(os.sched_getaffinity(0))
    if instance.vcpus > host_cpus:
        raise BadInput(
            f"instance {instance.name} has {instance.vcpus:g} vCPUs, this host has "
            f"{host_cpus}; choose a smaller --instance"
        )
    if instance.memory_gib > host_facts.memory_limit_gib():
        raise BadInput(
            f"instance {instance.name} has {instance.memory_gib:g} GiB, this host has "
            f"{host_facts.memory_limit_gib():.1f}; choose a smaller --instance"
        )


def grants_of(
    instance: InstanceType, replicas: int, free_cpus: Sequence[int], tree: CgroupTree | None
) -> list[Grant]:
    """One grant per replica, on CPUs of ``free_cpus``; BadInput when those are too few."""
    cpus = placement.cpus_of_replicas(instance, replicas, free_cpus)
    if tree is None:
        return [Grant(method="affinity", cpus=c, quota_cpus=None, memory_bytes=None) for c in cpus]
    quota = instance.vcpus if instance.enforcement == "quota" else None
    memory = int(instance.memory_gib * 2**30) // _PAGE_BYTES * _PAGE_BYTES
    return [
        Grant(method=enforcement(tree), cpus=c, quota_cpus=quota, memory_bytes=memory) for c in cpus
    ]
