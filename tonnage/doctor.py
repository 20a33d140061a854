"""``tonnage doctor``: what this host can truthfully measure, and what to change for the rest."""

from __future__ import annotations

import os
import time

from serving import host_facts
from serving.cgroup_mounts import hierarchies
from serving.cgroups import CgroupTree, find_cgroups
from serving.checkup import Checkup, Groups, Now, SizeCheck
from serving.cpu_time import load_average, read_cpus
from serving.errors import BadInput
from serving.grants import check_fits_host, container_instance, enforcement
from serving.instances import load_instances
from serving.placement import CannotBeMeasured, Placement, check_measurable
from serving.ports import check_free
from serving.proof import prove
from serving.ray_host.settings import haproxy_version
from serving.records import CONTAINER, InstanceType
from tonnage.config import shipped

PORT = 8080  # where ``tonnage serve`` listens unless it is told otherwise
_WATCHED_S = 1.0


def examine(*, probe: bool = False) -> Checkup:
    """Look at everything, for a second; with ``probe`` also try out what is enforced, for three."""
    tree = find_cgroups(f"tonnage-{os.getpid()}-doctor")
    placement = host_facts.host_placement()
    return Checkup(
        environment=host_facts.environment(placement, enforcement(tree)),
        physical_cores=len(host_facts.physical_cores()),
        groups=_groups(tree),
        now=_now(),
        haproxy=haproxy_version(),
        port=PORT,
        port_free=_is_free(PORT),
        sizes=tuple(_sizes(tree, placement)),
        proofs=prove(tree, placement.replica_cpus[-1]) if probe else (),
    )


def _groups(tree: CgroupTree | None) -> Groups:
    if tree is not None:
        return Groups(
            version=1 if tree.version == 1 else 2,
            permitted=True,
            own_group=tree.leaf is not None,
            cpusets=tree.has_cpusets,
        )
    found = hierarchies()
    return Groups(version=1 if found.v1 else 2 if found.v2 else None, permitted=False)


def _now() -> Now:
    before, started = read_cpus(), time.perf_counter()
    time.sleep(_WATCHED_S)
    after, wall = read_cpus(), time.perf_counter() - started
    whole = wall * len(after.busy)
    used = sum(after.busy.values()) - sum(before.busy.values())
    return Now(
        load_average=load_average(),
        busy=min(1.0, max(0.0, used / whole)),
        steal=max(0.0, after.stolen_s - before.stolen_s) / whole,
    )


def _is_free(port: int) -> bool:
    try:
        check_free(port)
    except BadInput:
        return False
    return True


def _sizes(tree: CgroupTree | None, placement: Placement) -> list[SizeCheck]:
    """The sizes that are cut out of this host, and the container around us."""
    known = load_instances(shipped("instances.toml"))
    found = [_size(size, tree, placement) for size in known.values() if size.is_host_size]
    try:
        whole = container_instance()
    except BadInput as error:
        return [*found, SizeCheck(name=CONTAINER, measurable=False, reason=str(error))]
    shared = f"{whole.vcpus:g} CPUs, {whole.memory_gib:g} GiB; for models that take so long that "
    reason = shared + "generator and ingress, which share it, hardly count"
    return [*found, SizeCheck(name=CONTAINER, measurable=True, reason=reason)]


def _size(size: InstanceType, tree: CgroupTree | None, placement: Placement) -> SizeCheck:
    try:
        check_measurable(size, 1, placement)
        check_fits_host(size)
    except CannotBeMeasured as error:
        return SizeCheck(name=size.name, measurable=False, reason=error.reason, change=error.change)
    except BadInput as error:
        return SizeCheck(name=size.name, measurable=False, reason=str(error))
    if tree is None and size.enforcement == "quota":
        return SizeCheck(
            name=size.name,
            measurable=False,
            reason="a fraction of a CPU needs control groups",
            change="see control groups above",
        )
    return SizeCheck(name=size.name, measurable=True)
