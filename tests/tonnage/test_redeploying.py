"""What of a run counts when a replica was killed in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from loadtests.arrivals import Mix
from loadtests.payloads import Payloads
from loadtests.records import LoadRun
from loadtests.samples import UNSENT, Samples
from loadtests.schedule import make_schedule
from serving.records import Endpoint, Replica
from tonnage.cells import Cell
from tonnage.redeploying import Redeploying, _Killer, _warming, since_loss_s
from tonnage.stage import Stage

from ..loadtests.answered import answered


def samples(*rows: tuple[float, float]) -> Samples:
    """Requests as (due, done); one that was never sent is done at nan."""
    due, done = (np.array(column) for column in zip(*rows, strict=True))
    return answered(due, done, status=np.where(np.isnan(done), UNSENT, 200))


def test_a_replica_that_died_first_is_no_error() -> None:
    """The run's faults say that it went; the thread that was to kill it says nothing."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    replica = Replica.model_construct(pid=gone.pid)
    killer = _Killer(Endpoint.model_construct(replicas=(replica,)), 0.0)
    with killer, mock.patch("threading.excepthook") as raised:
        killer.start()
        killer._timer.join()
    raised.assert_not_called()


def test_each_batch_of_a_mix_is_a_class_in_its_order(tmp_path: Path) -> None:
    """The schedule gives the first class the first weight; warmed up are all of them alike."""
    asked: list[int] = []

    def payloads(cell: Cell) -> Payloads:
        asked.append(cell.batch)
        return Payloads.plain([b"x" * cell.batch] * 3)

    stored: list[Payloads] = []
    fleet = mock.Mock()
    fleet.store.side_effect = lambda _, made: stored.append(made) or tmp_path
    stage = Stage(host=mock.Mock(), payloads=payloads, workers=1)
    redeploying = Redeploying(
        host=mock.Mock(), stage=stage, floors=(), logs=tmp_path, steps=mock.Mock()
    )
    mix = Mix(batches=(8, 1), weights=(1, 9))
    demand = mock.Mock(batches=mix.batches, length=None)
    proof = mock.Mock(key="k", demand=demand)
    assert redeploying._stored(proof, fleet) == redeploying._stored(proof, fleet) == tmp_path
    assert (asked, len(stored)) == ([8, 1], 1)
    run = LoadRun(mode="open", batch=8, mix=mix, duration_s=100, rate_rps=100)
    bodies = make_schedule(run, stored[0].classes).body
    rows = np.array([len(body) for body in stored[0].bodies])[bodies]
    assert np.mean(rows == 8) == pytest.approx(0.1, abs=0.01)
    context = mock.Mock(batch=8, length=None, seed=1)
    warm = _warming(context, run)
    assert (warm.mode, warm.mix) == ("closed", Mix(batches=(8, 1), weights=(1, 1)))
    assert _warming(context, run.model_copy(update={"mix": None})).mix is None


@pytest.mark.parametrize(
    ("rows", "begin"),
    [
        ([(1, 1.1), (9.8, 9.9), (10.5, 10.6)], 10),  # nothing was under way
        ([(1, 1.1), (9.8, 10.2), (9.9, 12.0), (10.5, 10.6)], 9.8),  # two were
        ([(9.8, np.nan), (10.5, 10.6)], 10),
    ],
)
def test_a_loss_begins_with_what_it_interrupts(
    rows: list[tuple[float, float]], begin: float
) -> None:
    """The first request that had no answer at the kill, else the kill itself."""
    assert since_loss_s(samples(*rows), 10) == begin
