"""CPU time by logical CPU, by process and by thread, from the kernel's counters."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from serving.cgroup_mounts import hierarchies

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTimes:
    """CPU-seconds by logical CPU since some moment in the past; subtract two readings."""

    busy: dict[int, float]
    stolen: dict[int, float]

    @property
    def stolen_s(self) -> float:
        """What the hypervisor took from all of them."""
        return sum(self.stolen.values())


def read_cpus(proc: Path = _PROC, per_cpu: Path | None = None) -> CpuTimes:
    """Busy CPU-seconds per logical CPU, and those that the hypervisor took from it.

    ``per_cpu`` is ``cpuacct.usage_percpu`` of the root group, in nanoseconds, which version 1
    has. Elsewhere a CPU was busy while it was not idle: the kernel measures idle time as it
    begins and ends, and only prints it in ticks of 10 ms. The other columns of /proc/stat are
    samples taken at ticks, and traffic that is paced in step with them looks far busier (or
    idler) than it is. /proc/schedstat would do as well, but many kernels are built without it.
    """
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    busy: dict[int, float] = {}
    taken: dict[int, float] = {}
    for line in (proc / "stat").read_text().splitlines():
        if line.startswith("cpu") and line[3].isdigit():
            name, *ticks = line.split()
            _user, _nice, _system, idle, waiting, _irq, _softirq, stolen = map(int, ticks[:8])
            busy[int(name[3:])] = now - (idle + waiting + stolen) * _TICK_S
            taken[int(name[3:])] = stolen * _TICK_S
    if per_cpu is not None:
        counters = per_cpu.read_text().split()
        busy = {cpu: int(nanoseconds) / 1e9 for cpu, nanoseconds in enumerate(counters)}
    return CpuTimes(busy, taken)


def find_per_cpu() -> Path | None:
    """The counters of version 1 for :func:`read_cpus`, where there are any for all processes."""
    place = hierarchies().v1.get("cpuacct")
    if place is None or not (place.mount / "release_agent").exists():
        return None  # in a container the mount counts the container alone
    path = place.mount / "cpuacct.usage_percpu"
    return path if path.is_file() else None


def processes_s(pids: Iterable[int], proc: Path = _PROC) -> float:
    """CPU-seconds that processes have used, user and system; those that are gone count nothing."""
    total = 0
    for pid in pids:
        try:
            fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S


def reaped_s(pids: Iterable[int], proc: Path = _PROC) -> dict[int, float]:
    """CPU-seconds of all ended children of the parents of ``pids``, by parent.

    Of a process that has ended, its parent's account is the only trace.
    """
    found: dict[int, float] = {}
    for pid in pids:
        try:
            parent = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
            fields = (proc / str(parent) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[parent] = (int(fields[13]) + int(fields[14])) * _TICK_S
    return found


class ThreadTime(NamedTuple):
    """Seconds that a thread ran, and that it could have run but waited for a CPU."""

    ran_s: float
    waited_s: float


def thread_times(pid: int, proc: Path = _PROC) -> dict[int, ThreadTime]:
    """Times of each thread of a process by its id; empty when it is gone, or not counted."""
    found: dict[int, ThreadTime] = {}
    try:
        tasks = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return {}
    for task in tasks:
        try:
            ran, waited, _ = map(int, (task / "schedstat").read_text().split())
        except (OSError, ValueError):  # it has ended, or the kernel does not count it
            continue
        found[int(task.name)] = ThreadTime(ran / 1e9, waited / 1e9)
    return found


def load_average(proc: Path = _PROC) -> float | None:
    """Processes that ran or wanted to, averaged over a minute; None where not readable."""
    try:
        return float((proc / "loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
