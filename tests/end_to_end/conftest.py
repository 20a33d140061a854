"""The real Ray Serve, HAProxy and Locust, started once for these tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.fleet import Fleet
from serving.ray_host.client import RayHost
from serving.records import Variant, sha256_of
from serving.runtimes.stub import StubRuntime


def stub_variant(folder: Path, busy_ms: float, name: str) -> Variant:
    """A stub model that takes ``busy_ms`` of CPU per call."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"busy_ms": busy_ms}))
    runtime = StubRuntime(path, 1)
    return Variant(
        workload="test",
        name=name,
        runtime="stub",
        precision="none",
        file=str(path),
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        inputs=runtime.inputs,
        outputs=runtime.outputs,
    )


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHost]:
    """Ray Serve behind HAProxy."""
    with RayHost(tmp_path_factory.mktemp("logs") / "ray.log") as running:
        yield running


@pytest.fixture(scope="session")
def fleet(host: RayHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two Locust workers."""
    log = tmp_path_factory.mktemp("logs") / "locust.log"
    with Fleet(log, workers=2, cpus=host.placement.platform_cpus) as running:
        yield running
