"""Which CPUs belong to the replicas, and which to everything else.

Generator, ingress and Ray's own processes must not run on the replica's cores: what
they use there, the model does not get. Whole physical cores are divided, so that no
replica shares a core with them through a hyper-thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serving.errors import BadInput
from serving.records import InstanceType


class CannotBeMeasured(BadInput):
    """A size that this host cannot give truthfully: why, and what to change."""

    def __init__(self, reason: str, change: str = "") -> None:
        super().__init__(f"{reason}; {change}" if change else reason)
        self.reason = reason
        self.change = change


@dataclass(frozen=True)
class Placement:
    """Logical CPUs for the replicas and for the platform; ``shared`` when they overlap.

    ``quota_left`` is what a quota around everything leaves for the replicas when the platform
    uses its CPUs to the full; None without a quota.
    """

    replica_cpus: tuple[int, ...]
    platform_cpus: tuple[int, ...]
    shared: bool = False
    quota_left: float | None = None


def divide(cores: Sequence[tuple[int, ...]], quota_cpus: float | None = None) -> Placement:
    """Split a host: the platform gets one core of two to four, then about a quarter.

    ``cores`` are the logical CPUs of each physical core. A host with a single core has
    to share it, and nothing measured there is free of the generator. ``quota_cpus`` is the
    quota of the container we are in: a host that is larger than that is not ours.
    """
    if len(cores) == 1:
        return Placement(tuple(cores[0]), tuple(cores[0]), shared=True)
    ours = len(cores) if quota_cpus is None else min(len(cores), int(quota_cpus))
    platform = max(1, ours // 4)
    flat = [cpu for core in cores[platform:] for cpu in core]
    platform_cpus = tuple(cpu for core in cores[:platform] for cpu in core)
    left = None if quota_cpus is None else max(0.0, quota_cpus - len(platform_cpus))
    return Placement(tuple(flat), platform_cpus, quota_left=left)


def check_measurable(instance: InstanceType, replicas: int, placement: Placement) -> None:
    """Raise CannotBeMeasured when ``replicas`` of this size do not fit beside the platform.

    The container itself always fits; whether it could be shared is judged run by run.
    """
    if instance.is_container:
        return
    available = len(placement.replica_cpus)
    if placement.shared:
        raise CannotBeMeasured(
            "this host has one core: generator and replica would share it, "
            "so nothing here can be measured truthfully",
            "use a host with two, or measure what is here as it is: --instance container",
        )
    platform = len(placement.platform_cpus)
    wanted = instance.vcpus * replicas
    if placement.quota_left is not None and wanted > placement.quota_left:
        raise CannotBeMeasured(
            f"{replicas} x {instance.label} needs {wanted:g} CPUs; the quota of this container "
            f"leaves {placement.quota_left:g} beside generator and ingress",
            f"raise it to {wanted + platform:g} (docker run --cpus, resources.limits.cpu)",
        )
    needed = cpus_needed(instance, replicas)
    if needed > available:
        total = available + platform
        raise CannotBeMeasured(
            f"{replicas} x {instance.label} needs {needed} CPUs; this host has {total}, of which "
            f"{platform} carry generator and ingress: left to prediction",
            f"use a host or container with at least {needed + platform} CPUs",
        )


def cpus_needed(instance: InstanceType, replicas: int) -> int:
    """CPUs that ``replicas`` of this size occupy: quotas pack, cpusets do not share."""
    if instance.enforcement == "cpuset":
        return int(instance.vcpus) * replicas
    return math.ceil(round(instance.vcpus * replicas, 6))


def rotated(available: Sequence[int], cpus: int) -> tuple[int, ...]:
    """``available`` in an order that gives others than the last ``cpus`` next, if there are any.

    Blocks of as many change places and stay as they are, so that a CPU set is in ascending order.
    """
    begin = len(available) % cpus
    rest, used = tuple(available[:begin]), tuple(available[begin:])
    return (*rest, *used[-cpus:], *used[:-cpus])


def cpus_of_replicas(
    instance: InstanceType, replicas: int, available: Sequence[int]
) -> list[tuple[int, ...]]:
    """CPUs of each replica. A cpuset replica has its own; quota replicas share the pool.

    The last CPUs of the host are taken first: interrupts tend to arrive on the first.
    Raises BadInput when the host is too small.
    """
    needed = cpus_needed(instance, replicas)
    if needed > len(available):
        raise BadInput(
            f"{replicas} x {instance.label} needs {needed} CPUs, this host has "
            f"{len(available)} for replicas; choose a smaller instance"
        )
    pool = tuple(available[len(available) - needed :])
    if instance.enforcement == "quota":
        return [pool] * replicas
    size = int(instance.vcpus)
    return [pool[i * size : (i + 1) * size] for i in range(replicas)]
