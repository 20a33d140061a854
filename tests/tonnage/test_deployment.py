"""One deployment under the traffic asked for."""

from __future__ import annotations

import pytest

from loadtests.arrivals import Mix, Ramp
from loadtests.records import LoadRun
from tonnage.deployment import floor_runs

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
