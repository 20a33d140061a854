"""A false cell is found: threads, processes and limits that are not as granted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import audit
from serving.cgroups import CgroupTree, find_cgroups
from serving.compute_threads import compute_threads, process_age_s, thread_ids
from serving.records import Grant, Replica

CPUS = tuple(sorted(os.sched_getaffinity(0)))
# A program with a second thread and a child, all of which stay until it is killed.
PROGRAM = """
import subprocess, sys, threading, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(threading.enumerate()[1].native_id, child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def program() -> Iterator[tuple[int, int, int]]:
    """A running process: its id, that of its second thread, that of its child."""
    running = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    thread, child = map(int, running.stdout.readline().split())
    yield running.pid, thread, child
    os.kill(child, 9)
    running.kill()
    running.communicate()


def replica(pid: int, cpus: tuple[int, ...] = CPUS, counted: int | None = None) -> Replica:
    grant = Grant(method="affinity", cpus=cpus, quota_cpus=None, memory_bytes=None)
    return Replica(pid=pid, grant=grant, group=None, compute_threads=counted)


def test_a_true_replica_has_no_violations(program: tuple[int, int, int]) -> None:
    """Threads and children within the grant, no more compute threads than declared."""
    assert audit.violations(replica(program[0], counted=2), None, threads=2) == []


def test_one_thread_outside_of_the_grant_is_found(program: tuple[int, int, int]) -> None:
    """Affinity belongs to threads: the process's own says nothing about the others."""
    if len(CPUS) < 2:
        pytest.skip("one CPU leaves no room outside of it")
    pid, thread, child = program
    for one in (pid, thread, child):
        os.sched_setaffinity(one, {CPUS[0]})
    assert audit.violations(replica(pid, CPUS[:1]), None) == []
    os.sched_setaffinity(thread, {CPUS[1]})
    (found,) = audit.violations(replica(pid, CPUS[:1]), None)
    assert f"may run on CPUs {CPUS[0]}, {CPUS[1]}, granted were {CPUS[0]}" in found
    os.sched_setaffinity(thread, {CPUS[0]})
    os.sched_setaffinity(child, {CPUS[1]})
    assert len(audit.violations(replica(pid, CPUS[:1]), None)) == 1


def test_too_many_compute_threads_are_found(program: tuple[int, int, int]) -> None:
    """The line says how many there are, how many were declared, and what to change."""
    (found,) = audit.violations(replica(program[0], counted=4), None, threads=1)
    assert "computes with 4 threads, its deployment declares 1; deploy it with --threads 4" in found


def test_a_process_outside_of_the_group_is_found(
    program: tuple[int, int, int], tmp_path: Path
) -> None:
    """The replica's child is in no group; then the group vanishes; then its limits differ."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory")
    tree = CgroupTree(2, dict.fromkeys(("cpu", "cpuacct", "cpuset", "memory"), tmp_path), "t")
    granted = Grant(method="cgroup-v2", cpus=CPUS, quota_cpus=0.5, memory_bytes=1 << 30)
    group = tree.create("cell-0", granted)
    pid, _, child = program
    held = Replica(pid=pid, grant=granted, group=group.name)
    group.procs_files[0].write_text(f"{pid}\n")
    (found,) = audit.violations(held, group)
    assert f"processes {child} of replica {pid} are outside" in found
    group.procs_files[0].write_text(f"{pid}\n{child}\n")
    assert audit.violations(held, group) == []
    (group.directory("cpu") / "cpu.max").write_text("max 100000")
    (found,) = audit.violations(held, group)
    assert "asked were" in found
    for file in group.directory("cpu").iterdir():
        file.unlink()
    group.directory("cpu").rmdir()
    (found,) = audit.violations(held, group)
    assert "is gone" in found


def test_a_stray_process_is_found(program: tuple[int, int, int]) -> None:
    """A background process whose second thread may run on the replicas' CPUs is named."""
    if len(CPUS) < 2:
        pytest.skip("one CPU cannot be divided")
    pid, thread, _ = program
    for one in (pid, thread):
        os.sched_setaffinity(one, {CPUS[0]})
    assert audit.strays([pid], CPUS[1:]) == []
    os.sched_setaffinity(thread, set(CPUS))
    (found,) = audit.strays([pid], CPUS[1:])
    assert f"process {pid} (python" in found
    assert audit.strays([2**22 + 1], CPUS) == []  # no such process


def test_the_pool_of_onnxruntime_is_counted(tmp_path: Path) -> None:
    """Sessions of one, two and four threads are counted as such, by their kernel threads."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 4])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 4])
    node = helper.make_node("Relu", ["x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", [value], [result]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "m.onnx")
    code = """
import sys
from pathlib import Path
from serving.compute_threads import compute_threads, import_library, thread_ids
from serving.runtimes.onnx_runtime import OnnxRuntime
import_library("onnxruntime")
earlier = thread_ids()
runtime = OnnxRuntime(Path(sys.argv[1]), int(sys.argv[2]))
print(compute_threads("onnxruntime", earlier))
"""
    for threads in (1, 2, 4):
        command = [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout) == threads


def test_what_cannot_be_counted_is_not_made_up() -> None:
    """A runtime of which nothing is known gives None; Python's own threads are no pool."""
    earlier = thread_ids()
    waiting = threading.Event()
    other = threading.Thread(target=waiting.wait, daemon=True)
    other.start()
    assert compute_threads("stub", earlier) == 1
    assert compute_threads("mystery", earlier) is None
    waiting.set()
    other.join()


def test_the_age_of_a_process_is_known() -> None:
    """Seconds since its start, to a clock tick; an exec in between does not make it younger."""
    code = (
        "import os, sys, time; time.sleep(0.3); "
        "os.execv(sys.executable, [sys.executable, '-c', "
        "'from serving.compute_threads import process_age_s; print(process_age_s())'])"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.3 <= float(done.stdout) <= time.perf_counter() - started + 0.02
    assert process_age_s() > 0


def test_the_real_group_holds_a_process_and_its_child(program: tuple[int, int, int]) -> None:
    """Against the kernel: moved with its child a replica is true; a child left out shows."""
    tree = find_cgroups(f"tonnage-{os.getpid()}-audit")
    if tree is None:
        pytest.skip("no permission for control groups here")
    pid, _, child = program
    method = "cgroup-v1" if tree.version == 1 else "cgroup-v2"
    granted = Grant(method=method, cpus=CPUS, quota_cpus=None, memory_bytes=1 << 28)
    group = tree.create("cell-0", granted)
    try:
        held = Replica(pid=pid, grant=granted, group=group.name)
        for procs in group.procs_files:
            procs.write_text(str(pid))
        (found,) = audit.violations(held, group)
        assert str(child) in found
        for procs in group.procs_files:
            procs.write_text(str(child))
        assert audit.violations(held, group) == []
    finally:
        for procs in tree.roots.values():
            (procs / "cgroup.procs").write_text(str(pid))
            (procs / "cgroup.procs").write_text(str(child))
        tree.remove()
