"""A model and a server of the user's own, from the command line to the records."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from loadtests.fleet import Fleet
from loadtests.http_call import HttpCall, parse_checks
from loadtests.payloads import Payloads
from loadtests.records import LoadRun
from serving.errors import BadInput
from serving.ports import free_port
from serving.records import Endpoint

from .test_study import nothing_left, start

SERVER = """
import http.server, json, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(404 if self.path == "/absent" else 200, {"path": self.path})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        until = time.thread_time() + 0.003
        while time.thread_time() < until:
            pass
        self.answer(200, {"label": "cat", "team": self.headers.get("x-team"), "n": len(body)})
    def answer(self, status, what):
        raw = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

TASKS = """
from locust import FastHttpUser, HttpUser, SequentialTaskSet, task
class Often(FastHttpUser):
    weight = 3
    def on_start(self):
        self.client.get("/login")
    @task(3)
    def predict(self):
        self.client.post("/predict", json=[1])
    @task
    class Pages(SequentialTaskSet):
        @task
        def first(self):
            self.client.get("/first")
        @task
        def second(self):
            self.client.get("/absent")
class Seldom(HttpUser):
    @task
    def both(self):
        self.client.get("/one")
        raise ValueError("not today")
"""


def tonnage(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "tonnage", "run", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "TONNAGE_CACHE": str(cwd / "cache")},
        timeout=180,
    )


def records(cwd: Path, name: str) -> list[dict[str, Any]]:
    (path,) = cwd.glob(f"runs/{name}/*/measurements.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def modes(made: list[dict[str, Any]]) -> bool:
    """All three kinds of run; open ones go by a closed one that could be believed, if any."""
    believed = any(m["run"]["mode"] == "closed" and not m["faults"] for m in made)
    wanted = {"paced", "closed"} | ({"open"} if believed else set())
    return {m["run"]["mode"] for m in made} == wanted


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The small server, in a process of its own."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-I", "-c", SERVER, str(port)])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.mark.slow
def test_a_model_comes_to_a_plan(tmp_path: Path) -> None:
    """A state, a scalar and no batch axis: served, answered rightly, and reported.

    A busy host may make every measurement invalid, which is exit code 3; the answers are
    right all the same.
    """
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("Add", ["xw", "h"], ["hn"]),
            helper.make_node("Mul", ["hn", "scale"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 64]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64]),
            helper.make_tensor_value_info("hn", TensorProto.FLOAT, [1, 64]),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "My Model.onnx")
    done = tonnage(
        tmp_path, "--model", "My Model.onnx", "--rate", "20", "--p99", "200ms", "--quick",
        "--input", "scale=0.5..2",
    )  # fmt: skip
    assert done.returncode in (0, 1, 3), done.stderr
    made = records(tmp_path, "my_model")
    assert modes(made)
    for m in made:
        assert m["ok"] == m["offered"] > 0
        assert m["checked"] > 0
        assert m["wrong"] == 0
    (folder,) = tmp_path.glob("runs/my_model/*")
    variants = [json.loads(line) for line in (folder / "variants.jsonl").read_text().splitlines()]
    assert [v["name"] for v in variants] == ["original", "int8"]
    assert variants[0]["one_row_a_call"]
    assert 0 < variants[1]["quality"]["reproduced"] <= 1
    if done.returncode != 3:
        assert "A model of your own (My Model.onnx): batch 1 at 20 req/s" in done.stdout
        report = (folder / "report.md").read_text()
        assert "no measure of quality" in report
        assert "tonnage run --model" in report


@pytest.mark.slow
def test_a_server_comes_to_a_plan(tmp_path: Path) -> None:
    """Started in its instance, asked with headers and a check, sized as a black box."""
    (tmp_path / "app.py").write_text(SERVER)
    (tmp_path / "body.json").write_text("[1, 2, 3]")
    done = tonnage(
        tmp_path, "--cmd", f"{sys.executable} -I app.py {{port}}", "--request", "body.json",
        "--url", "/predict", "--header", "x-team: a", "--check", '{"team": "a", "n": 3}',
        "--rate", "20", "--p99", "200ms", "--quick", "--name", "mine",
    )  # fmt: skip
    assert done.returncode in (0, 1, 3), done.stderr
    made = records(tmp_path, "mine")
    assert modes(made)
    for m in made:
        assert m["ok"] == m["offered"] > 0
        assert (m["checked"] > 0, m["wrong"]) == (True, 0)
        assert m["inference"] == "round trip"
        assert m["service"] == m["sent_to_done"]
        assert m["cpu"]["replica_s"] / m["ok"] > 0.003
        assert m["peak_memory_bytes"] > 4 << 20
        assert m["startup_s"] > 0
    if done.returncode != 3:
        assert "command " in done.stdout or "no candidate holds" in done.stdout
        assert "1 thread" not in done.stdout


@pytest.mark.slow
def test_users_keep_their_tasks(generator: Fleet, server: str, tmp_path: Path) -> None:
    """Every due request is one task; weights are honoured; what fails in one is counted.

    Of four tasks one is Seldom's, which raises; of Often's four one is a page, and every
    other page is absent.
    """
    path = tmp_path / "locustfile.py"
    path.write_text(TASKS)
    call = HttpCall(path="/", locustfile=str(path))
    run = LoadRun(mode="open", batch=1, duration_s=4, rate_rps=100, seed=1)
    endpoint = Endpoint(url=server, model_name="x", protocol="http")
    result = generator.run(run, endpoint, generator.store("none", Payloads.plain([b""])), call=call)
    assert result.offered > 300
    assert set(result.errors) == {"ValueError", "http_404"}
    assert result.errors["ValueError"] / result.offered == pytest.approx(1 / 4, abs=0.08)
    # On every connection the pages take turns, so that about half of them are the second.
    assert result.errors["http_404"] / result.offered == pytest.approx(3 / 32, abs=0.06)
    assert result.ok == result.offered - sum(result.errors.values())
    assert result.due_to_done.quantile_s(0.5) >= result.sent_to_done.quantile_s(0.5) > 0


@pytest.mark.slow
def test_a_locustfile_that_cannot_be_used_is_said(
    generator: Fleet, server: str, tmp_path: Path
) -> None:
    """A file that raises, and one without users, end in one line; the fleet goes on."""
    endpoint = Endpoint(url=server, model_name="x", protocol="http")
    run = LoadRun(mode="paced", batch=1, duration_s=1, rate_rps=20)
    payloads = generator.store("none", Payloads.plain([b""]))
    for text, says in (("import nothing_like_it", "nothing_like_it"), ("x = 1", "no user class")):
        path = tmp_path / f"{len(text)}.py"
        path.write_text(text)
        call = HttpCall(path="/", locustfile=str(path))
        with pytest.raises(BadInput, match=says):
            generator.run(run, endpoint, payloads, call=call)
    good = HttpCall(method="GET", path="/one", check=parse_checks(["/one"]))
    result = generator.run(run, endpoint, payloads, call=good)
    assert result.ok == result.offered == 20
    assert result.checked > 0
    assert result.wrong == 0


@pytest.mark.starts
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_server_is_not_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    """However the run ends, the server that it started ends, with its control group.

    The same command goes on with the same run; after Ctrl-C, to its end.
    """
    (tmp_path / "app.py").write_text(SERVER)
    (tmp_path / "body.json").write_text("[1]")
    arguments = [
        "run", "--cmd", f"{sys.executable} -I {tmp_path}/app.py {{port}}", "--request",
        "body.json", "--rate", "20", "--p99", "200ms", "--quick", "--name", "mine",
    ]  # fmt: skip
    process = start(tmp_path, *arguments)
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("runs/mine/*/measurements.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert nothing_left(tmp_path, process.pid) == []
    again = start(tmp_path, *arguments)
    assert again.stderr is not None
    if how == signal.SIGINT:
        _, errors = again.communicate(timeout=240)
        assert again.returncode in (0, 1, 3), errors
        assert "(resumed)" in errors
    else:
        assert any("(resumed)" in line for line in again.stderr)
        again.send_signal(signal.SIGINT)
        again.communicate(timeout=60)
        assert nothing_left(tmp_path, again.pid) == []
    assert len(list(tmp_path.glob("runs/mine/*"))) == 1
