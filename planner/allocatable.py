"""What a bought instance leaves to replicas: after the kubelet's share and the ingress' own CPU.

The reservations of the managed Kubernetes services differ, and a catalogue's shape does not say
which one will run it, so the largest published ones are taken for all. Nothing is kept for
daemon sets of the user's own; a plain machine has to feed its system from the same share.
"""

from __future__ import annotations

from serving.records import InstanceType

_CPU_STEPS = ((1.0, 0.06), (1.0, 0.04), (2.0, 0.02), (float("inf"), 0.01))
_MEMORY_STEPS = ((4.0, 0.25), (4.0, 0.20), (8.0, 0.10), (112.0, 0.06), (float("inf"), 0.02))
_EVICTION_GIB = 100 / 1024
_CONTAINER_GIB = 0.25


def allocatable_vcpus(instance: InstanceType) -> float:
    """Of a node's vCPUs, those that pods may request; a container has all of its own.

    Kube-reserved CPU of AKS: 60, 100, 140, 180, 260 millicores on 1, 2, 4, 8, 16 cores ("Node
    resource reservations in Azure Kubernetes Service"). GKE ("Plan node sizes") and EKS
    (``bootstrap.sh`` of amazon-eks-ami) reserve 6 % of the first core, 1 % of the second, 0.5 %
    of the next two and 0.25 % of the others, which is less.
    """
    if instance.enforcement == "quota":
        return instance.vcpus
    return instance.vcpus - _stepped(instance.vcpus, _CPU_STEPS)


def allocatable_gib(instance: InstanceType) -> float:
    """Of a node's memory, what pods may request.

    GKE ("Plan node sizes"): 25 % of the first 4 GiB, 20 % of the next 4, 10 % of the next 8, 6 %
    up to 128, and 100 MiB below which pods are evicted. AKS from 1.29 on reserves 20 MB a pod
    and 50 MB, EKS 11 MiB a pod and 255 MiB, both less at their default numbers of pods. To a pod on
    Fargate EKS adds 256 MiB for its own parts, which are kept of every container's shape.
    """
    if instance.enforcement == "quota":
        return max(0.0, instance.memory_gib - _CONTAINER_GIB)
    return instance.memory_gib - _stepped(instance.memory_gib, _MEMORY_STEPS) - _EVICTION_GIB


def _stepped(amount: float, steps: tuple[tuple[float, float], ...]) -> float:
    total = 0.0
    for width, share in steps:
        part = min(amount, width)
        total += share * part
        amount -= part
    return total
