"""What the real Ray Serve and HAProxy answer, however busy the host: right, or in one line.

A host of this module's own serves all of it: the one for measuring shall have nothing else to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import subprocess
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.payloads import make_payloads
from serving.build import build_variants
from serving.compressors.onnx_export import ExportOnnx
from serving.compressors.onnx_int8 import StaticInt8
from serving.compressors.openvino_ir import OpenVinoIr
from serving.compressors.torch_int8 import TorchDynamicInt8
from serving.compressors.torch_training import Train
from serving.errors import BadInput
from serving.model_store import model_path
from serving.quality import classification_quality
from serving.ray_host.client import RayHost
from serving.records import Deployment, InstanceType, Quality, TensorSpec
from serving.steps import Dataset
from serving.stub_variant import stub_variant
from serving.v2 import HEADER_LENGTH, decode_response
from serving.workloads import Metric, Recipe

pytestmark = pytest.mark.starts

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=2, enforcement="cpuset", cpu_family="host")
QUARTER = InstanceType(
    name="sim-0.25", vcpus=0.25, memory_gib=1, enforcement="quota", cpu_family="host"
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHost]:
    """Ray Serve behind HAProxy, for this module."""
    with RayHost(tmp_path_factory.mktemp("logs") / "ray.log") as running:
        yield running


@pytest.fixture(scope="module")
def names(host: RayHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two models on a quarter of a CPU each, and the front over them."""
    folder, made = tmp_path_factory.mktemp("models"), list[str]()
    try:
        for name in ("one", "two"):
            variant = stub_variant(folder, 0.0, name)
            endpoint = host.deploy(Deployment(variant=variant, instance=QUARTER, threads=1))
            made.append(endpoint.model_name)
        host.deploy_front()
        yield made
    finally:
        for name in made:
            host.delete(name)


def network() -> Any:
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 8, 3, stride=4),
            relu1=nn.ReLU(),
            flatten=nn.Flatten(),
            full1=nn.Linear(512, 512),
            relu2=nn.ReLU(),
            full2=nn.Linear(512, 10),
        )
    )


class Small:
    """A workload of one small network."""

    name = "small"
    baseline = "torch"
    metric: Metric = "accuracy"
    rows_per_call = 50
    inputs = (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 32, 32)),)
    outputs = (TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),)
    recipes: Mapping[str, Recipe] = {
        "torch": Recipe("torch", "fp32", (Train(network, epochs=2),)),
        "torch_int8": Recipe("torch", "int8", (TorchDynamicInt8(network),), needs="torch"),
        "onnx": Recipe("onnxruntime", "fp32", (ExportOnnx(network),), needs="torch"),
        "onnx_int8": Recipe("onnxruntime", "int8", (StaticInt8(64),), needs="onnx"),
        "openvino_fp16": Recipe("openvino", "fp16", (OpenVinoIr("fp16"),), needs="onnx"),
    }

    def load(self, source: str | None, seed: int) -> Dataset:
        raise NotImplementedError  # nobody asks: the pictures are a fixture

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        return classification_quality(outputs["logits"], labels)


def test_every_runtime_answers_over_v2(
    host: RayHost,
    pictures: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five files of one network, int8 ones included, answer through the ingress as in process."""
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path_factory.mktemp("store")))
    made = build_variants(Small(), list(Small.recipes), pictures, seed=1, max_loss=1.0)
    for variant in made:
        # The host was started before the store was set: its replicas need the whole path.
        absolute = variant.model_copy(update={"file": str(model_path(variant))})
        deployment = Deployment(variant=absolute, instance=SIZE, threads=1)
        payloads = make_payloads(deployment, pictures.test, 3, seed=1)
        endpoint = host.deploy(deployment)
        try:
            got = infer(host, endpoint.model_name, payloads.bodies[0], payloads.header_lengths[0])
        finally:
            host.delete(endpoint.model_name)
        assert got["logits"] == pytest.approx(payloads.expected[0]["logits"], abs=1e-4)


def infer(host: RayHost, model: str, body: bytes, head: int) -> Mapping[str, np.ndarray]:
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=30)
    with contextlib.closing(connection):
        headers = {HEADER_LENGTH: str(head)}
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        length = response.getheader(HEADER_LENGTH)
        return decode_response(answer, int(length) if length else None)


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


def get(host: RayHost, path: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_several_models_share_a_port(host: RayHost, names: list[str]) -> None:
    """Each answers under its name, the front speaks for all, unknown ones get a V2 error."""
    assert get(host, "/v2/health/ready") == (200, {"ready": True})
    for name in names:
        assert get(host, f"/v2/models/{name}")[1]["name"] == name
    status, body = get(host, "/v2/models/test_three")
    assert status == 404
    assert "test_three" in str(body["error"])
    assert get(host, "/nowhere")[0] == 404


def test_a_stock_triton_client_works(host: RayHost, names: list[str]) -> None:
    """tritonclient, unmodified, in its own environment: health, metadata, config, both codecs."""
    python = Path(__file__).parents[2] / ".venv-triton" / "bin" / "python"
    if not python.is_file():
        pytest.skip("make test installs tritonclient into .venv-triton")
    code = f"""
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException
client = InferenceServerClient("127.0.0.1:{host.port}")
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("{names[0]}")
metadata = client.get_model_metadata("{names[0]}")
config = client.get_model_config("{names[0]}")
assert metadata["inputs"][0]["name"] == config["input"][0]["name"] == "features"
assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
rows = np.arange(12, dtype=np.float32).reshape(3, 4)
for binary in (True, False):
    given = InferInput("features", rows.shape, "FP32")
    given.set_data_from_numpy(rows, binary_data=binary)
    wanted = InferRequestedOutput("sums", binary_data=binary)
    result = client.infer("{names[0]}", [given], outputs=[wanted], request_id="r7")
    np.testing.assert_array_equal(result.as_numpy("sums")[:, 0], rows.sum(axis=1))
    assert result.get_response()["id"] == "r7"
try:
    bad = InferInput("features", [3, 5], "FP32")
    bad.set_data_from_numpy(np.zeros((3, 5), np.float32))
    client.infer("{names[0]}", [bad])
except InferenceServerException as error:
    assert "does not fit" in str(error) and error.status() == "400", error
else:
    raise AssertionError("a wrong shape was accepted")
print("ok")
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "ok\n", done.stderr
