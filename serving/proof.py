"""Proof that this host enforces what is asked of it: programs that want more than they get."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from serving.cgroups import CgroupTree, Group, GroupUsage
from serving.checkup import Proof
from serving.cpu_time import processes_s
from serving.errors import Infrastructure
from serving.grants import enforcement
from serving.records import Grant

_WATCHED_S = 1.0
_SETTLE_S = 0.3
# The kernel accounts a quota per 100 ms, and one second may hold a part of one period more.
_EXCESS = 1.1
_BUSY = "while True: pass"
_MEMORY_BYTES = 256 << 20


def prove(tree: CgroupTree | None, cpu: int) -> tuple[Proof, ...]:
    """Burn CPU ``cpu`` for a second each: under a quota of a half, and bound to that one CPU.

    Without control groups only the second is tried, by affinity. Raises Infrastructure when
    groups were permitted a moment ago and cannot be made now.
    """
    if tree is None:
        return (_affinity(cpu),)
    try:
        return (_quota(tree, cpu), _cpuset(tree, cpu))
    except OSError as error:
        raise Infrastructure(f"control groups could not be tried out: {error}") from None
    finally:
        tree.remove()


def _quota(tree: CgroupTree, cpu: int) -> Proof:
    group = tree.create("quota", _grant(tree, cpu, 0.5))
    with _burning(1, lambda pid: _enter(group, pid)):
        time.sleep(_SETTLE_S)
        before, started = group.usage(), time.perf_counter()
        time.sleep(_WATCHED_S)
        after, wall = group.usage(), time.perf_counter() - started
    used = _cpus(before, after, wall)
    throttled = after.throttled_periods - before.throttled_periods
    return Proof(
        what="a quota of half a CPU",
        granted_cpus=0.5,
        used_cpus=used,
        periods=after.periods - before.periods,
        throttled_periods=throttled,
        # Neighbours may take a part; then the quota never runs out, and proves nothing less.
        holds=used <= 0.5 * _EXCESS and (throttled > 0 or used <= 0.5),
    )


def _cpuset(tree: CgroupTree, cpu: int) -> Proof:
    group = tree.create("cpuset", _grant(tree, cpu, None))
    pinned = not tree.has_cpusets

    def enter(pid: int) -> None:
        _enter(group, pid)
        if pinned:
            os.sched_setaffinity(pid, {cpu})

    with _burning(2, enter) as pids:
        time.sleep(_SETTLE_S)
        before, started = group.usage(), time.perf_counter()
        time.sleep(_WATCHED_S)
        after, wall = group.usage(), time.perf_counter() - started
        allowed = set().union(*(os.sched_getaffinity(pid) for pid in pids))
    return _one_cpu(f"CPU {cpu} alone", _cpus(before, after, wall), allowed == {cpu})


def _affinity(cpu: int) -> Proof:
    with _burning(2, lambda pid: os.sched_setaffinity(pid, {cpu})) as pids:
        time.sleep(_SETTLE_S)
        before, started = processes_s(pids), time.perf_counter()
        time.sleep(_WATCHED_S)
        used = (processes_s(pids) - before) / (time.perf_counter() - started)
        allowed = set().union(*(os.sched_getaffinity(pid) for pid in pids))
    return _one_cpu(f"CPU {cpu} alone, by affinity", used, allowed == {cpu})


def _one_cpu(what: str, used: float, alone: bool) -> Proof:
    return Proof(what=what, granted_cpus=1.0, used_cpus=used, holds=alone and used <= _EXCESS)


def _grant(tree: CgroupTree, cpu: int, quota: float | None) -> Grant:
    return Grant(
        method=enforcement(tree), cpus=(cpu,), quota_cpus=quota, memory_bytes=_MEMORY_BYTES
    )


def _enter(group: Group, pid: int) -> None:
    for procs in group.procs_files:
        procs.write_text(str(pid))


@contextmanager
def _burning(programs: int, enter: Callable[[int], None]) -> Iterator[Sequence[int]]:
    """Programs that use all the CPU they get, each put where ``enter`` puts it."""
    running = [subprocess.Popen([sys.executable, "-I", "-S", "-c", _BUSY]) for _ in range(programs)]
    try:
        for program in running:
            enter(program.pid)
        yield [program.pid for program in running]
    finally:
        for program in running:
            program.kill()
            program.wait()


def _cpus(before: GroupUsage, after: GroupUsage, wall: float) -> float:
    return (after.cpu_s - before.cpu_s) / wall
