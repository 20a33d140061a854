"""The kernel's counters around a run: clocks, CPU time, threads, and what they add up to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtests import monitor as monitor_module
from loadtests.clocks import Clocks, read_clocks, slew_ppm, suspended_s
from loadtests.monitor import Monitor, Snapshot
from serving.cpu_time import (
    CpuTimes,
    ThreadTime,
    find_per_cpu,
    load_average,
    processes_s,
    read_cpus,
    reaped_s,
    thread_times,
)
from serving.host_facts import siblings
from serving.own_limits import OwnUsage
from serving.placement import Placement
from serving.records import Endpoint, Grant, Replica


def test_the_clocks_of_this_host_agree() -> None:
    """Over half a second of a quiet clock: no slew beyond what NTP may do, no suspend."""
    before = read_clocks()
    time.sleep(0.5)
    after = read_clocks()
    assert abs(slew_ppm(before, after)) < 500
    assert abs(suspended_s(before, after)) < 0.001


def test_slew_and_suspend_are_told_apart() -> None:
    """A clock that runs 0.1 % fast, and a machine that slept for two seconds."""
    start = Clocks(monotonic=10**9, raw=10**9, boot=10**9)
    fast = Clocks(monotonic=start.monotonic + 1_001_000_000, raw=2 * 10**9, boot=2_001_000_000)
    assert slew_ppm(start, fast) == pytest.approx(1000)
    assert suspended_s(start, fast) == 0
    slept = Clocks(monotonic=2 * 10**9, raw=2 * 10**9, boot=4 * 10**9)
    assert slew_ppm(start, slept) == 0
    assert suspended_s(start, slept) == 2


STAT = """cpu  9 9 9 300 20 9 9 6 0 0
cpu0 5 5 5 200 15 5 5 4 0 0
cpu1 4 4 4 100 5 4 4 2 0 0
intr 1
"""


def test_a_cpu_is_busy_while_it_is_not_idle(tmp_path: Path, monkeypatch: Any) -> None:
    """Idle, waiting and stolen time are taken off the wall clock; sampled columns are not used."""
    monkeypatch.setattr(time, "clock_gettime", lambda _: 10.0)
    (tmp_path / "stat").write_text(STAT)
    times = read_cpus(tmp_path)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert times.busy == pytest.approx({0: 10 - 219 * tick, 1: 10 - 107 * tick})
    assert times.stolen == pytest.approx({0: 4 * tick, 1: 2 * tick})
    assert times.stolen_s == pytest.approx(6 * tick)
    (tmp_path / "percpu").write_text("2500000000 1000000000\n")
    assert read_cpus(tmp_path, tmp_path / "percpu").busy == {0: 2.5, 1: 1.0}


def test_idle_time_agrees_with_cpuacct() -> None:
    """Where version 1 counts nanoseconds per CPU, what version 2 offers says the same.

    Within the ticks of 10 ms in which idle, waiting and stolen time are printed, whatever
    else runs on this host. The load is paced in step with the ticks, where samples are wrong.
    """
    per_cpu = find_per_cpu()
    if per_cpu is None:
        pytest.skip("no cpuacct of version 1 here")
    cpu = max(os.sched_getaffinity(0))
    code = f"""
import os, time
os.sched_setaffinity(0, {{{cpu}}})
at = time.monotonic()
while True:
    until = time.thread_time() + 0.0004
    while time.thread_time() < until: pass
    at += 0.004
    time.sleep(max(0, at - time.monotonic()))
"""
    load = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.2)
        exact, derived, started = read_cpus(per_cpu=per_cpu), read_cpus(), time.perf_counter()
        time.sleep(2.0)
        exact_after, derived_after = read_cpus(per_cpu=per_cpu), read_cpus()
        wall = time.perf_counter() - started
    finally:
        load.kill()
        load.wait()
    for one in exact.busy:
        counted = (exact_after.busy[one] - exact.busy[one]) / wall
        found = (derived_after.busy[one] - derived.busy[one]) / wall
        assert found == pytest.approx(counted, abs=0.04 / wall)


def test_processes_and_threads_are_timed() -> None:
    """A thread that burned a fifth of a second shows it; one that is gone counts nothing."""
    before = thread_times(os.getpid())
    until = time.thread_time() + 0.2
    while time.thread_time() < until:
        pass
    me = threading.get_native_id()
    if before:
        ran_s = thread_times(os.getpid())[me].ran_s - before[me].ran_s
        assert ran_s == pytest.approx(0.2, abs=0.05)
    assert processes_s([os.getpid()]) >= 0.19
    assert processes_s([2**22 + 1]) == 0
    assert thread_times(2**22 + 1) == {}
    assert (load_average() or 0) >= 0


def test_waiting_for_a_cpu_shows() -> None:
    """Two programs that want the same CPU each wait about as long as they run, or longer."""
    cpu = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        time.sleep(0.3)
        before = thread_times(both[0].pid)
        time.sleep(1.0)
        after = thread_times(both[0].pid)
    finally:
        for one in both:
            one.kill()
            one.wait()
    if not before:
        pytest.skip("this kernel does not count it")
    assert monitor_module._waited(before, after) > 0.4


def test_siblings_are_neighbours(tmp_path: Path, monkeypatch: Any) -> None:
    """The other hyper-thread of a replica's core is found, a core of its own has none."""
    for cpu, shared in enumerate(("0,4", "1", "2", "3", "0,4")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(shared + "\n")
    monkeypatch.setattr("serving.host_facts._SYSTEM_CPUS", tmp_path)
    assert siblings({0}) == {4}
    assert siblings({0, 4, 1}) == set()
    assert siblings({9}) == set()  # no topology to be seen


class FakeHost:
    """A host with one replica on CPU 1 and the platform on CPU 0."""

    placement = Placement((1,), (0,))

    def groups(self, name: str) -> list[Any]:
        return []

    def ingress_pids(self) -> list[int]:
        return []

    def background_pids(self) -> list[int]:
        return []

    def outside_s(self) -> dict[int, float]:
        return {7: 0.6}

    def fallback_sessions(self) -> int:
        return 0


def monitor(method: str = "affinity", quota: float | None = None) -> Monitor:
    cpus = (1,) if method == "affinity" else (0, 1)
    grant = Grant.model_validate(
        {"method": method, "cpus": cpus, "quota_cpus": quota, "memory_bytes": None}
    )
    replica = Replica(pid=os.getpid(), grant=grant, group=None, earlier_threads=(7, 8))
    endpoint = Endpoint(url="http://x", model_name="m", managed=True, replicas=(replica,))
    return Monitor(FakeHost(), endpoint)  # type: ignore[arg-type] # all that it asks of a host


NONE = ThreadTime(0.0, 0.0)
START = Snapshot(
    at=0.0,
    clocks=Clocks(monotonic=10**9, raw=10**9, boot=10**9),
    replica_s=0.0,
    ingress={},
    ours={9: 3.0},
    reaped={},
    replica_cores_s=0.0,
    platform_cores_s=0.0,
    steal_s=0.0,
    periods=0,
    throttled_periods=0,
    throttled_s=0.0,
    peak_memory_bytes=0,
    fallback_sessions=0,
    pids=(os.getpid(),),
    own=OwnUsage(cpu_s=None, throttled_periods=0),
    threads=({7: NONE, 8: NONE},),
)
END = replace(
    START,
    at=2.0,
    clocks=Clocks(monotonic=3 * 10**9, raw=3 * 10**9, boot=3 * 10**9),
    replica_s=1.0,
    ours={9: 3.5},
    replica_cores_s=1.2,
    platform_cores_s=0.9,
    threads=(
        {7: ThreadTime(0.2, 1.0), 8: NONE, 9: ThreadTime(0.5, 0.125), 10: ThreadTime(0.3, 0.0)},
    ),
)


@pytest.fixture(autouse=True)
def no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica of these tests is the test itself, which no grant binds."""
    monkeypatch.setattr(monitor_module.audit, "violations", lambda *_: [])


def test_a_window_adds_up() -> None:
    """Others are what is left of the cores' time after the replica's, ours after ours."""
    window = monitor().between(START, END)
    assert window.others_on_replica_cores == pytest.approx(0.1)
    assert window.platform_busy == pytest.approx(0.45)
    assert window.others_on_platform_cores == pytest.approx(0.2)
    assert (window.clock_slew_ppm, window.suspended_s) == (0, 0)
    assert not window.replica_changed
    assert window.waited == pytest.approx(0.2)  # of the busiest thread


def test_what_an_ended_child_used_is_in_its_parents_account() -> None:
    """A sibling of one that burned 0.2 s and was waited for."""
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    sibling = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        before = reaped_s([sibling.pid])[os.getpid()]
        subprocess.run([sys.executable, "-c", burn], check=True)
        assert reaped_s([sibling.pid])[os.getpid()] - before >= 0.19
        assert reaped_s([2**22 + 1]) == {}
    finally:
        sibling.communicate(b"\n")


def test_an_ingress_that_was_started_anew_is_no_stranger() -> None:
    """Its successor counts from its start, and what ended by its parent's account."""
    begin = replace(START, ingress={20: 4.0}, ours={9: 3.0, 20: 4.0}, reaped={5: 1.0})
    end = replace(END, ingress={21: 0.3}, ours={9: 3.5, 21: 0.3}, reaped={5: 1.0})
    window = monitor().between(begin, end)
    assert window.ingress_s == pytest.approx(0.3)
    assert window.others_on_platform_cores == pytest.approx((0.9 - 0.8) / 2)
    window = monitor().between(begin, replace(end, reaped={5: 1.0 + 4.07}))
    assert window.ingress_s == pytest.approx(0.37)
    assert window.others_on_platform_cores == pytest.approx((0.9 - 0.87) / 2)


@pytest.mark.parametrize(
    ("before", "after", "ours_before", "explained"),
    [
        ({5: 0.6}, {5: 0.6, 6: 0.35}, {}, 0.35),
        ({5: 0.6}, {6: 0.2, 7: 0.15}, {}, 0.35),
        ({5: 0.6}, {6: 0.5}, {6: 0.15}, 0.35),  # begun before the run, as a worker of Ray
        ({5: 0.6}, {5: 0.6}, {}, 0.0),
        ({}, {}, {}, 0.0),  # a slot that lacks the figure
        ({5: 0.6}, {6: 9.0}, {}, 0.4),  # never less than nothing
    ],
)
def test_a_successors_start_is_no_stranger(
    before: dict[int, float],
    after: dict[int, float],
    ours_before: dict[int, float],
    explained: float,
) -> None:
    """What it used on the platform's cores before it entered its instance, and not a tick more."""
    begin = replace(START, ours={**START.ours, **ours_before}, outside=before)
    window = monitor().between(begin, replace(END, outside=after))
    assert window.others_on_platform_cores == pytest.approx((0.4 - explained) / 2)
    unexplained = monitor().between(START, END)
    changed = replace(unexplained, others_on_platform_cores=window.others_on_platform_cores)
    assert window == replace(changed, load_average=window.load_average)


def test_steal_of_a_large_host_is_that_of_our_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the replica's CPU is a quarter of the two in use, on a host of 64 as well."""
    monkeypatch.setattr(monitor_module, "siblings", lambda _: set())
    watch, taken = monitor(), dict.fromkeys(range(64), 0.0)
    readings = [CpuTimes({}, taken), CpuTimes({}, {**taken, 1: 1.0, 40: 9.0})]
    monkeypatch.setattr(monitor_module, "read_cpus", lambda **_: readings.pop(0))
    before, after = (replace(watch.snapshot(), at=at) for at in (0.0, 2.0))
    assert watch.between(before, after).steal == pytest.approx(0.25)


def test_threads_older_than_the_model_are_not_the_models() -> None:
    """Shares are of the whole process; only the model's threads are listed, busiest first."""
    assert monitor().between(START, END).thread_shares == ((0.5, 0.3),)
    idle = replace(END, threads=({7: ThreadTime(0.01, 0.0), 9: ThreadTime(0.05, 1.0)},))
    window = monitor().between(START, idle)
    assert (window.thread_shares, window.waited) == (((),), 0.0)


def test_in_a_container_we_are_the_others() -> None:
    """All that the container used besides the replica, over all that it may use."""
    begin = replace(START, own=OwnUsage(cpu_s=5.0, throttled_periods=1))
    end = replace(END, own=OwnUsage(cpu_s=6.3, throttled_periods=4))
    window = monitor("container", quota=1.5).between(begin, end)
    assert window.others_on_replica_cores == pytest.approx(0.3 / (1.5 * 2))
    assert window.container_throttled_periods == 3
    assert window.others_on_platform_cores == 0  # ours used more than that
    # The root group counts the whole machine: then it is read off the CPUs.
    unlimited = monitor("container").between(START, END)
    assert unlimited.others_on_replica_cores == pytest.approx(0.2 / (2 * 2))


def test_a_real_snapshot_can_be_taken() -> None:
    """Every counter is readable on this host, and two of them make a window."""
    watch = monitor()
    before = watch.snapshot()
    assert before.outside == {7: 0.6}
    time.sleep(0.05)
    window = watch.between(before, watch.snapshot())
    assert 0.05 <= window.wall_s < 5
    assert window.peak_memory_bytes > 1 << 20
    assert 0 <= window.steal <= 1
