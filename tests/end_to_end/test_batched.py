"""Dynamic batching through the real path, held against the simulation of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtests.cell import CellContext, measure
from loadtests.fleet import Fleet
from loadtests.payloads import make_payloads
from loadtests.records import FaultCode, LoadRun
from planner.batching import batched_sojourns
from serving.ray_host.client import RayHost
from serving.records import Deployment, InstanceType
from serving.stub_variant import stub_variant

pytestmark = pytest.mark.slow

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")
ROWS = {"features": np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)}
CALL_MS, REQUEST_MS, RATE_RPS, MOST = 10.0, 0.8, 200.0, 8


def test_a_replica_carries_more_than_one_at_a_time(
    host: RayHost, fleet: Fleet, tmp_path: Path
) -> None:
    """Calls of 10 ms at 200 req/s: twice what one at a time carries, and as fast as simulated."""
    deployment = Deployment(
        variant=stub_variant(tmp_path, CALL_MS, "batched"),
        instance=SIZE,
        threads=1,
        max_batch=MOST,
        batch_wait_ms=2,
    )
    endpoint = host.deploy(deployment)
    try:
        payloads = make_payloads(deployment, ROWS, 1, seed=1)
        cell = CellContext(
            host=host,
            fleet=fleet,
            deployment=deployment,
            endpoint=endpoint,
            payloads=fleet.store("batched", payloads),
            batch=1,
            seed=1,
            environment="test",
        )
        run = LoadRun(mode="open", batch=1, duration_s=5, rate_rps=RATE_RPS, workers=2, seed=3)
        for attempt in range(3):  # a run that says itself that it cannot be believed is repeated
            m = measure(cell, run, attempt)
            if m.valid:
                break
    finally:
        host.delete(endpoint.model_name)
    assert not {f.code for f in m.faults} & {FaultCode.BACKLOG_GROWING, FaultCode.RATE_NOT_MET}
    assert (m.ok, m.wrong) == (m.offered, 0)
    assert m.checked > 0
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(1 / RATE_RPS, (1000, 40)), axis=0)
    table = np.array([0, *(CALL_MS + n * REQUEST_MS for n in range(1, MOST + 1))])[:, None] / 1e3
    times = batched_sojourns(arrivals, rng.random(arrivals.shape), table, wait_s=0.002)
    expected = 1e3 * float(np.quantile(times[200:], 0.5))
    assert 1e3 * m.due_to_done.quantile_s(0.5) == pytest.approx(expected, rel=0.3)
