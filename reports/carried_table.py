"""The table of what a deployment must carry to be what was measured."""

from __future__ import annotations

from collections.abc import Iterator

from loadtests.records import Measurement
from reports import formatting as f
from reports.bundle import Bundle
from reports.table import Mark, Table
from serving.ray_host.settings import SETTING_REASONS
from serving.records import COMMAND, Environment, Grant

Row = tuple[str, str, str]


def carried(bundle: Bundle) -> Table:
    """Every setting that differs from a default, its value, and why it was chosen.

    None of the figures holds for a deployment without them.
    """
    rows: list[Row] = []
    if bundle.measurements:
        rows += [*_sizes(bundle), *_deployments(bundle)]
        if bundle.environment:
            rows += [*_host(bundle.environment), *_serve(bundle.environment)]
    return Table(
        name="carried",
        title="Measured under settings that a deployment must carry",
        header=("Setting", "Value", "Why"),
        rows=tuple(rows),
        mark=Mark.STATED,
        text_columns=(0, 1, 2),
    )


def _sizes(bundle: Bundle) -> Iterator[Row]:
    """One row a size: what the kernel was told to give its replicas."""
    first: dict[str, Measurement] = {}
    for m in bundle.measurements:
        first.setdefault(m.deployment.instance.label, m)
    for label, m in first.items():
        if m.grant.method == "container":
            yield label, _granted(m.grant), _shared(bundle)
        else:
            yield f"replica of {label}", _granted(m.grant), _WHY[m.grant.quota_cpus is not None]


_WHY = {
    True: "a container's CPU limit (Kubernetes: resources.limits.cpu)",
    False: "whole CPUs of its own: a small machine, or Kubernetes' static CPU policy; by a quota "
    "instead the tail is longer",
}


def _granted(grant: Grant) -> str:
    cpus = ("CPU " if len(grant.cpus) == 1 else "CPUs ") + ", ".join(map(str, grant.cpus))
    if grant.quota_cpus is not None:
        cpus = f"{f.vcpus(grant.quota_cpus)} by a quota per 100 ms, on {cpus}"
    memory = "no memory limit" if grant.memory_bytes is None else f.memory(grant.memory_bytes)
    return f"{cpus}; {memory}; by {grant.method}"


def _shared(bundle: Bundle) -> str:
    taken = [
        m.cpu.others_on_replica_cores
        for m in bundle.measurements
        if m.grant.method == "container" and m.valid and m.cpu.others_on_replica_cores is not None
    ]
    most = f", at most {f.percent(max(taken))} of it in a valid run" if taken else ""
    return f"generator and ingress shared it with the replica{most}"


def _deployments(bundle: Bundle) -> Iterator[Row]:
    """What a replica of ours is told; the server of a user has its own threads and bounds."""
    if all(m.deployment.variant.runtime == COMMAND for m in bundle.measurements):
        return
    threads = sorted({m.deployment.threads for m in bundle.measurements})
    bounds = sorted(
        {
            (m.deployment.max_ongoing_requests, m.deployment.max_queued_requests)
            for m in bundle.measurements
        }
    )
    yield (
        "compute threads of a replica",
        ", ".join(map(str, threads)),
        "a runtime's own default is every core of the machine, whatever the replica was given; "
        "spinning while idle is off",
    )
    yield (
        "max_ongoing_requests, max_queued_requests",
        "; ".join(f"{f.count(ongoing)}, {f.count(queued)}" for ongoing, queued in bounds),
        "Ray's defaults are 5 and no bound; beyond these, requests are refused with 503",
    )


def _host(env: Environment) -> Iterator[Row]:
    apart = not set(env.replica_cpus) & set(env.platform_cpus)
    if apart:
        yield (
            "CPUs of ingress and Ray itself" if env.settings else "CPUs of the generator",
            ", ".join(map(str, env.platform_cpus)),
            "no other process may run on the replicas' CPUs; what it used there, they would lack",
        )
    if env.generator_priority == "fifo":
        yield (
            "priority of the load generator",
            "real time",
            "for punctual requests alone; what serves ran at normal priority",
        )


def _serve(env: Environment) -> Iterator[Row]:
    for name, value in (*env.settings.items(), *env.deployed.items()):
        yield name, value, SETTING_REASONS.get(name, "")
