"""``tonnage measure STUDY --variant V`` where nothing has to be deployed for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtests.arrivals import Mix, Ramp
from loadtests.objective import Slo
from loadtests.records import LoadRun
from serving.errors import BadInput
from tonnage import cli_measure, deployment
from tonnage.deployment import floor_runs
from tonnage.load import Options, load_of
from tonnage.run_folder import RunFolder


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


RUN = LoadRun(mode="open", batch=8, duration_s=60, rate_rps=200)


def test_the_floor_is_measured_around_the_rate() -> None:
    """A shorter run below and one above, so that the floor at the rate itself is between them."""
    low, high = floor_runs(RUN)
    assert low.rate_rps
    assert high.rate_rps
    assert low.rate_rps < 200 < high.rate_rps
    assert low.batch == high.batch == 8
    assert low.duration_s == high.duration_s == 2.2
    assert floor_runs(RUN.model_copy(update={"rate_rps": 10.0}))[0].duration_s == 30
    assert floor_runs(RUN.model_copy(update={"rate_rps": 1.0}))[0].duration_s == 60


@pytest.mark.parametrize(
    "run",
    [
        RUN.model_copy(update={"arrivals": Ramp(from_rps=100, to_rps=300)}),
        RUN.model_copy(update={"mix": Mix(batches=(1, 8), weights=(1, 1))}),
        LoadRun(mode="closed", batch=8, duration_s=60, users=2),
    ],
    ids=["ramp", "mix", "closed"],
)
def test_other_traffic_has_no_floor_to_compare_with(run: LoadRun) -> None:
    """Bursts, mixes and closed loops are not compared with a no-op's steady p99."""
    assert floor_runs(run) == []


@pytest.mark.parametrize("json", [False, True])
def test_a_stage_of_cells_alone_says_what_was_not_judged(
    stub_run: Callable[..., RunFolder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    json: bool,
) -> None:
    """``tonnage measure STUDY --quick``: no no-ops, and no reference; for people and machines."""
    done = SimpleNamespace(folder=stub_run(), run=lambda: None)
    monkeypatch.setattr(cli_measure, "study_run", lambda *_, **__: done)
    cli_measure.measure("credit", quick=True, json=json)
    said = capsys.readouterr().out
    assert "what generator and ingress carry was not measured" in said
    assert "the reference was not measured again and again" in said
    assert said.startswith("{" if json else "3 measurements in ")
