"""The Open Inference Protocol over HTTP, as a bare ASGI application.

Two applications share one port: :class:`ModelApp` answers ``/v2/models/NAME...`` for one
model inside its replica, :class:`FrontApp` answers everything else (server health and
metadata, and a V2 error for what does not exist). No web framework: it would cost more
than the model (``docs/design.md``, "The data plane").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import orjson

from serving.batcher import Batcher
from serving.records import TensorSpec, Variant, with_limits
from serving.runtimes import Runtime
from serving.v2 import HEADER_LENGTH, V2Error, decode_request, encode_response

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

CELL_HEADER = "tonnage-cell"
MODEL_HEADER = "tonnage-model"
"""Beside metadata: the SHA-256 of the model file, so that a claim about it can be checked."""
MODEL_VERSION = "1"
INLINE_LIMIT_S = 0.001
_MAX_BODY_BYTES = 256 << 20
_HEADER_LENGTH_KEY = HEADER_LENGTH.lower().encode()
_CELL_KEY = CELL_HEADER.encode()


async def read_body(receive: Receive) -> bytes:
    """The whole request body; V2Error 400 beyond 256 MiB or on a disconnect."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > _MAX_BODY_BYTES:
            raise V2Error(400, f"request body exceeds {_MAX_BODY_BYTES >> 20} MiB")
    if message["type"] != "http.request":
        raise V2Error(400, "client disconnected while sending")
    return b"".join(parts)


async def answer(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send one complete response; JSON unless ``headers`` say otherwise."""
    all_headers = [(b"content-length", str(len(body)).encode())]
    all_headers += headers or [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


async def answer_error(send: Send, status: int, message: str) -> None:
    """Send ``{"error": message}``, the only form of failure the protocol knows."""
    await answer(send, status, orjson.dumps({"error": message}))


class ModelApp:
    """One model behind V2: metadata, config, readiness and infer.

    One inference call runs at a time. Calls expected to last below 1 ms run on the
    event loop; longer ones run in one worker thread, so that waiting requests are read,
    counted and, where the queue is full, refused. The choice follows the service times
    seen so far at that body size; ``Server-Timing`` reports it per request.

    With ``max_batch`` above 1 a call answers up to so many waiting requests, see
    :class:`serving.batcher.Batcher`; it always runs in the thread.
    """

    def __init__(
        self,
        runtime: Runtime,
        variant: Variant,
        cell_id: str,
        max_batch: int = 1,
        batch_wait_s: float = 0.0,
    ) -> None:
        self._runtime = runtime
        self._variant = variant
        self._name = variant.model_name
        self._specs = {spec.name: spec for spec in with_limits(runtime.inputs, variant.inputs)}
        self._prefix = f"/v2/models/{self._name}"
        self._versioned = f"{self._prefix}/versions/{MODEL_VERSION}"
        self._infer_paths = (f"{self._prefix}/infer", f"{self._versioned}/infer")
        self._cell = (_CELL_KEY, cell_id.encode())
        self._file = (MODEL_HEADER.encode(), variant.model_sha256.encode())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._in_thread = 0
        self._expected_s: dict[int, float] = {}
        self._batcher = (
            Batcher(runtime.predict, self._thread, most=max_batch, wait_s=batch_wait_s)
            if max_batch > 1
            else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path: str = scope["path"]
        try:
            if scope["method"] == "POST" and path in self._infer_paths:
                await self._infer(scope, receive, send)
            elif scope["method"] == "GET":
                await answer(send, 200, self._describe(path), [_JSON, self._cell, self._file])
            else:
                raise V2Error(400, f"{scope['method']} {path} is not part of the protocol")
        except V2Error as error:
            await answer_error(send, error.status, str(error))

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        header_length = None
        for key, value in scope["headers"]:
            if key == _HEADER_LENGTH_KEY:
                if not value.isdigit():
                    raise V2Error(400, f"{HEADER_LENGTH} must be a number")
                header_length = int(value)
        body = await read_body(receive)
        arrived = time.perf_counter()
        how = "thread"
        if self._batcher is not None:
            out, length, started, ended = await self._serve_batched(
                self._batcher, body, header_length
            )
        else:
            how, (out, length, started, ended) = await self._serve_alone(body, header_length)
        service = ended - started
        timing = (
            f"queue;dur={(started - arrived) * 1e3:.4f}, service;dur={service * 1e3:.4f}, "
            f"infer;desc={how}"
        )
        headers = [self._cell, (b"server-timing", timing.encode())]
        if length is None:
            headers.append(_JSON)
        else:
            headers.append((b"content-type", b"application/octet-stream"))
            headers.append((_HEADER_LENGTH_KEY, str(length).encode()))
        await answer(send, 200, out, headers)

    async def _serve_alone(
        self, body: bytes, header_length: int | None
    ) -> tuple[str, tuple[bytes, int | None, float, float]]:
        """Serve one request where its length suggests; also says where."""
        bucket = len(body).bit_length()
        if not self._in_thread and self._expected_s.get(bucket, 1.0) < INLINE_LIMIT_S:
            how, served = "inline", self._serve(body, header_length)
        else:
            self._in_thread += 1
            try:
                how, served = (
                    "thread",
                    await asyncio.get_running_loop().run_in_executor(
                        self._thread, self._serve, body, header_length
                    ),
                )
            finally:
                self._in_thread -= 1
        seen, service = self._expected_s.get(bucket), served[3] - served[2]
        self._expected_s[bucket] = service if seen is None else 0.9 * seen + 0.1 * service
        return how, served

    async def _serve_batched(
        self, batcher: Batcher, body: bytes, header_length: int | None
    ) -> tuple[bytes, int | None, float, float]:
        """Decode, share a call with others, encode; start and end are those of the call."""
        request = decode_request(body, header_length, self._specs)
        try:
            found = await batcher.predict(request.inputs)
        except Exception as error:  # whatever a runtime throws at inputs it cannot take
            raise V2Error(400, f"{self._name} failed on this input: {_line(error)}") from error
        out, length = encode_response(self._name, MODEL_VERSION, request, found.outputs)
        return out, length, found.started, found.ended

    def _serve(
        self, body: bytes, header_length: int | None
    ) -> tuple[bytes, int | None, float, float]:
        """Decode, infer, encode: all the work of a request. Returns its start and end too."""
        started = time.perf_counter()
        request = decode_request(body, header_length, self._specs)
        try:
            outputs = self._runtime.predict(request.inputs)
        except Exception as error:  # whatever a runtime throws at inputs it cannot take
            raise V2Error(400, f"{self._name} failed on this input: {_line(error)}") from error
        out, length = encode_response(self._name, MODEL_VERSION, request, outputs)
        return out, length, started, time.perf_counter()

    def warm_up(self, inputs: dict[str, Any], calls: int = 5) -> None:
        """Run a few calls before the replica reports ready, so the first user is not the first."""
        for _ in range(calls):
            self._runtime.predict(inputs)

    def _describe(self, path: str) -> bytes:
        for prefix in (self._versioned, self._prefix):
            if path in (prefix, prefix + "/"):
                return orjson.dumps(self._metadata())
            if path == f"{prefix}/ready":
                return b'{"ready":true}'
            if path == f"{prefix}/config":
                return orjson.dumps(self._config())
        raise V2Error(404, f"no such path: {path}")

    def _metadata(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "versions": [MODEL_VERSION],
            "platform": self._variant.runtime,
            "inputs": [_describe_tensor(spec) for spec in self._runtime.inputs],
            "outputs": [_describe_tensor(spec) for spec in self._runtime.outputs],
        }

    def _config(self) -> dict[str, Any]:
        batched = self._variant.batched
        return {
            "name": self._name,
            "platform": self._variant.runtime,
            "backend": self._variant.runtime,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": 65536 if batched else 0,
            "input": [_config_tensor(spec, batched) for spec in self._runtime.inputs],
            "output": [_config_tensor(spec, batched) for spec in self._runtime.outputs],
            "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        }


class FrontApp:
    """Server level of V2: live, ready, metadata, and V2 errors for unknown paths.

    ``models`` are the names it vouches for; ``ready`` returns those that answer.
    """

    def __init__(self, models: tuple[str, ...], ready: Callable[[], Awaitable[set[str]]]) -> None:
        self._models = models
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path: str = scope["path"].rstrip("/")
        if scope["method"] == "GET" and path == "/v2":
            await answer(send, 200, orjson.dumps(server_metadata()))
        elif scope["method"] == "GET" and path == "/v2/health/live":
            await answer(send, 200, b'{"live":true}')
        elif scope["method"] == "GET" and path == "/v2/health/ready":
            missing = sorted(set(self._models) - await self._ready())
            if missing:
                await answer_error(send, 503, f"not ready: {', '.join(missing)}")
            else:
                await answer(send, 200, b'{"ready":true}')
        elif path.startswith("/v2/models/"):
            name = path.split("/")[3]
            known = ", ".join(self._models) or "none"
            await answer_error(send, 404, f"unknown model {name!r}; served here: {known}")
        else:
            await answer_error(send, 404, f"no such path: {scope['path']}")


def server_metadata() -> dict[str, Any]:
    """``GET /v2``. Only extensions that are true are advertised."""
    return {"name": "tonnage", "version": version("tonnage"), "extensions": ["binary_tensor_data"]}


_JSON = (b"content-type", b"application/json")


def _describe_tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(dims)}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
