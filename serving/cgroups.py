"""Control groups, version 1 and 2: how an instance type becomes true on Linux.

The host side creates a group per replica, the replica's process enters it before it
loads anything (``serving/ray_host/enter_instance.py``), and the host side reads the
counters and removes the group. Folders are parameters, so that tests hold both versions
against a fake tree.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serving.cgroup_leaf import Leaf
from serving.cgroup_mounts import CONTROLLERS, hierarchies
from serving.records import Grant

PERIOD_US = 100_000  # the CFS period of Kubernetes; a shorter one hides the throttling tail
_V1_UNLIMITED = 1 << 60


@dataclass(frozen=True, kw_only=True)
class GroupUsage:
    """Counters of one group since its creation."""

    cpu_s: float
    periods: int
    throttled_periods: int
    throttled_s: float
    peak_memory_bytes: int
    oom_kills: int


@dataclass(frozen=True)
class CgroupTree:
    """Where groups are made: for v1 a directory per controller, for v2 a single one.

    ``roots`` maps controller name to directory (all the same one for v2). ``leaf`` is set
    where that one is our own group, delegated to us, which we have to leave first.
    """

    version: int
    roots: dict[str, Path]
    name: str = field(default="tonnage")
    leaf: Leaf | None = None

    @property
    def has_cpusets(self) -> bool:
        """Whether groups can be bound to CPUs; a user's own subtree often lacks that controller.

        Replicas are then pinned by affinity alone; quota and memory limit hold all the same.
        """
        return self.version == 1 or "cpuset" in _controllers(self.roots["cpuset"])

    @property
    def bases(self) -> list[Path]:
        """Directories that hold this tree's groups, one per hierarchy, without repeats."""
        return list(dict.fromkeys(root / self.name for root in self.roots.values()))

    def create(self, group: str, grant: Grant) -> Group:
        """Make a group that enforces ``grant``.

        Raises OSError (PermissionError among them) where the kernel does not let us.
        """
        made = Group(tree=self, name=group)
        try:
            if self.leaf is not None:
                self.leaf.enter()
            for base in self.bases:
                base.mkdir(exist_ok=True)
                if self.version == 1 and base == self.roots["cpuset"] / self.name:
                    _inherit_cpuset_v1(base)
                if self.version == 2:
                    _enable_controllers_v2(base.parent)
                    _enable_controllers_v2(base)
                (base / group).mkdir(exist_ok=True)
            made.write_limits(grant)
        except OSError:
            made.remove()
            raise
        return made

    def remove(self) -> None:
        """Remove every group of this tree; processes in them are killed first."""
        for base in self.bases:
            if not base.is_dir():
                continue
            for child in [p for p in base.iterdir() if p.is_dir()]:
                Group(tree=self, name=child.name).remove()
            _rmdir(base)
        if self.leaf is not None:
            self.leaf.leave()


@dataclass(frozen=True)
class Group:
    """One control group, made by :meth:`CgroupTree.create`."""

    tree: CgroupTree
    name: str

    def directory(self, controller: str) -> Path:
        """Directory of this group in the hierarchy of ``controller``."""
        return self.tree.roots[controller] / self.tree.name / self.name

    @property
    def procs_files(self) -> list[Path]:
        """Files into which a process writes its id to enter the group."""
        directories = dict.fromkeys(self.directory(c) for c in self.tree.roots)
        return [directory / "cgroup.procs" for directory in directories]

    def write_limits(self, grant: Grant) -> None:
        """Write CPUs, quota and memory limit of ``grant``."""
        cpus = ",".join(map(str, grant.cpus))
        quota = None if grant.quota_cpus is None else round(grant.quota_cpus * PERIOD_US)
        if self.tree.version == 1:
            _write(self.directory("cpuset") / "cpuset.cpus", cpus)
            parent_mems = (self.directory("cpuset").parent / "cpuset.mems").read_text().strip()
            _write(self.directory("cpuset") / "cpuset.mems", parent_mems)
            _write(self.directory("cpu") / "cpu.cfs_period_us", str(PERIOD_US))
            _write(self.directory("cpu") / "cpu.cfs_quota_us", str(quota or -1))
            if grant.memory_bytes:
                memory = self.directory("memory")
                _write(memory / "memory.limit_in_bytes", str(grant.memory_bytes))
        else:
            directory = self.directory("cpu")
            if self.tree.has_cpusets:
                _write(directory / "cpuset.cpus", cpus)
            _write(directory / "cpu.max", f"{quota or 'max'} {PERIOD_US}")
            if grant.memory_bytes:
                _write(directory / "memory.max", str(grant.memory_bytes))
                with contextlib.suppress(OSError):  # absent where the kernel has no swap
                    _write(directory / "memory.swap.max", "0")

    def read_limits(self) -> Grant:
        """What the kernel says is in force; the audit compares it with what was asked.

        No CPUs are named where groups cannot be bound to any.
        """
        if self.tree.version == 1:
            cpus = (self.directory("cpuset") / "cpuset.cpus").read_text()
            period = int((self.directory("cpu") / "cpu.cfs_period_us").read_text())
            quota = int((self.directory("cpu") / "cpu.cfs_quota_us").read_text())
            limit = int((self.directory("memory") / "memory.limit_in_bytes").read_text())
            return Grant(
                method="cgroup-v1",
                cpus=parse_cpu_list(cpus),
                quota_cpus=quota / period if quota > 0 else None,
                memory_bytes=limit if limit < _V1_UNLIMITED else None,
            )
        directory = self.directory("cpu")
        amount, period_text = (directory / "cpu.max").read_text().split()
        limit_text = (directory / "memory.max").read_text().strip()
        cpus = (directory / "cpuset.cpus").read_text() if self.tree.has_cpusets else ""
        return Grant(
            method="cgroup-v2",
            cpus=parse_cpu_list(cpus),
            quota_cpus=None if amount == "max" else int(amount) / int(period_text),
            memory_bytes=None if limit_text == "max" else int(limit_text),
        )

    def usage(self) -> GroupUsage:
        """Read the counters. Raises OSError when the group is gone."""
        if self.tree.version == 1:
            stat = _read_pairs(self.directory("cpu") / "cpu.stat")
            memory = self.directory("memory")
            return GroupUsage(
                cpu_s=int((self.directory("cpuacct") / "cpuacct.usage").read_text()) / 1e9,
                periods=stat.get("nr_periods", 0),
                throttled_periods=stat.get("nr_throttled", 0),
                throttled_s=stat.get("throttled_time", 0) / 1e9,
                peak_memory_bytes=int((memory / "memory.max_usage_in_bytes").read_text()),
                oom_kills=_read_pairs(memory / "memory.oom_control").get("oom_kill", 0),
            )
        directory = self.directory("cpu")
        stat = _read_pairs(directory / "cpu.stat")
        peak = directory / "memory.peak"  # since Linux 5.19
        current = directory / "memory.current"
        return GroupUsage(
            cpu_s=stat["usage_usec"] / 1e6,
            periods=stat.get("nr_periods", 0),
            throttled_periods=stat.get("nr_throttled", 0),
            throttled_s=stat.get("throttled_usec", 0) / 1e6,
            peak_memory_bytes=int((peak if peak.exists() else current).read_text()),
            oom_kills=_read_pairs(directory / "memory.events").get("oom_kill", 0),
        )

    def exists(self) -> bool:
        """Whether the kernel still has the group."""
        return self.procs_files[0].exists()

    def pids(self) -> list[int]:
        """Processes in the group, oldest id first."""
        try:
            return sorted(int(line) for line in self.procs_files[0].read_text().split())
        except OSError:
            return []

    def remove(self) -> None:
        """Kill what is left in the group and remove it; fine when it is gone already."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        for directory in dict.fromkeys(self.directory(c) for c in self.tree.roots):
            _rmdir(directory)


def find_cgroups(
    name: str, proc: Path = Path("/proc/self"), probe: bool = True
) -> CgroupTree | None:
    """The tree in which groups can be made, or None where that is not permitted.

    Version 1 is preferred where its cpu controller is mounted (a hybrid host). With
    ``probe`` a group is made and removed in each place that comes into question, since
    permission bits do not tell.
    """
    for tree in _candidates(name, proc):
        if not probe or _works(tree):
            return tree
    return None


def _candidates(name: str, proc: Path) -> Iterator[CgroupTree]:
    """Places for groups, best first.

    In version 2 the root of all if it is mounted; else, or where that is denied, our own
    group: a container's, or a subtree that systemd delegated to its user.
    """
    found = hierarchies(proc)
    if all(controller in found.v1 for controller in CONTROLLERS):
        yield CgroupTree(1, {c: found.v1[c].mount for c in CONTROLLERS}, name)
        return
    if found.v2 is None:
        return
    mount, own = found.v2.mount, Leaf.owner(found.v2.own)
    for root in dict.fromkeys((mount, own)):
        if {"cpu", "memory"} <= _controllers(root):
            leaf = Leaf(root) if (root / "cgroup.events").exists() else None
            yield CgroupTree(2, dict.fromkeys(CONTROLLERS, root), name, leaf)


def _works(tree: CgroupTree) -> bool:
    grant = Grant(
        method="cgroup-v1" if tree.version == 1 else "cgroup-v2",
        cpus=tuple(sorted(os.sched_getaffinity(0)))[:1],
        quota_cpus=0.5,
        memory_bytes=1 << 30,
    )
    try:
        tree.create("probe", grant).remove()
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            tree.remove()
    return True


def enforces_quotas() -> bool:
    """Whether control groups can be made here; without them a CPU cannot be divided."""
    return find_cgroups(f"tonnage-{os.getpid()}-probe") is not None


def remove_stale(proc: Path = Path("/proc/self")) -> list[Path]:
    """Remove groups left behind by a Tonnage process that no longer lives.

    A tree is named ``tonnage-<pid>-...``; only those whose process is gone are touched.
    """
    removed: list[Path] = []
    for tree in _candidates("tonnage", proc):
        for root in dict.fromkeys(tree.roots.values()):
            for base in root.glob("tonnage-*-*"):
                owner = base.name.split("-")[1]
                if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                    CgroupTree(tree.version, tree.roots, base.name).remove()
                    removed.append(base)
    return removed


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Kernel list format to ids: ``0-2,5`` is (0, 1, 2, 5)."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def _inherit_cpuset_v1(base: Path) -> None:
    # A new v1 cpuset is empty, and nothing can enter it or its children until it is not.
    for key in ("cpuset.cpus", "cpuset.mems"):
        target = base / key
        if not target.exists() or not target.read_text().strip():
            _write(target, (base.parent / key).read_text().strip())


def _enable_controllers_v2(directory: Path) -> None:
    control = directory / "cgroup.subtree_control"
    enabled = control.read_text().split() if control.exists() else []
    wanted = [c for c in ("cpu", "cpuset", "memory") if c in _controllers(directory)]
    missing = [f"+{c}" for c in wanted if c not in enabled]
    if missing:
        _write(control, " ".join(missing))


def _controllers(group: Path) -> set[str]:
    """Controllers that children of a v2 group may be given."""
    try:
        return set((group / "cgroup.controllers").read_text().split())
    except OSError:
        return set()


def _read_pairs(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _write(path: Path, text: str) -> None:
    with path.open("w") as stream:
        stream.write(text)


def _rmdir(directory: Path) -> None:
    # The kernel refuses (EBUSY) until the last killed process has been reaped.
    deadline = time.monotonic() + 3
    while directory.is_dir():
        try:
            directory.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
