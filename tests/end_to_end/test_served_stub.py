"""A stub of known service time through the real path: Ray Serve, HAProxy, cgroups, Locust."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtests.cell import CellContext, measure
from loadtests.fleet import Fleet
from loadtests.payloads import make_payloads
from loadtests.records import FaultCode, LoadRun
from serving.ray_host.client import RayHost
from serving.records import Deployment, Endpoint, InstanceType
from serving.stub_variant import stub_variant

pytestmark = pytest.mark.slow

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")
QUARTER = InstanceType(
    name="sim-0.25", vcpus=0.25, memory_gib=1, enforcement="quota", cpu_family="host"
)
ROWS = {"features": np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)}


def context(
    host: RayHost, fleet: Fleet, deployment: Deployment, endpoint: Endpoint, batch: int = 4
) -> CellContext:
    payloads = make_payloads(deployment, ROWS, batch, seed=1)
    return CellContext(
        host=host,
        fleet=fleet,
        deployment=deployment,
        endpoint=endpoint,
        payloads=fleet.store("test", payloads),
        batch=batch,
        seed=1,
        environment="test",
    )


def test_a_known_service_time_comes_back(host: RayHost, fleet: Fleet, tmp_path: Path) -> None:
    """5 ms of CPU per call is measured as 5 ms of service, in all three kinds of run.

    Paced, closed and open loop; two workers; answers checked; nothing lost. Held against laws
    that are as true of a busy host: a call takes no less time than its CPU, and, in the middle,
    no more than the replica's CPU for a request over what others left of the core.
    """
    deployment = Deployment(variant=stub_variant(tmp_path, 5.0, "five"), instance=SIZE, threads=1)
    endpoint = host.deploy(deployment)
    try:
        cell = context(host, fleet, deployment, endpoint)
        runs = [
            LoadRun(mode="paced", batch=4, duration_s=1.5, rate_rps=40),
            LoadRun(mode="closed", batch=4, duration_s=1.5, users=4, workers=2),
            LoadRun(mode="open", batch=4, duration_s=2.0, rate_rps=80, workers=2, seed=3),
        ]
        made = [measure(cell, run, number) for number, run in enumerate(runs)]
    finally:
        host.delete(endpoint.model_name)
    bearable = {
        FaultCode.CORES_SHARED,
        FaultCode.NOISY_HOST,
        FaultCode.DISPATCH_LAG,
        FaultCode.GENERATOR_AT_LIMIT,
    }
    for m in made:
        assert {f.code for f in m.faults} <= bearable, m.faults
        assert m.inference == "thread"
        assert 5.0 <= m.replica_cpu_ms <= 7.0
        left = 1 - m.cpu.others_on_replica_cores - m.cpu.steal
        assert m.service.quantile_s(0.1) * 1e3 >= 4.95
        assert m.service.quantile_s(0.5) * 1e3 <= 1.1 * m.replica_cpu_ms / left
        assert m.checked > 0
        assert m.wrong == 0
        assert m.ok == m.offered
    paced, closed, opened = made
    assert paced.offered == 60
    # Four users on one inference thread: each request waits for three others.
    waited = closed.queue.quantile_s(0.5) / closed.service.quantile_s(0.5)
    assert waited == pytest.approx(3, rel=0.3)
    # Utilisation law: whoever always has work uses all that others left of the core.
    busy = closed.completed_rps * closed.replica_cpu_ms / 1e3
    assert busy == pytest.approx(1 - closed.cpu.others_on_replica_cores, rel=0.15)
    assert closed.completed_rps * closed.sent_to_done.mean_s() == pytest.approx(4, rel=0.1)
    assert opened.due_to_done.quantile_s(0.5) >= opened.sent_to_done.quantile_s(0.5)


def test_a_quota_is_true(host: RayHost, fleet: Fleet, tmp_path: Path) -> None:
    """A quarter of a CPU gives a quarter of the throughput, and never more CPU than that."""
    deployment = Deployment(
        variant=stub_variant(tmp_path, 4.0, "four"), instance=QUARTER, threads=1
    )
    if host.tree is None:
        pytest.skip("no permission for control groups here")
    endpoint = host.deploy(deployment)
    try:
        cell = context(host, fleet, deployment, endpoint)
        run = LoadRun(mode="closed", batch=4, duration_s=3.0, users=2)
        m = measure(cell, run, 0)
    finally:
        host.delete(endpoint.model_name)
    assert m.grant.quota_cpus == 0.25
    assert m.throttling.throttled_periods > 0
    assert m.cpu.replica_s / m.elapsed_s < 0.25 * 1.1
    # Utilisation law: what is granted, and used up, divided by what a request takes.
    assert m.completed_rps * m.replica_cpu_ms / 1e3 == pytest.approx(0.25, rel=0.1)
    assert FaultCode.OVER_GRANT not in {f.code for f in m.faults}
