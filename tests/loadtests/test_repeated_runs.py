"""Runs of a cell that only other programs spoilt are made again."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtests import cell
from loadtests.dwell import FLOOR, FULL, SHARING
from loadtests.records import FaultCode, LoadRun

RUN = LoadRun(mode="open", batch=1, duration_s=1, rate_rps=10)


@pytest.mark.parametrize(
    ("found", "runs"),
    [
        ([[]], 1),
        ([[FaultCode.CORES_SHARED], []], 2),
        ([[FaultCode.NOISY_HOST]] * 4, 3),
        ([[FaultCode.NOISY_HOST, FaultCode.ERRORS], []], 1),
        ([[FaultCode.BACKLOG_GROWING], []], 1),
    ],
)
def test_noise_is_tried_again_and_an_answer_is_not(
    monkeypatch: pytest.MonkeyPatch, found: list[list[FaultCode]], runs: int
) -> None:
    """Three times at most; what says something about the server stays as it is."""
    left = iter(found)

    def measured(context: object, run: LoadRun, sequence: int) -> Any:
        return SimpleNamespace(faults=[SimpleNamespace(code=code) for code in next(left)])

    monkeypatch.setattr(cell, "measure", measured)
    made = list(cell._until_quiet(cast(cell.CellContext, None), RUN, count().__next__))
    assert len(made) == runs


def test_open_runs_go_by_rungs_that_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest rung may be the one that is wrong: half and seven tenths are of a valid one."""

    def rung(rate: float, *, valid: bool) -> Any:
        return SimpleNamespace(completed_rps=rate, valid=valid, faults=())

    asked: list[LoadRun] = []

    def measured(context: object, run: LoadRun, sequence: int) -> Any:
        asked.append(run)
        return SimpleNamespace(faults=(), model_copy=lambda **_: None)

    monkeypatch.setattr(cell, "measure", measured)
    monkeypatch.setattr(cell, "_load", lambda *_: SimpleNamespace(ok=10, elapsed_s=1.0))
    monkeypatch.setattr(cell, "idle_cores", lambda *_: 0.0)
    rungs = [rung(100, valid=True), rung(900, valid=False)]
    monkeypatch.setattr(cell, "ladder", lambda *_: iter(rungs))
    context = cast(cell.CellContext, SimpleNamespace(batch=1, length=None, seed=0))
    list(cell.measure_cell(context, FULL, count().__next__))
    assert [run.rate_rps for run in asked if run.mode == "open"] == [50, 70]


def test_replicas_that_share_a_core_are_asked_at_each_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once warm up; then one open run a rate, of the seconds that CPU time takes."""
    asked: list[LoadRun] = []

    def measured(context: object, run: LoadRun, sequence: int) -> Any:
        asked.append(run)
        return SimpleNamespace(faults=())

    warmed: list[LoadRun] = []
    monkeypatch.setattr(cell, "measure", measured)
    monkeypatch.setattr(cell, "_load", lambda _, run: warmed.append(run))
    four = SimpleNamespace(replicas=4)
    context = SimpleNamespace(batch=1, length=None, seed=0, rates=(80.0,), deployment=four)
    list(cell.measure_sharing(cast(cell.CellContext, context), SHARING, count().__next__))
    assert [run.users for run in warmed] == [4]
    assert [(run.mode, run.rate_rps, run.duration_s) for run in asked] == [("open", 80, 4)]


def test_a_floor_is_a_short_cell_without_a_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paced alone, then at each of its rates; with four of them it takes what is estimated."""
    asked: list[LoadRun] = []

    def measured(context: object, run: LoadRun, sequence: int) -> Any:
        asked.append(run)
        return SimpleNamespace(faults=())

    monkeypatch.setattr(cell, "measure", measured)
    monkeypatch.setattr(cell, "_load", lambda *_: SimpleNamespace(ok=900, elapsed_s=1.0))
    rates = (1200.0, 900.0, 700.0, 500.0)
    context = cast(
        cell.CellContext, SimpleNamespace(batch=1, length=None, seed=0, rates=(*rates, 25.0))
    )
    list(cell.measure_floor(context, FLOOR, count().__next__))
    assert [(run.mode, run.rate_rps) for run in asked] == [
        ("paced", 100),
        *(("open", rate) for rate in (*rates, 25.0)),
    ]
    assert asked[-1].duration_s == 5, "of a slow one more seconds, and not without end"
    seconds = FLOOR.warmup_s + sum(run.duration_s for run in asked[:-1])
    assert FLOOR.floor_s == pytest.approx(seconds + 6 * 0.12)
