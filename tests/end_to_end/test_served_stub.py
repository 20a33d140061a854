"""A stub of known service time through the real path: Ray Serve, HAProxy, cgroups, Locust."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from loadtests.cell import CellContext, measure
from loadtests.fleet import Fleet
from loadtests.payloads import make_payloads
from loadtests.records import FaultCode, LoadRun
from serving.errors import BadInput
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


def get(host: RayHost, path: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


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


def test_several_models_share_a_port(host: RayHost, tmp_path: Path) -> None:
    """Each answers under its name, the front speaks for all, unknown ones get a V2 error."""
    names = []
    try:
        for name in ("one", "two"):
            variant = stub_variant(tmp_path, 0.0, name)
            endpoint = host.deploy(Deployment(variant=variant, instance=QUARTER, threads=1))
            names.append(endpoint.model_name)
        host.deploy_front()
        assert get(host, "/v2/health/ready") == (200, {"ready": True})
        for name in names:
            assert get(host, f"/v2/models/{name}")[1]["name"] == name
        status, body = get(host, "/v2/models/test_three")
        assert status == 404
        assert "test_three" in str(body["error"])
        assert get(host, "/nowhere")[0] == 404
    finally:
        for name in names:
            host.delete(name)


def test_a_stock_triton_client_works(host: RayHost, tmp_path: Path) -> None:
    """tritonclient, unmodified, in its own environment: health, metadata, config, both codecs."""
    python = Path(__file__).parents[2] / ".venv-triton" / "bin" / "python"
    if not python.is_file():
        pytest.skip("make test installs tritonclient into .venv-triton")
    variant = stub_variant(tmp_path, 0.0, "triton")
    endpoint = host.deploy(Deployment(variant=variant, instance=QUARTER, threads=1))
    try:
        host.deploy_front()
        code = f"""
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException
client = InferenceServerClient("127.0.0.1:{host.port}")
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("{endpoint.model_name}")
metadata = client.get_model_metadata("{endpoint.model_name}")
config = client.get_model_config("{endpoint.model_name}")
assert metadata["inputs"][0]["name"] == config["input"][0]["name"] == "features"
assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
rows = np.arange(12, dtype=np.float32).reshape(3, 4)
for binary in (True, False):
    given = InferInput("features", rows.shape, "FP32")
    given.set_data_from_numpy(rows, binary_data=binary)
    wanted = InferRequestedOutput("sums", binary_data=binary)
    result = client.infer("{endpoint.model_name}", [given], outputs=[wanted], request_id="r7")
    np.testing.assert_array_equal(result.as_numpy("sums")[:, 0], rows.sum(axis=1))
    assert result.get_response()["id"] == "r7"
try:
    bad = InferInput("features", [3, 5], "FP32")
    bad.set_data_from_numpy(np.zeros((3, 5), np.float32))
    client.infer("{endpoint.model_name}", [bad])
except InferenceServerException as error:
    assert "does not fit" in str(error) and error.status() == "400", error
else:
    raise AssertionError("a wrong shape was accepted")
print("ok")
"""
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.stdout == "ok\n", done.stderr
    finally:
        host.delete(endpoint.model_name)


def test_a_damaged_model_is_a_clear_failure(host: RayHost, tmp_path: Path) -> None:
    """A corrupt ONNX file ends in one line that names it, not in a traceback."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    good = stub_variant(tmp_path, 0.0, "broken")
    variant = good.model_copy(
        update={
            "runtime": "onnxruntime",
            "file": str(path),
            "sha256": hashlib.sha256(b"not a model").hexdigest(),
        }
    )
    with pytest.raises(BadInput, match=r"broken\.onnx: onnxruntime cannot load this file"):
        host.deploy(Deployment(variant=variant, instance=SIZE, threads=1))
    assert host.groups(variant.model_name) == []


def test_too_little_memory_is_said(host: RayHost, tmp_path: Path) -> None:
    """A model on an instance whose memory it cannot fit is refused with both figures."""
    tiny = SIZE.model_copy(update={"memory_gib": 0.1, "name": "tiny"})
    deployment = Deployment(variant=stub_variant(tmp_path, 0.0, "m"), instance=tiny, threads=1)
    with pytest.raises(BadInput, match=r"tiny has 0\.1; choose an instance with more memory"):
        host.deploy(deployment)
    huge = SIZE.model_copy(update={"vcpus": 8, "name": "huge"})
    with pytest.raises(BadInput, match="huge has 8 vCPUs, this host has"):
        host.deploy(deployment.model_copy(update={"instance": huge}))
