"""What a bought instance leaves to replicas: after the kubelet's share and the ingress' own CPU.

The reservations of the managed Kubernetes services differ, and a catalogue's shape does not say
which one will run it, so the largest published ones are taken for all. The formulas are those of
the documentation that is named below, as published in 2025; all three services change them from
release to release, and AKS and EKS let them be set. So they are an upper bound of what a default
node pool keeps: on another service, or with fewer pods, up to 1.4 GiB of 8 and 3.4 of 16 are left
over, and a plan that memory binds may be dearer than it has to be. Nothing is kept for daemon sets
of the user's own; a plain machine has to feed its system from the same share. None of it was
measured.
"""

from __future__ import annotations

from serving.records import InstanceType

_CPU_STEPS = ((1.0, 0.06), (1.0, 0.04), (2.0, 0.02), (float("inf"), 0.01))
_MEMORY_STEPS = ((4.0, 0.25), (4.0, 0.20), (8.0, 0.10), (112.0, 0.06), (float("inf"), 0.02))
_PODS_GIB = (20 * 250 + 50) / 1024
_PODS_SHARE = 0.25
_EVICTION_GIB = 100 / 1024
_CONTAINER_GIB = 0.25


def allocatable_vcpus(instance: InstanceType) -> float:
    """Of a node's vCPUs, those that pods may request; a container has all of its own.

    Kube-reserved CPU of AKS: 60, 100, 140, 180, 260, 420, 740 millicores on 1, 2, 4, 8, 16, 32, 64
    cores ("Node resource reservations in Azure Kubernetes Service"), straight lines between. GKE
    ("Plan node sizes") and EKS (``bootstrap.sh`` of amazon-eks-ami, which cites GKE) reserve 6 % of
    the first core, 1 % of the second, 0.5 % of the next two and 0.25 % of the others: 80 millicores
    on 4 cores, 110 on 16.
    """
    if instance.enforcement == "quota":
        return instance.vcpus
    return instance.vcpus - _stepped(instance.vcpus, _CPU_STEPS)


def allocatable_gib(instance: InstanceType) -> float:
    """Of a node's memory, what pods may request.

    The larger of two, and 100 MiB below which pods are evicted. GKE ("Plan node sizes"): 25 % of
    the first 4 GiB, 20 % of the next 4, 10 % of the next 8, 6 % up to 128, 2 % beyond. AKS from
    1.29 on ("Node resource reservations"): 20 MB for each pod that a node may have and 50 MB, at
    most a quarter of its memory; 250 pods are the default of Azure CNI Overlay, 110 and 30 those of
    other networks, which keep less. EKS keeps 11 MiB a pod and 255 MiB, of as many pods as the
    machine's network interfaces have addresses, which is less than GKE keeps. To a pod on Fargate
    EKS adds 256 MB for its own parts ("Fargate Pod configuration"); kept of all containers' shapes.
    """
    if instance.enforcement == "quota":
        return max(0.0, instance.memory_gib - _CONTAINER_GIB)
    gib = instance.memory_gib
    kept = max(_stepped(gib, _MEMORY_STEPS), min(_PODS_GIB, _PODS_SHARE * gib))
    return gib - kept - _EVICTION_GIB


def kept_in_words(instance: InstanceType) -> str:
    """What is kept of each bought instance, and where that figure comes from."""
    gib = instance.memory_gib - allocatable_gib(instance)
    if instance.enforcement == "quota":
        return f"{gib:.2g} GiB of each for the service's own parts (EKS on Fargate)"
    vcpus = instance.vcpus - allocatable_vcpus(instance)
    return (
        f"{vcpus:.2g} vCPU and {gib:.2g} GiB of each for the kubelet: the most that GKE, EKS or "
        "AKS publish for a default node, not measured; daemon sets of yours come on top"
    )


def _stepped(amount: float, steps: tuple[tuple[float, float], ...]) -> float:
    total = 0.0
    for width, share in steps:
        part = min(amount, width)
        total += share * part
        amount -= part
    return total
