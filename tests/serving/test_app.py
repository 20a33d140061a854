"""The ASGI application, called directly."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving.app import FrontApp, ModelApp
from serving.records import Variant
from serving.runtimes import load_runtime
from serving.v2 import decode_response, encode_request


def call(
    app: Any, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request through the application; the body arrives in two pieces."""
    pieces = [body[: len(body) // 2], body[len(body) // 2 :]]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
    }
    asyncio.run(app(scope, receive, send))
    names = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], names, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.fixture
def app(make_stub: Callable[..., Variant]) -> ModelApp:
    variant = make_stub()
    return ModelApp(load_runtime(variant, 1), variant, "cell-1")


def infer(app: ModelApp, rows: np.ndarray, path: str = "/v2/models/test_stub/infer") -> Any:
    body, length = encode_request({"features": rows}, ["sums"])
    return call(app, "POST", path, body, {"Inference-Header-Content-Length": str(length)})


def test_binary_inference(app: ModelApp) -> None:
    """Rows go in, their sums come out, with the cell and the timings beside them."""
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    status, headers, body = infer(app, rows)
    assert status == 200
    answer = decode_response(body, int(headers["inference-header-content-length"]))
    np.testing.assert_array_equal(answer["sums"], rows.sum(axis=1, keepdims=True))
    assert headers["tonnage-cell"] == "cell-1"
    assert re.fullmatch(
        r"queue;dur=[\d.]+, service;dur=[\d.]+, infer;desc=(inline|thread)",
        headers["server-timing"],
    )


def test_limits_of_a_variant_are_held(make_stub: Callable[..., Variant]) -> None:
    """They are not in the model's file; a request beyond them never reaches the model."""
    variant = make_stub()
    limits = {"low": 0, "high": 9}
    inputs = tuple(spec.model_copy(update=limits) for spec in variant.inputs)
    limited = variant.model_copy(update={"inputs": inputs})
    app = ModelApp(load_runtime(limited, 1), limited, "cell-1")
    assert infer(app, np.full((1, 4), 9, np.float32))[0] == 200
    status, _, body = infer(app, np.full((1, 4), 10, np.float32))
    assert status == 400
    assert "input 'features': holds 10" in json.loads(body)["error"]


def test_json_inference(app: ModelApp) -> None:
    """The same in plain JSON, by the versioned path."""
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    body = json.dumps({"inputs": [tensor]}).encode()
    status, headers, out = call(app, "POST", "/v2/models/test_stub/versions/1/infer", body)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(out)["outputs"] == [
        {"name": "sums", "shape": [1, 1], "datatype": "FP32", "data": [10.0]}
    ]


def test_short_calls_run_inline_and_long_ones_in_a_thread(
    make_stub: Callable[..., Variant],
) -> None:
    """The first call runs in the thread; once known to be short, calls run inline."""
    for busy_ms, expected in ((0.0, "inline"), (5.0, "thread")):
        variant = make_stub(busy_ms=busy_ms, name=f"b{busy_ms:g}")
        model = ModelApp(load_runtime(variant, 1), variant, "c")
        rows = np.ones((1, 4), np.float32)
        path = f"/v2/models/{variant.model_name}/infer"
        for _ in range(30):
            _, headers, _ = infer(model, rows, path)
        assert f"desc={expected}" in headers["server-timing"]


def test_metadata_tell_the_model_file(make_stub: Callable[..., Variant]) -> None:
    """Its hash is a header beside them, so that a claim about another file can be refused."""
    variant = make_stub()
    model = ModelApp(load_runtime(variant, 1), variant, "c")
    assert call(model, "GET", "/v2/models/test_stub")[1]["tonnage-model"] == variant.sha256


def test_metadata_and_config_agree(app: ModelApp) -> None:
    """Names and shapes of metadata and config fit each other, batch dimension aside."""
    metadata = json.loads(call(app, "GET", "/v2/models/test_stub")[2])
    config = json.loads(call(app, "GET", "/v2/models/test_stub/config")[2])
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}]
    assert config["max_batch_size"] > 0
    assert config["input"] == [{"name": "features", "data_type": "TYPE_FP32", "dims": [4]}]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/test_stub/ready", 200),
        ("GET", "/v2/models/test_stub/versions/1/ready", 200),
        ("GET", "/v2/models/test_stub/stats", 404),
        ("GET", "/v2/models/test_stub/versions/2", 404),
        ("DELETE", "/v2/models/test_stub", 400),
        ("POST", "/v2/models/test_stub/infer", 400),
    ],
)
def test_other_paths(app: ModelApp, method: str, path: str, status: int) -> None:
    """Each path has its status, and every failure is a V2 error."""
    got, _, body = call(app, method, path)
    assert got == status
    assert status == 200 or "error" in json.loads(body)


def test_a_bad_header_length_is_a_v2_error(app: ModelApp) -> None:
    """A header that is not a number is refused in words."""
    status, _, body = call(
        app, "POST", "/v2/models/test_stub/infer", b"{}", {"Inference-Header-Content-Length": "x"}
    )
    assert status == 400
    assert "number" in json.loads(body)["error"]


def test_the_front_knows_its_models() -> None:
    """Server metadata, health over all models, and an error for an unknown one."""

    async def ready() -> set[str]:
        return {"a"}

    front = FrontApp(("a", "b"), ready)
    assert json.loads(call(front, "GET", "/v2")[2])["extensions"] == ["binary_tensor_data"]
    assert call(front, "GET", "/v2/health/live")[0] == 200
    status, _, body = call(front, "GET", "/v2/health/ready")
    assert (status, json.loads(body)["error"]) == (503, "not ready: b")
    status, _, body = call(front, "POST", "/v2/models/nope/infer")
    assert status == 404
    assert "nope" in json.loads(body)["error"]
    assert call(front, "GET", "/elsewhere")[0] == 404
