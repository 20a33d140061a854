"""What an export serves: under the real Ray Serve, and without Ray as a container would."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from reports.export.proven import Proven
from reports.export.write import write_export
from serving.exported import read_deployment
from serving.instances import load_instances
from serving.ports import free_port
from serving.standalone import StandaloneApp
from serving.supervised import Supervised
from serving.supervisor import descendants
from serving.v2 import decode_response, encode_request
from tonnage.run_folder import RunFolder

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
MODEL = "/v2/models/test_stub"
# Ray opens these with fixed defaults; two tests on one host must not meet on them.
PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)
FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "state",
    "RAY_TMPDIR": "",
    "RAY_AUTH_TOKEN_PATH": "token",
}


@pytest.fixture
def exported(stub_run: Callable[..., RunFolder], tmp_path: Path) -> Callable[[str], Path]:
    """Write an export of the best plan on this host's own sizes; its folder."""

    def write(target: str) -> Path:
        run = stub_run("sim-1", prices=False)
        catalogue = load_instances(run.path / "instances.toml")
        proven = Proven.of(run.bundle(), "steady", catalogue)
        folder = tmp_path / "export"
        write_export(proven, target, Path(proven.source), folder)
        return folder

    return write


def request(port: int, method: str, path: str, body: bytes = b"", length: int = 0) -> Any:
    """Status, headers in lower case, and body of one request."""
    headers = {"Inference-Header-Content-Length": str(length)} if body else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        names = {k.lower(): v for k, v in response.getheaders()}
        return response.status, names, response.read()


def wait_until_ready(port: int, alive: Callable[[], bool], timeout_s: float) -> None:
    """Return when the server says that it is ready; fail when it ended, or takes too long."""
    deadline, last = time.monotonic() + timeout_s, "no answer"
    while time.monotonic() < deadline:
        assert alive(), "the server ended"
        try:
            status, _, body = request(port, "GET", "/v2/health/ready")
            if status == 200:
                return
            last = body.decode()
        except OSError as error:
            last = str(error)
        time.sleep(0.3)
    pytest.fail(f"not ready within {timeout_s} s: {last}")


def check_answers(port: int, cell: str) -> None:
    """The row sums come back in binary, from the exported deployment; the rest is V2, too."""
    body, length = encode_request({"features": ROWS}, ["sums"])
    status, headers, answer = request(port, "POST", f"{MODEL}/infer", body, length or len(body))
    assert status == 200, answer
    outputs = decode_response(answer, int(headers["inference-header-content-length"]))
    assert outputs["sums"].ravel().tolist() == ROWS.sum(axis=1).tolist()
    assert headers["tonnage-cell"] == cell
    assert "service;dur=" in headers["server-timing"]
    assert request(port, "GET", "/v2")[0] == 200
    status, _, answer = request(port, "GET", "/v2/models/nope")
    assert (status, "unknown model" in json.loads(answer)["error"]) == (404, True)


def listeners(pids: list[int], port: int) -> set[str]:
    """Addresses, in the kernel's hex, at which ``pids`` listen on a TCP port."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for handle in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(f"/proc/{pid}/fd/{handle}"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, hexport = fields[1].partition(":")
            listening = fields[3] == "0A" and int(hexport, 16) == port
            if listening and f"socket:[{fields[9]}]" in sockets:
                found.add(address)
    return found


@pytest.mark.slow
def test_an_export_to_ray_serve_answers(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """start.sh as written, on another port: a correct V2 answer, the ingress on loopback only.

    It measures nothing, and is alone all the same: Ray gives up when its node, here with a
    dashboard, takes 30 s to start.
    """
    folder = exported("rayserve")
    port = free_port()
    config = yaml.safe_load((folder / "serve.yaml").read_text())
    config["http_options"]["port"] = port
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    # Sockets have long names; in a folder of pytest they would be too long.
    with tempfile.TemporaryDirectory(prefix="tn") as private:
        token = Path(private) / "token"
        token.touch(mode=0o600)
        token.write_text("5" * 64)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON"))}
        env = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **{name: str(Path(private) / file) for name, file in FILES.items()},
            **{name: str(free_port()) for name in PORTS},
        }
        server = Supervised(
            ["./start.sh"], name="Ray Serve", log=tmp_path / "ray.log", cwd=folder, env=env
        )
        try:
            wait_until_ready(port, server.alive, 90)
            check_answers(port, read_deployment(folder).cell_id)
            assert listeners(server.pids(), port) == {"0100007F"}
        finally:
            server.close()
    assert not descendants(server.pid)


@pytest.fixture
def standalone(exported: Callable[[str], Path]) -> Iterator[tuple[int, Path]]:
    """The server that containers run, in a process of its own; its port and folder."""
    folder, port = exported("compose"), free_port()
    command = [sys.executable, "-P", "-m", "serving.standalone", str(folder), "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        wait_until_ready(port, lambda: process.poll() is None, 30)
        yield port, folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_a_container_of_an_export_answers(standalone: tuple[int, Path]) -> None:
    """The same application without Ray, as compose and Kubernetes run it."""
    port, folder = standalone
    check_answers(port, read_deployment(folder).cell_id)
    status, _, answer = request(port, "GET", f"{MODEL}/ready")
    assert (status, json.loads(answer)) == (200, {"ready": True})


def test_a_container_refuses_what_is_beyond_its_bounds(exported: Callable[[str], Path]) -> None:
    """With room for two requests inside, the third gets a V2 error at once, a GET an answer."""
    deployment = read_deployment(exported("compose"))
    bounds = {"max_ongoing_requests": 1, "max_queued_requests": 1}
    app = StandaloneApp(deployment.model_copy(update=bounds))
    body, length = encode_request({"features": ROWS}, ["sums"])
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"{MODEL}/infer",
        "headers": [(b"inference-header-content-length", str(length).encode())],
    }

    async def one(scope: dict[str, Any]) -> int:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.05)  # all are inside before the first is read
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return int(sent[0]["status"])

    async def all_at_once() -> list[int]:
        get = {**scope, "method": "GET", "path": f"{MODEL}/ready"}
        return list(await asyncio.gather(one(scope), one(scope), one(scope), one(get)))

    assert asyncio.run(all_at_once()) == [200, 200, 503, 200]
    assert asyncio.run(all_at_once()) == [200, 200, 503, 200]  # refused ones take no room


def test_a_broken_export_is_one_line(exported: Callable[[str], Path]) -> None:
    """Model changed, model gone, no export at all: exit code 2 and the file to look at."""
    folder = exported("compose")
    model = next((folder / "model").iterdir())
    command = [sys.executable, "-P", "-m", "serving.standalone", str(folder)]

    def failure() -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    model.write_text(model.read_text() + " ")
    assert "changed since it was built" in failure()
    model.unlink()
    assert "missing; export again" in failure()
    (folder / "deployment.json").write_text("{}")
    assert "not a deployment that 'tonnage export' wrote" in failure()
