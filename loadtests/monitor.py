"""Counters of the kernel around a run: who used which CPU, who was throttled, who died."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from serving.cgroups import Group
from serving.placement import Placement
from serving.records import Endpoint

_PER_CPU = Path("/sys/fs/cgroup/cpuacct/cpuacct.usage_percpu")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Counters at one moment. CPU-seconds throughout; subtract two for a window."""

    at: float
    replica_s: float
    ingress_s: float
    replica_cores_s: float
    platform_cores_s: float
    steal_s: float
    periods: int
    throttled_periods: int
    throttled_s: float
    peak_memory_bytes: int
    fallback_sessions: int
    pids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Window:
    """What happened between two snapshots."""

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


class Host(Protocol):
    """What runs deployments: Ray Serve, or the command of a user."""

    placement: Placement

    def groups(self, name: str) -> Sequence[Group]:
        """Control groups of a deployment's replicas; empty where there are none."""
        ...

    def ingress_pids(self) -> Sequence[int]:
        """Processes between generator and replicas."""
        ...

    def fallback_sessions(self) -> int:
        """Requests so far that went round the ingress."""
        ...


class Monitor:
    """Watches one deployment on a host."""

    def __init__(self, host: Host, endpoint: Endpoint) -> None:
        self._host = host
        self._endpoint = endpoint
        self._groups = host.groups(endpoint.model_name)
        self._replica_cpus = sorted({c for r in endpoint.replicas for c in r.grant.cpus})
        self._ingress = host.ingress_pids()

    def snapshot(self) -> Snapshot:
        """Read all counters now."""
        usages = [group.usage() for group in self._groups]
        pids = tuple(r.pid for r in self._endpoint.replicas if _alive(r.pid))
        busy, steal = _cpu_seconds()
        return Snapshot(
            at=time.perf_counter(),
            replica_s=sum(u.cpu_s for u in usages) if usages else sum(map(_process_s, pids)),
            ingress_s=sum(map(_process_s, self._ingress)),
            replica_cores_s=sum(busy.get(cpu, 0.0) for cpu in self._replica_cpus),
            platform_cores_s=sum(busy.get(c, 0.0) for c in self._host.placement.platform_cpus),
            steal_s=steal,
            periods=sum(u.periods for u in usages),
            throttled_periods=sum(u.throttled_periods for u in usages),
            throttled_s=sum(u.throttled_s for u in usages),
            peak_memory_bytes=max(
                (u.peak_memory_bytes for u in usages), default=max(map(_rss, pids), default=0)
            ),
            fallback_sessions=self._host.fallback_sessions(),
            pids=pids,
        )

    def between(self, before: Snapshot, after: Snapshot) -> Window:
        """The window from ``before`` to ``after``."""
        wall = after.at - before.at
        replica = after.replica_s - before.replica_s
        cores = len(self._replica_cpus) * wall
        platform = len(self._host.placement.platform_cpus) * wall
        others = (after.replica_cores_s - before.replica_cores_s - replica) / cores
        return Window(
            wall_s=wall,
            replica_s=replica,
            ingress_s=max(0.0, after.ingress_s - before.ingress_s),
            others_on_replica_cores=max(0.0, others),
            platform_busy=(after.platform_cores_s - before.platform_cores_s) / platform,
            steal=(after.steal_s - before.steal_s) / (wall * (os.cpu_count() or 1)),
            periods=after.periods - before.periods,
            throttled_periods=after.throttled_periods - before.throttled_periods,
            throttled_s=after.throttled_s - before.throttled_s,
            peak_memory_bytes=after.peak_memory_bytes,
            fallback_sessions=after.fallback_sessions - before.fallback_sessions,
            replica_changed=after.pids != before.pids
            or len(after.pids) != len(self._endpoint.replicas),
        )


def _cpu_seconds() -> tuple[dict[int, float], float]:
    """Busy CPU-seconds since boot per logical CPU, and stolen ones over all CPUs.

    Busy time comes in nanoseconds from the root of the cpuacct hierarchy where there is
    one. /proc/stat samples at clock ticks, and traffic that is paced in step with them
    looks busier than it is.
    """
    busy: dict[int, float] = {}
    steal = 0.0
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu") and line[3].isdigit():
            name, *ticks = line.split()
            user, nice, system, _idle, _iowait, irq, softirq, stolen = map(int, ticks[:8])
            busy[int(name[3:])] = (user + nice + system + irq + softirq) * _TICK_S
            steal += stolen * _TICK_S
    if _PER_CPU.is_file():
        busy = {cpu: int(ns) / 1e9 for cpu, ns in enumerate(_PER_CPU.read_text().split())}
    return busy, steal


def _process_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _rss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
