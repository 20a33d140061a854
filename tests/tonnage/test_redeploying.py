"""What of a run counts when a replica was killed in it."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.samples import UNSENT, Samples
from tonnage.redeploying import since_loss_s


def samples(*rows: tuple[float, float]) -> Samples:
    """Requests as (due, done); one that was never sent is done at nan."""
    due, done = (np.array(column) for column in zip(*rows, strict=True))
    n = len(due)
    no, unknown = np.zeros(n, dtype=bool), np.full(n, np.nan)
    return Samples(
        due_s=due,
        sent_s=due,
        done_s=done,
        body=np.zeros(n, dtype=int),
        status=np.where(np.isnan(done), UNSENT, 200),
        error=np.full(n, ""),
        waited=no,
        own_cell=~no,
        inline=no,
        queue_s=unknown,
        service_s=unknown,
    )


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
