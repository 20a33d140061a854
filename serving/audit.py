"""Whether a replica is what its deployment says, held against the kernel instead of our belief.

A cell that is not what its label says (another size, more compute threads, neighbours on its
cores) gives figures that are precise and false. Each finding is one line that says what is
wrong and what to change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from serving.cgroups import Group, parse_cpu_list
from serving.records import Record, Replica
from serving.supervisor import descendants

_PROC = Path("/proc")


class ReplicaReport(Record):
    """What a replica says of itself once its model is loaded and warm."""

    worker_start_s: float = Field(description="process start to the model's turn: Ray, imports")
    model_load_s: float = Field(description="loading and warm-up")
    earlier_threads: tuple[int, ...] = Field(description="ids of threads older than the model")
    compute_threads: int | None = Field(
        description="threads that its runtime computes with; None where that cannot be counted"
    )


def report_name(pid: int) -> str:
    """Name of the file in which a replica reports, in the run's private folder."""
    return f"replica-{pid}.json"


def violations(
    replica: Replica, group: Group | None, threads: int | None = None, proc: Path = _PROC
) -> list[str]:
    """What is not as granted; empty when the replica is what it should be.

    ``threads`` are the compute threads declared for it; None leaves them unchecked.
    """
    found = []
    grant, pids = replica.grant, [replica.pid, *descendants(replica.pid, str(proc))]
    allowed: set[int] = set()
    for pid in pids:
        allowed |= thread_cpus(pid, proc)
    if not allowed <= set(grant.cpus):
        found.append(
            f"replica {replica.pid} has threads that may run on CPUs {_listed(allowed)}, granted "
            f"were {_listed(grant.cpus)}; something moved it: leave its affinity alone"
        )
    if group is not None and not group.directory("cpu").is_dir():
        found.append(
            f"control group {group.name} is gone; something else on this host removes "
            "control groups"
        )
    elif group is not None:
        missing = set(pids) - set(group.pids())
        outside = {pid for pid in missing if _lives(pid, proc)}  # it may have ended meanwhile
        if outside:
            found.append(
                f"processes {_listed(outside)} of replica {replica.pid} are outside of its control "
                f"group {group.name}; a model server must not leave the group it was started in"
            )
        in_force = group.read_limits()
        if not group.tree.has_cpusets:
            in_force = in_force.model_copy(update={"cpus": grant.cpus})
        if in_force != grant:
            found.append(
                f"control group {group.name} has {in_force}, asked were {grant}; "
                "something else on this host writes to control groups"
            )
    counted = replica.compute_threads
    if threads is not None and counted is not None and counted > threads:
        found.append(
            f"replica {replica.pid} computes with {counted} threads, its deployment declares "
            f"{threads}; deploy it with --threads {counted}, or make its runtime keep to {threads}"
        )
    return found


def strays(pids: Iterable[int], cpus: Iterable[int], proc: Path = _PROC) -> list[str]:
    """A line for each process that may run on ``cpus``, which are meant for replicas alone."""
    kept = set(cpus)
    found = []
    for pid in pids:
        shared = thread_cpus(pid, proc) & kept
        if shared:
            found.append(
                f"process {pid} ({_name(pid, proc)}) may run on CPUs {_listed(shared)}, "
                "which are the replicas'; something moved it: leave its affinity alone"
            )
    return found


def thread_cpus(pid: int, proc: Path = _PROC) -> set[int]:
    """CPUs that at least one thread of a process may run on; empty when it is gone."""
    cpus: set[int] = set()
    # The process, or one of its threads, may end while it is being looked at.
    with contextlib.suppress(OSError):
        for task in (proc / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                cpus.update(_allowed((task / "status").read_text()))
    return cpus


def _allowed(status: str) -> tuple[int, ...]:
    for line in status.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpu_list(line.partition(":")[2])
    return ()


def _lives(pid: int, proc: Path) -> bool:
    try:
        state = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _name(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return "gone"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"
