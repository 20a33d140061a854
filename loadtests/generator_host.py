"""What the generator's own host did during a run against a server that may be anywhere."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

from loadtests.clocks import Clocks, read_clocks, slew_ppm, suspended_s
from loadtests.judge import clock_faults, steal_faults
from loadtests.records import Fault
from serving import host_facts
from serving.cpu_time import read_cpus
from serving.host_facts import physical_cores
from serving.placement import Placement
from serving.records import Environment


@dataclass(frozen=True, kw_only=True)
class HostReading:
    """Clocks, and the seconds that the hypervisor has taken of each CPU; two make a window."""

    clocks: Clocks
    stolen_s: Mapping[int, float]

    @classmethod
    def now(cls) -> Self:
        """Read all of it."""
        return cls(clocks=read_clocks(), stolen_s=read_cpus().stolen)


def generator_cpus(workers: int) -> tuple[int, ...]:
    """CPUs to keep the generator on: a core for each worker where one is left beside them.

    Else all that may be used.
    """
    cores = physical_cores()
    if workers < len(cores):
        return tuple(core[0] for core in cores[:workers])
    return tuple(sorted(os.sched_getaffinity(0)))


def host_faults(
    before: HostReading, after: HostReading, cpus: Collection[int]
) -> tuple[Fault, ...]:
    """Faults of the host between two readings: its clock, and what the hypervisor took.

    It is judged over ``cpus``, the generator's: over all of a large host it would hardly show.
    Other programs on its CPUs are not counted: the server under test may be one of them.
    """
    wall_s = (after.clocks.monotonic - before.clocks.monotonic) / 1e9
    taken_s = sum(after.stolen_s[cpu] - before.stolen_s[cpu] for cpu in cpus)
    slew = slew_ppm(before.clocks, after.clocks)
    found = (
        *steal_faults(taken_s / (wall_s * len(cpus)), "the generator's CPUs"),
        *clock_faults(slew, suspended_s(before.clocks, after.clocks)),
    )
    return tuple(Fault(code=code, detail=detail) for code, detail in found)


def generator_environment(cpus: Collection[int]) -> Environment:
    """The environment of a generator on ``cpus``, with no replicas and no Ray Serve to set up."""
    placement = Placement((), tuple(cpus))
    found = host_facts.environment(placement, "affinity")
    return found.model_copy(update={"settings": {}})
