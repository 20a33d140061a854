"""Control groups of both versions, against a fake tree and, where permitted, the real one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.cgroup_mounts import hierarchies
from serving.cgroups import CgroupTree, find_cgroups, parse_cpu_list
from serving.records import Grant


def fake_v2(root: Path) -> CgroupTree:
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    (root / "cgroup.subtree_control").write_text("cpu memory")
    return CgroupTree(2, dict.fromkeys(("cpu", "cpuacct", "cpuset", "memory"), root), "tonnage-1-a")


def fake_v1(root: Path) -> CgroupTree:
    roots = {}
    for controller in ("cpu", "cpuacct", "cpuset", "memory"):
        roots[controller] = root / controller
        roots[controller].mkdir()
    (roots["cpuset"] / "cpuset.cpus").write_text("0-3\n")
    (roots["cpuset"] / "cpuset.mems").write_text("0\n")
    return CgroupTree(1, roots, "tonnage-1-a")


def grant(version: int, quota: float | None) -> Grant:
    method = "cgroup-v1" if version == 1 else "cgroup-v2"
    return Grant(method=method, cpus=(2, 3), quota_cpus=quota, memory_bytes=1 << 30)


@pytest.mark.parametrize("quota", [None, 0.25])
def test_v2_writes_and_reads_its_limits(tmp_path: Path, quota: float | None) -> None:
    """Quota, CPUs and memory are written in the words of version 2 and read back."""
    tree = fake_v2(tmp_path)
    group = tree.create("cell-0", grant(2, quota))
    folder = tmp_path / "tonnage-1-a" / "cell-0"
    assert (folder / "cpu.max").read_text() == f"{25000 if quota else 'max'} 100000"
    assert (folder / "cpuset.cpus").read_text() == "2,3"
    assert (folder / "memory.max").read_text() == str(1 << 30)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpuset"
    assert group.read_limits() == grant(2, quota)
    assert group.procs_files == [folder / "cgroup.procs"]


def test_v2_reads_its_counters(tmp_path: Path) -> None:
    """cpu.stat, memory.peak and memory.events become one record, in seconds and bytes."""
    tree = fake_v2(tmp_path)
    group = tree.create("cell-0", grant(2, 0.5))
    folder = tmp_path / "tonnage-1-a" / "cell-0"
    (folder / "cpu.stat").write_text(
        "usage_usec 2500000\nuser_usec 1\nnr_periods 40\nnr_throttled 10\nthrottled_usec 500000\n"
    )
    (folder / "memory.peak").write_text("123456\n")
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    usage = group.usage()
    assert (usage.cpu_s, usage.periods, usage.throttled_periods) == (2.5, 40, 10)
    assert (usage.throttled_s, usage.peak_memory_bytes, usage.oom_kills) == (0.5, 123456, 1)
    (folder / "memory.peak").unlink()  # kernels before 5.19
    (folder / "memory.current").write_text("99\n")
    assert group.usage().peak_memory_bytes == 99


def test_v1_writes_and_reads_its_limits(tmp_path: Path) -> None:
    """The same for version 1, with a parent cpuset that has to inherit first."""
    tree = fake_v1(tmp_path)
    group = tree.create("cell-0", grant(1, 0.5))
    assert (tmp_path / "cpu/tonnage-1-a/cell-0/cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "cpuset/tonnage-1-a/cpuset.cpus").read_text() == "0-3"
    assert (tmp_path / "cpuset/tonnage-1-a/cell-0/cpuset.mems").read_text() == "0"
    assert group.read_limits() == grant(1, 0.5)
    assert len(group.procs_files) == 4


def proc(tmp_path: Path, mounts: list[str], own: str = "0::/\n") -> Path:
    """A process's folder under /proc, as far as control groups are concerned."""
    (tmp_path / "mountinfo").write_text("\n".join(mounts) + "\n")
    (tmp_path / "cgroup").write_text(own)
    return tmp_path


def test_a_v2_host_is_found(tmp_path: Path) -> None:
    """A lone cgroup2 mount with the three controllers is used, at its root."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory")
    here = proc(tmp_path, [f"30 24 0:26 / {tmp_path} rw shared:9 - cgroup2 cgroup2 rw"])
    tree = find_cgroups("tonnage-1-a", here, probe=False)
    assert tree is not None
    assert (tree.version, tree.bases) == (2, [tmp_path / "tonnage-1-a"])
    assert tree.leaf is None


def test_a_hybrid_host_uses_v1(tmp_path: Path) -> None:
    """Controllers mounted as version 1 win over a bare cgroup2 mount; cpu,cpuacct may share."""
    here = proc(
        tmp_path,
        [
            "30 24 0:26 / /c/unified rw - cgroup2 cgroup2 rw",
            "31 24 0:27 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct",
            "32 24 0:28 / /c/cpuset rw - cgroup cgroup rw,cpuset",
            "33 24 0:29 / /c/memory rw - cgroup cgroup rw,memory",
        ],
    )
    tree = find_cgroups("t", here, probe=False)
    assert tree is not None
    assert tree.version == 1
    assert [str(base) for base in tree.bases] == ["/c/cpu/t", "/c/cpuset/t", "/c/memory/t"]


def test_no_usable_controllers_means_none(tmp_path: Path) -> None:
    """Without the cpu controller, or without mounts, there is nothing to enforce with."""
    (tmp_path / "cgroup.controllers").write_text("cpuset memory")
    here = proc(tmp_path, [f"30 24 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw"])
    assert find_cgroups("t", here, probe=False) is None
    assert find_cgroups("t", tmp_path / "absent") is None


def test_permission_denied_means_none(tmp_path: Path) -> None:
    """Where groups cannot be made, the probe says so; nothing raises."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory")
    (tmp_path / "t").write_text("a file where the folder would be")
    here = proc(tmp_path, [f"30 24 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw"])
    assert find_cgroups("t", here) is None


def delegated(tmp_path: Path, controllers: str = "cpuset cpu memory") -> tuple[Path, Path]:
    """A v2 host whose root is not ours, and below it a scope that is: (/proc/self, scope)."""
    scope = tmp_path / "user.slice" / "tonnage.scope"
    scope.mkdir(parents=True)
    for group in (scope.parent, scope):
        (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        (group / "cgroup.controllers").write_text(controllers)
        (group / "cgroup.subtree_control").write_text("")
    (scope / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    (tmp_path / "cgroup.controllers").write_text("")  # none to give: not ours
    mounts = [f"30 24 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw"]
    return proc(tmp_path, mounts, "0::/user.slice/tonnage.scope\n"), scope


def test_a_delegated_subtree_is_used(tmp_path: Path) -> None:
    """In a scope of systemd or a container, groups are made in our own group.

    We step aside into a leaf first (processes of others stay), and back afterwards.
    """
    here, scope = delegated(tmp_path)
    tree = find_cgroups("tonnage-1-a", here, probe=False)
    assert tree is not None
    assert tree.bases == [scope / "tonnage-1-a"]
    group = tree.create("cell-0", grant(2, 0.5))
    leaf = scope / f"tonnage-{os.getpid()}-leaf"
    assert (leaf / "cgroup.procs").read_text() == str(os.getpid())
    assert (scope / "cgroup.subtree_control").read_text() == "+cpu +cpuset +memory"
    assert group.read_limits() == grant(2, 0.5)
    # A second look, from within the leaf, finds the same place.
    (tmp_path / "cgroup").write_text(f"0::/user.slice/tonnage.scope/{leaf.name}\n")
    again = find_cgroups("tonnage-1-b", here, probe=False)
    assert again is not None
    assert again.bases == [scope / "tonnage-1-b"]
    assert tree.leaf is not None
    tree.leaf.leave()
    assert (scope / "cgroup.procs").read_text() == str(os.getpid())
    assert (scope / "cgroup.subtree_control").read_text() == "-+cpu -+cpuset -+memory"


def test_without_cpusets_quota_and_memory_still_hold(tmp_path: Path) -> None:
    """A user's own subtree often lacks the cpuset controller; its CPUs are then not written."""
    here, scope = delegated(tmp_path, "cpu memory pids")
    tree = find_cgroups("t", here, probe=False)
    assert tree is not None
    group = tree.create("cell-0", grant(2, 0.25))
    assert not (scope / "t" / "cell-0" / "cpuset.cpus").exists()
    assert group.read_limits() == grant(2, 0.25).model_copy(update={"cpus": ()})


def test_the_real_kernel_lets_us_step_aside(tmp_path: Path) -> None:
    """In a real group of version 2: with us in it, it cannot have children; with a leaf it can.

    Any controller will do, as the rule is the same for all.
    """
    place = hierarchies().v2
    offered = (place.mount / "cgroup.controllers").read_text().split() if place else []
    if place is None or not offered or os.geteuid() or not place.is_machine:
        pytest.skip("no version 2 with a free controller here")
    control, group = place.mount / "cgroup.subtree_control", place.mount / "tonnage-test-delegated"
    before = control.read_text().split()
    control.write_text(f"+{offered[0]}")
    group.mkdir()
    code = f"""
from pathlib import Path
import os
from serving.cgroup_leaf import Leaf
group, leaf = Path({str(group)!r}), Leaf(Path({str(group)!r}))
own = lambda: Path("/proc/self/cgroup").read_text().split("0::")[1].strip()
(group / "cgroup.procs").write_text(str(os.getpid()))
try:
    (group / "cgroup.subtree_control").write_text("+{offered[0]}")
except OSError as error:
    print(error.errno)
leaf.enter()
print(own() == "/" + group.name + "/" + leaf.path.name)
(group / "cgroup.subtree_control").write_text("+{offered[0]}")
print((group / "cgroup.subtree_control").read_text().strip())
leaf.leave()
print(own() == "/" + group.name, leaf.path.exists())
"""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    finally:
        group.rmdir()
        if offered[0] not in before:
            control.write_text(f"-{offered[0]}")
    assert done.stdout.split() == [str(errno.EBUSY), "True", offered[0], "True", "False"], done


def test_cpu_lists() -> None:
    """The kernel's list format, ranges and singles."""
    assert parse_cpu_list("0-2,5\n") == (0, 1, 2, 5)
    assert parse_cpu_list("\n") == ()


def test_the_real_kernel_enforces_a_quota() -> None:
    """A busy process in a group of a quarter CPU uses a quarter, within 10 %."""
    tree = find_cgroups("tonnage-test-quota")
    if tree is None:
        pytest.skip("no permission for control groups here")
    method = "cgroup-v1" if tree.version == 1 else "cgroup-v2"
    asked = Grant(method=method, cpus=(0,), quota_cpus=0.25, memory_bytes=1 << 28)
    group = tree.create("busy", asked)
    # First in line for its quarter, whatever else this host is busy with.
    weight = ("cpu.shares", "100000") if tree.version == 1 else ("cpu.weight", "10000")
    (group.directory("cpu") / weight[0]).write_text(weight[1])
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for procs in group.procs_files:
            procs.write_text(str(busy.pid))
        time.sleep(0.3)
        before, start = group.usage(), time.perf_counter()
        time.sleep(2)
        after, end = group.usage(), time.perf_counter()
        assert group.read_limits() == asked
    finally:
        busy.kill()
        busy.wait()
        tree.remove()
    assert (after.cpu_s - before.cpu_s) / (end - start) == pytest.approx(0.25, rel=0.1)
    assert after.throttled_periods > before.throttled_periods
    assert not any(base.exists() for base in tree.bases)
