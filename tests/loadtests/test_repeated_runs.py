"""Runs of a cell that only other programs spoilt are made again."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtests import cell
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
