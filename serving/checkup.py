"""What ``tonnage doctor`` found: records, for a machine to read and for ``reports`` to print."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serving.records import Environment, Record


class Groups(Record):
    """Control groups: the kernel's means to give a process a share of CPU and memory."""

    version: Literal[1, 2] | None = Field(description="the one that is mounted")
    permitted: bool = Field(description="whether we may make groups; tried, not guessed")
    own_group: bool = Field(
        default=False, description="in a subtree that was handed to us (delegated), not at the root"
    )
    cpusets: bool = Field(default=False, description="whether groups can be bound to CPUs")


class Now(Record):
    """What the host does at this moment; shares are of all its CPUs over one second."""

    load_average: float | None = Field(description="over one minute; None where not readable")
    busy: float
    steal: float = Field(description="taken by the hypervisor for other machines")


class SizeCheck(Record):
    """Whether replicas of one size can be measured here."""

    name: str
    measurable: bool
    reason: str = ""
    change: str = Field(default="", description="what to change so that it can be")


class Proof(Record):
    """Enforcement tried out: a program that wants all CPU, in a group that grants less."""

    what: str
    granted_cpus: float
    used_cpus: float
    periods: int = Field(default=0, description="of 100 ms, in which a quota was counted")
    throttled_periods: int = Field(default=0, description="in which the quota ran out")
    holds: bool


class Checkup(Record):
    """Everything that decides what this host can truthfully measure."""

    environment: Environment
    physical_cores: int
    groups: Groups
    now: Now
    haproxy: str | None = Field(description="version of the ingress; None when it does not start")
    port: int
    port_free: bool
    sizes: tuple[SizeCheck, ...]
    proofs: tuple[Proof, ...] = Field(default=(), description="only with --probe")
