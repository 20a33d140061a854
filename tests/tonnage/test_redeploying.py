"""What of a run counts when a replica was killed in it."""

from __future__ import annotations

import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from loadtests.samples import UNSENT, Samples
from serving.records import Endpoint, Replica
from tonnage.redeploying import _Killer, since_loss_s

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
