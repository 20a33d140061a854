"""Variants of one network on every runtime, served by the real Ray Serve and HAProxy."""

from __future__ import annotations

import contextlib
import http.client
from collections import OrderedDict
from collections.abc import Mapping
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
from serving.model_store import model_path
from serving.quality import classification_quality
from serving.ray_host.client import RayHost
from serving.records import Deployment, InstanceType, Quality, TensorSpec
from serving.steps import Dataset
from serving.v2 import HEADER_LENGTH, decode_response
from serving.workloads import Metric, Recipe

pytestmark = pytest.mark.slow

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=2, enforcement="cpuset", cpu_family="host")


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
        raise NotImplementedError

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
