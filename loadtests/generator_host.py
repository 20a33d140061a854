"""What the generator's own host did during a run against a server that may be anywhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from loadtests.clocks import Clocks, read_clocks, slew_ppm, suspended_s
from loadtests.judge import clock_faults, steal_faults
from loadtests.records import Fault
from serving import host_facts
from serving.cpu_time import read_cpus
from serving.placement import Placement
from serving.records import Environment


@dataclass(frozen=True, kw_only=True)
class HostReading:
    """Clocks, and the CPU-seconds that the hypervisor has taken so far; two make a window."""

    clocks: Clocks
    stolen_s: float

    @classmethod
    def now(cls) -> Self:
        """Read all of it."""
        return cls(clocks=read_clocks(), stolen_s=read_cpus().stolen_s)


def host_faults(before: HostReading, after: HostReading) -> tuple[Fault, ...]:
    """Faults of the host between two readings: its clock, and CPU taken by the hypervisor.

    Other programs on its CPUs are not counted: the server under test may be one of them.
    """
    wall_s = (after.clocks.monotonic - before.clocks.monotonic) / 1e9
    stolen = (after.stolen_s - before.stolen_s) / (wall_s * (os.cpu_count() or 1))
    slew = slew_ppm(before.clocks, after.clocks)
    found = (
        *steal_faults(stolen, "the host's CPUs"),
        *clock_faults(slew, suspended_s(before.clocks, after.clocks)),
    )
    return tuple(Fault(code=code, detail=detail) for code, detail in found)


def generator_environment() -> Environment:
    """The environment of a generator alone, which has no replicas and no Ray Serve to set up."""
    placement = Placement((), tuple(sorted(os.sched_getaffinity(0))))
    found = host_facts.environment(placement, "affinity")
    return found.model_copy(update={"settings": {}})
