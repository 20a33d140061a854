"""The real Ray Serve, HAProxy and Locust, started once for these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtests.fleet import Fleet
from serving.ray_host.client import RayHost


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
