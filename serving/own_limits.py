"""The limits that hold for Tonnage itself: those of the container, slice or service it runs in.

Without permission to make control groups, this container is the only instance that can be
measured truthfully, and these are its size. With it, they still bind everything inside.
Folders are parameters, so that tests hold both versions against fake trees.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.cgroup_mounts import Hierarchies, hierarchies
from serving.cgroups import parse_cpu_list
from serving.records import OwnLimits

# Version 1 says "unlimited" as the largest multiple of a page.
_V1_UNLIMITED = 1 << 60


def read_own_limits(
    proc: Path = Path("/proc/self"), affinity: Collection[int] | None = None
) -> OwnLimits:
    """Limits of this process. Groups nest, and the tightest of them all binds.

    ``affinity`` are the CPUs that the scheduler allows; None asks it.
    """
    found = hierarchies(proc)
    cpus = set(os.sched_getaffinity(0) if affinity is None else affinity)
    cpuset = found.place("cpuset")
    if cpuset is not None:
        cpus &= set(_cpuset(cpuset.own)) or cpus
    return OwnLimits(
        cpus=tuple(sorted(cpus)),
        quota_cpus=min(_quotas(found), default=None),
        memory_bytes=min(_memory_limits(found), default=None),
    )


@dataclass(frozen=True, kw_only=True)
class OwnUsage:
    """Counters of the group that Tonnage runs in, and of those around it.

    ``cpu_s`` is None where the group is the whole machine, or cannot be read.
    ``throttled_periods`` are those of the level that was throttled most.
    """

    cpu_s: float | None
    throttled_periods: int


def read_own_usage(proc: Path = Path("/proc/self")) -> OwnUsage:
    """Read the counters now."""
    found = hierarchies(proc)
    return OwnUsage(
        cpu_s=_cpu_s(found),
        throttled_periods=max(
            (_number_after("nr_throttled", d / "cpu.stat") for d in _chain(found, "cpu")), default=0
        ),
    )


def _chain(found: Hierarchies, controller: str) -> list[Path]:
    place = found.place(controller)
    return place.chain if place else []


def _quotas(found: Hierarchies) -> Iterator[float]:
    """CPU-seconds per second of every group around us that has a quota."""
    for group in _chain(found, "cpu"):
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if not quota:  # version 2 has both in one file
            quota, _, period = _text(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _memory_limits(found: Hierarchies) -> Iterator[int]:
    for group in _chain(found, "memory"):
        for limit in (
            _text(group / "memory.max"),
            _text(group / "memory.limit_in_bytes"),
            # Version 1 knows of limits above what this container can see.
            str(_number_after("hierarchical_memory_limit", group / "memory.stat")),
        ):
            if limit.isdigit() and 0 < int(limit) < _V1_UNLIMITED:
                yield int(limit)


def _cpuset(group: Path) -> tuple[int, ...]:
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        if text := _text(group / name):
            return parse_cpu_list(text)
    return ()


def _cpu_s(found: Hierarchies) -> float | None:
    place = found.place("cpuacct")
    if place is None or place.is_machine:
        return None
    nanoseconds = _text(place.own / "cpuacct.usage")
    if nanoseconds.isdigit():
        return int(nanoseconds) / 1e9
    microseconds = _number_after("usage_usec", place.own / "cpu.stat")
    return microseconds / 1e6 if microseconds else None


def _number_after(key: str, file: Path) -> int:
    """Value of a line ``key value``; 0 where there is none."""
    for line in _text(file).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
