"""The audit of a real cell: quiet cores, counted threads, start-up times, and the container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.cell import CellContext, measure
from loadtests.fleet import Fleet
from loadtests.payloads import make_payloads
from loadtests.records import FaultCode, LoadRun
from serving import audit
from serving.errors import BadInput, Infrastructure
from serving.instances import resolve
from serving.ray_host.client import RayHost
from serving.records import CONTAINER, Deployment, InstanceType, Variant, sha256_of
from serving.runtimes.onnx_runtime import OnnxRuntime
from serving.stub_variant import stub_variant

pytestmark = pytest.mark.slow

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")
ROWS = {"features": np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)}


def test_everything_but_the_replica_is_off_its_cores(
    host: RayHost, fleet: Fleet, tmp_path: Path
) -> None:
    """Each thread of raylet, GCS, agents, controller, proxies, HAProxy and Locust keeps away.

    The replica is where it was granted to be; the generator has the priority that is recorded.
    """
    if host.placement.shared:
        pytest.skip("one core cannot be divided")
    variant = stub_variant(tmp_path, 0.0, "quiet")
    endpoint = host.deploy(Deployment(variant=variant, instance=SIZE, threads=1))
    try:
        (replica,) = endpoint.replicas
        background = host.background_pids()
        names = {(Path("/proc") / str(pid) / "comm").read_text().strip() for pid in background}
        assert {"raylet", "gcs_server", "haproxy"} <= names
        assert any(name.startswith("ray::ServeContr") for name in names)
        assert any(name.startswith("ray::ProxyActor") for name in names)
        assert replica.pid not in background
        assert replica.pid in host.process.pids()
        assert audit.strays([*background, *fleet.process.pids()], replica.grant.cpus) == []
        assert audit.thread_cpus(replica.pid) == set(replica.grant.cpus)
        policies = {os.sched_getscheduler(pid) for pid in fleet.process.pids()}
        wanted = host.environment().generator_priority
        assert (os.SCHED_FIFO in policies) == (wanted == "fifo")
    finally:
        host.delete(endpoint.model_name)


def test_the_start_is_split_into_its_parts(host: RayHost, tmp_path: Path) -> None:
    """Ray's worker and imports, then the model; both lie within the whole start-up."""
    variant = stub_variant(tmp_path, 40.0, "slow")
    endpoint = host.deploy(Deployment(variant=variant, instance=SIZE, threads=1))
    host.delete(endpoint.model_name)
    worker, model, whole = endpoint.worker_start_s, endpoint.model_load_s, endpoint.startup_s
    assert worker is not None
    assert model is not None
    assert whole is not None
    assert 0.2 <= model < 2  # five warm-up calls of 40 ms
    assert 0.1 < worker < whole
    assert worker + model < whole + 0.1


def onnx_variant(folder: Path) -> Variant:
    """A tiny network for onnxruntime."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Relu", ["features"], ["y"])],
        "g",
        [helper.make_tensor_value_info("features", kind, [None, 4])],
        [helper.make_tensor_value_info("y", kind, [None, 4])],
    )
    opset = [helper.make_opsetid("", 17)]
    path = folder / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    runtime = OnnxRuntime(path, 1)
    return Variant(
        workload="test",
        name="relu",
        runtime="onnxruntime",
        precision="fp32",
        file=str(path),
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        inputs=runtime.inputs,
        outputs=runtime.outputs,
    )


def test_a_replica_with_more_threads_than_declared_is_refused(
    host: RayHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the replica is told to compute with three threads, the deployment says one."""
    deployment = Deployment(variant=onnx_variant(tmp_path), instance=SIZE, threads=1)
    endpoint = host.deploy(deployment)
    host.delete(endpoint.model_name)
    assert endpoint.replicas[0].compute_threads == 1
    call = host.process.call

    def lying(message: Mapping[str, Any]) -> dict[str, Any]:
        return call({**message, "threads": 3} if message["op"] == "deploy" else message)

    monkeypatch.setattr(host.process, "call", lying)
    with pytest.raises(Infrastructure, match="computes with 3 threads, its deployment declares 1"):
        host.deploy(deployment)
    assert host.groups(deployment.variant.model_name) == []


def test_the_container_itself_is_measured(host: RayHost, fleet: Fleet, tmp_path: Path) -> None:
    """A slow model on the instance ``container``: its limits are the grant, and all is shared.

    How much of it others took is measured, too.
    """
    size = resolve(CONTAINER, {})
    variant = stub_variant(tmp_path, 50.0, "fifty")
    deployment = Deployment(variant=variant, instance=size, threads=1)
    endpoint = host.deploy(deployment)
    try:
        (replica,) = endpoint.replicas
        assert replica.group is None
        assert replica.grant.method == "container"
        assert replica.grant.vcpus == size.vcpus
        context = CellContext(
            host=host,
            fleet=fleet,
            deployment=deployment,
            endpoint=endpoint,
            payloads=fleet.store("container", make_payloads(deployment, ROWS, 4, seed=1)),
            batch=4,
            seed=1,
            environment="test",
        )
        m = measure(context, LoadRun(mode="closed", batch=4, duration_s=3, users=1), 0)
        with pytest.raises(BadInput, match="does not fit beside what is deployed"):
            host.deploy(deployment.model_copy(update={"variant": stub_variant(tmp_path, 0, "b")}))
    finally:
        host.delete(endpoint.model_name)
    assert m.ok == m.offered
    assert m.cpu.replica_s == pytest.approx(0.05 * m.ok, rel=0.2)
    assert 0 < (m.cpu.others_on_replica_cores or 0) < 1
    # Whether this host was quiet, or large enough, is not held against the path.
    bearable = {FaultCode.CORES_SHARED, FaultCode.NOISY_HOST}
    assert {fault.code for fault in m.faults} <= bearable, m.faults
