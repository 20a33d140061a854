"""Counters of the kernel around a run: who used which CPU, who was throttled, who died."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from loadtests.clocks import Clocks, read_clocks, slew_ppm, suspended_s
from serving import audit
from serving.cgroups import Group
from serving.cpu_time import (
    ThreadTime,
    find_per_cpu,
    load_average,
    processes_s,
    read_cpus,
    reaped_s,
    thread_times,
)
from serving.errors import Infrastructure
from serving.host_facts import siblings
from serving.own_limits import OwnUsage, read_own_usage
from serving.placement import Placement
from serving.records import Deployment, Endpoint, Environment

# A replica that hardly ran says nothing about how many of its threads compute.
_LEAST_THREADS_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Counters at one moment. CPU-seconds throughout; subtract two for a window.

    ``ingress`` and ``ours`` are by process: Ray starts HAProxy anew when a replica ends, so those
    at the end of a run need not be those of its beginning. ``reaped`` are the ended children of
    the ingress' parents. ``outside`` is what each replica had used before it entered its instance,
    on the platform's cores: Ray starts a successor when a replica ends.
    """

    at: float
    clocks: Clocks
    replica_s: float
    ingress: Mapping[int, float]
    ours: Mapping[int, float]
    replica_cores_s: float
    platform_cores_s: float
    steal_s: float
    periods: int
    throttled_periods: int
    throttled_s: float
    peak_memory_bytes: int
    fallback_sessions: int
    reaped: Mapping[int, float]
    pids: tuple[int, ...]
    own: OwnUsage
    threads: tuple[dict[int, ThreadTime], ...]
    outside: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Window:
    """What happened between two snapshots.

    ``others_on_replica_cores`` is what others used of the replica's cores, hyper-threads
    included, or of the container that the replica shares with us (then we are others, too).
    ``others_on_platform_cores`` is what nobody of ours used of the platform's cores, or of the
    container. ``waited`` is the part of the time in which the busiest thread of a replica
    wanted a CPU, and got none. ``steal`` is the part that the hypervisor took of the CPUs of
    replica and platform: over all of a large host it would hardly show. ``thread_shares`` has
    for each replica the shares of its CPU time that the threads of its model used, largest
    first; empty where it hardly ran.
    """

    wall_s: float
    replica_s: float
    ingress_s: float
    others_on_replica_cores: float
    platform_busy: float
    steal: float
    periods: int
    throttled_periods: int
    throttled_s: float
    peak_memory_bytes: int
    fallback_sessions: int
    replica_changed: bool
    others_on_platform_cores: float = 0.0
    container_throttled_periods: int = 0
    load_average: float | None = None
    clock_slew_ppm: float = 0.0
    suspended_s: float = 0.0
    waited: float = 0.0
    thread_shares: tuple[tuple[float, ...], ...] = ()
    violations: tuple[str, ...] = ()


class Host(Protocol):
    """What runs deployments: Ray Serve, or the command of a user."""

    placement: Placement

    def groups(self, name: str) -> Sequence[Group]:
        """Control groups of a deployment's replicas; empty where there are none.

        Unusable, with the reason, when the deployment has ended by itself.
        """
        ...

    def ingress_pids(self) -> Sequence[int]:
        """Processes between generator and replicas."""
        ...

    def background_pids(self) -> Sequence[int]:
        """Everything that runs beside the replicas and is not one of them."""
        ...

    def outside_s(self) -> Mapping[int, float]:
        """CPU-seconds that replicas used before they entered their instance, by process.

        Those of which it is not known are left out.
        """
        ...

    def fallback_sessions(self) -> int:
        """Requests so far that went round the ingress."""
        ...

    def deploy(self, deployment: Deployment) -> Endpoint:
        """Deploy, and wait until it answers. BadInput when it does not fit its instance."""
        ...

    def delete(self, name: str) -> None:
        """Take a deployment down."""
        ...

    def environment(self) -> Environment:
        """The environment of what is measured here."""
        ...


class Monitor:
    """Watches one deployment on a host; ``generator`` are the load's processes."""

    def __init__(self, host: Host, endpoint: Endpoint, generator: Sequence[int] = ()) -> None:
        self._host = host
        self._endpoint = endpoint
        self._groups = host.groups(endpoint.model_name)
        grants = [replica.grant for replica in endpoint.replicas]
        granted = {cpu for grant in grants for cpu in grant.cpus}
        self._replica_cpus = sorted(granted | siblings(granted))
        self._in_container = any(grant.method == "container" for grant in grants)
        self._replica_cores = grants[0].vcpus if self._in_container else len(granted)
        self._watched_cpus = {*self._replica_cpus, *host.placement.platform_cpus}
        self._generator = tuple(generator)
        self._per_cpu = find_per_cpu()

    def snapshot(self) -> Snapshot:
        """Read all counters now."""
        try:
            usages = [group.usage() for group in self._groups]
        except OSError:
            self._host.groups(self._endpoint.model_name)  # says why, where it knows
            raise Infrastructure("a replica ended during a run") from None
        pids = tuple(r.pid for r in self._endpoint.replicas if _alive(r.pid))
        tree = [] if usages else _with_children(pids)
        ingress = self._host.ingress_pids()
        # Before the background: whoever enters in between is in neither, and never in both.
        outside = self._host.outside_s()
        ours = [*self._host.background_pids(), *self._generator]
        cpus = read_cpus(per_cpu=self._per_cpu)
        return Snapshot(
            at=time.perf_counter(),
            clocks=read_clocks(),
            replica_s=sum(u.cpu_s for u in usages) + processes_s(tree),
            ingress=_each_s(ingress),
            ours=_each_s(ours),
            replica_cores_s=sum(cpus.busy.get(cpu, 0.0) for cpu in self._replica_cpus),
            platform_cores_s=sum(
                cpus.busy.get(cpu, 0.0) for cpu in self._host.placement.platform_cpus
            ),
            steal_s=sum(cpus.stolen.get(cpu, 0.0) for cpu in self._watched_cpus),
            periods=sum(u.periods for u in usages),
            throttled_periods=sum(u.throttled_periods for u in usages),
            throttled_s=sum(u.throttled_s for u in usages),
            peak_memory_bytes=max(
                (u.peak_memory_bytes for u in usages), default=sum(map(_peak_rss, tree))
            ),
            fallback_sessions=self._host.fallback_sessions(),
            reaped=reaped_s(ingress),
            pids=pids,
            own=read_own_usage(),
            threads=tuple(thread_times(r.pid) for r in self._endpoint.replicas),
            outside=outside,
        )

    def between(self, before: Snapshot, after: Snapshot) -> Window:
        """The window from ``before`` to ``after``."""
        wall = after.at - before.at
        # Without a group, what a replica that ended had used is gone with it.
        replica = max(0.0, after.replica_s - before.replica_s)
        ended = _ended_s(before, after)
        ours = _used_s(before.ours, after.ours) + ended + _entering_s(before, after)
        platform = len(self._host.placement.platform_cpus) * wall
        platform_used = after.platform_cores_s - before.platform_cores_s
        others = max(0.0, self._used_around(before, after) - replica) / (self._replica_cores * wall)
        strangers = max(0.0, platform_used - ours) / platform
        if self._in_container:  # the platform's cores carry the replica, too
            strangers = max(0.0, others - ours / (self._replica_cores * wall))
        return Window(
            wall_s=wall,
            replica_s=replica,
            ingress_s=_used_s(before.ingress, after.ingress) + ended,
            others_on_replica_cores=others,
            platform_busy=platform_used / platform,
            steal=(after.steal_s - before.steal_s) / (wall * len(self._watched_cpus)),
            periods=after.periods - before.periods,
            throttled_periods=after.throttled_periods - before.throttled_periods,
            throttled_s=after.throttled_s - before.throttled_s,
            peak_memory_bytes=after.peak_memory_bytes,
            fallback_sessions=after.fallback_sessions - before.fallback_sessions,
            replica_changed=after.pids != before.pids
            or len(after.pids) != len(self._endpoint.replicas),
            others_on_platform_cores=strangers,
            container_throttled_periods=after.own.throttled_periods - before.own.throttled_periods,
            load_average=load_average(),
            clock_slew_ppm=slew_ppm(before.clocks, after.clocks),
            suspended_s=suspended_s(before.clocks, after.clocks),
            waited=max(map(_waited, before.threads, after.threads), default=0.0),
            thread_shares=self._thread_shares(before, after),
            violations=tuple(self._violations()),
        )

    def _used_around(self, before: Snapshot, after: Snapshot) -> float:
        """CPU-seconds used in the container, or on the replica's cores, by whomever."""
        if self._in_container and None not in (before.own.cpu_s, after.own.cpu_s):
            return (after.own.cpu_s or 0.0) - (before.own.cpu_s or 0.0)
        return after.replica_cores_s - before.replica_cores_s

    def _thread_shares(self, before: Snapshot, after: Snapshot) -> tuple[tuple[float, ...], ...]:
        shares = []
        for replica, then, now in zip(
            self._endpoint.replicas, before.threads, after.threads, strict=True
        ):
            used = {thread: time.ran_s for thread, time in _spent(then, now).items()}
            total = sum(used.values())
            own = [s for thread, s in used.items() if thread not in replica.earlier_threads]
            enough = total >= _LEAST_THREADS_S and bool(replica.earlier_threads)
            shares.append(tuple(sorted((s / total for s in own), reverse=True)) if enough else ())
        return tuple(shares)

    def _violations(self) -> list[str]:
        groups: Sequence[Group | None] = self._groups or [None] * len(self._endpoint.replicas)
        found: list[str] = []
        for replica, group in zip(self._endpoint.replicas, groups, strict=True):
            if _alive(replica.pid):  # one that died is another fault
                found += audit.violations(replica, group)
        return found


def _with_children(pids: Sequence[int]) -> list[int]:
    """The processes and all below them: without a group they are all there is to count."""
    found = list(pids)
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return found


def _each_s(pids: Iterable[int]) -> dict[int, float]:
    return {pid: processes_s([pid]) for pid in pids}


def _used_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """What the processes that still live used in between."""
    return sum(max(0.0, now - before.get(pid, 0.0)) for pid, now in after.items())


def _ended_s(before: Snapshot, after: Snapshot) -> float:
    """What an ingress that ended in between had used since then, by its parent's account."""
    reaped = sum(
        now - before.reaped[parent]
        for parent, now in after.reaped.items()
        if parent in before.reaped
    )
    known = sum(used for pid, used in before.ingress.items() if pid not in after.ingress)
    return max(0.0, reaped - known)


def _entering_s(before: Snapshot, after: Snapshot) -> float:
    """What replicas that entered their instance in between had used since then outside of it.

    One that was there before, as a worker of Ray, is counted up to then among ours.
    """
    entered = {pid: s for pid, s in after.outside.items() if pid not in before.outside}
    return _used_s(before.ours, entered)


def _spent(before: dict[int, ThreadTime], after: dict[int, ThreadTime]) -> dict[int, ThreadTime]:
    """What each thread that still lives ran and waited in between."""
    spent = {}
    for thread, now in after.items():
        then = before.get(thread, ThreadTime(0.0, 0.0))
        spent[thread] = ThreadTime(now.ran_s - then.ran_s, now.waited_s - then.waited_s)
    return spent


def _waited(before: dict[int, ThreadTime], after: dict[int, ThreadTime]) -> float:
    """Waiting as a part of running and waiting, of the thread that ran most; 0 if hardly any."""
    spent = _spent(before, after).values()
    busiest = max(spent, default=ThreadTime(0.0, 0.0))
    if busiest.ran_s < _LEAST_THREADS_S:
        return 0.0
    return busiest.waited_s / (busiest.ran_s + busiest.waited_s)


def _peak_rss(pid: int) -> int:
    """Largest memory in RAM that a process ever had."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) << 10 if sizes else 0


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
