"""The rate of replicas that share a core follows from that of one by itself."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtests.records import LoadRun, Measurement
from loadtests.sharing import sharing_rate
from serving.records import Deployment, InstanceType, Variant

SIZE = InstanceType(
    name="sim-0.25", vcpus=0.25, memory_gib=1, enforcement="quota", cpu_family="host"
)


@pytest.fixture
def deployment(make_stub: Callable[..., Variant]) -> Deployment:
    return Deployment(variant=make_stub(), instance=SIZE, threads=1, replicas=4)


def run(deployment: Deployment, rate: float, batch: int = 100, **changes: Any) -> Measurement:
    mode = changes.pop("mode", "open")
    asked = LoadRun(mode=mode, batch=batch, duration_s=1, rate_rps=rate)
    alone = deployment.model_copy(update={"replicas": changes.pop("replicas", 1)})
    values = {"role": "cell", "valid": True, "run": asked, "deployment": alone} | changes
    return cast(Measurement, SimpleNamespace(**values))


def test_each_is_asked_as_often_as_the_single_one_was_at_most(deployment: Deployment) -> None:
    """Paced runs, other batches, other roles, fleets and what is not believed do not count."""
    runs = [
        run(deployment, 10),
        run(deployment, 14),
        run(deployment, 99, mode="paced"),
        run(deployment, 99, batch=1),
        run(deployment, 99, valid=False),
        run(deployment, 99, replicas=2),
        run(deployment, 99, role="floor"),
    ]
    assert sharing_rate(runs, deployment, 100, None) == 4 * 14
    assert sharing_rate(runs, deployment, 100, 64) is None
    assert sharing_rate([], deployment, 100, None) is None
