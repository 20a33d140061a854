"""``tonnage measure STUDY --variant V`` where nothing has to be deployed for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtests.objective import Slo
from loadtests.records import LoadRun
from serving.errors import BadInput
from tonnage import deployment
from tonnage.load import Options, load_of


def test_a_slow_model_is_given_the_time_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One user of a model that takes 3 s is watched for 15 s, with the timeout asked for."""
    asked: list[LoadRun] = []

    @contextmanager
    def running(*_: object) -> Iterator[Any]:
        context = SimpleNamespace(batch=1, deployment=SimpleNamespace(label="slow"))
        yield SimpleNamespace(context=context, floor=[], ceiling_rps=4000.0, round_trip_s=3.0)

    def measure(_: object, run: LoadRun, sequence: int) -> Any:
        asked.append(run)
        return SimpleNamespace(ok=0)

    monkeypatch.setattr(deployment, "_running", running)
    monkeypatch.setattr(deployment, "measure", measure)
    nothing: Any = None
    test = deployment.DeploymentTest(
        study=nothing,
        study_path=Path(),
        variant="slow",
        instance="sim-1",
        threads=1,
        replicas=1,
        load=load_of(Options(rate=1.0, timeout_s=20)),
    )
    with pytest.raises(BadInput, match="slow: one user got no answer in 15 s"):
        test.max_load(Slo(limit_ms=9000), 1000, Path("log"), print)
    assert [(run.duration_s, run.users, run.timeout_s) for run in asked] == [(15.0, 1, 20.0)]
