"""The speed of the host that confirms, against that of the study."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.records import CpuUse, Measurement
from planner.host_pace import another_pace, pace

from .conftest import _measurement


def made(rps: float, cpu_ms: float, **changes: object) -> Measurement:
    """An open-loop run of 10 s in which every request took ``cpu_ms``."""
    used = CpuUse(replica_s=10 * rps * cpu_ms / 1e3, ingress_s=0, generator_s=0)
    return _measurement("open", completed_rps=rps, cpu=used, **changes)


STUDIED = (made(20, 6.0), made(60, 4.0), _measurement("closed"), _measurement("paced"))


@given(slower=st.floats(0.3, 3), rps=st.integers(20, 60), replicas=st.integers(1, 4))
def test_the_ratio_comes_back_at_any_rate_between_those_studied(
    slower: float, rps: int, replicas: int
) -> None:
    """CPU time falls with the rate per replica here, and a run is compared at its own."""
    then = 6.0 - 2.0 * (rps - 20) / 40
    run = made(replicas * rps, slower * then, replicas=replicas)
    assert pace([run], STUDIED) == pytest.approx(slower, rel=1e-6)


def test_of_several_runs_the_middle_one_speaks() -> None:
    runs = [made(60, 4.0), made(60, 5.2), made(60, 40.0)]
    assert pace(runs, STUDIED) == pytest.approx(1.3)


def test_nothing_to_compare_with(instance: Callable[..., object]) -> None:
    assert pace([made(60, 4.0)], [_measurement("closed")]) is None
    assert pace([made(60, 4.0, instance=instance("sim-2"))], STUDIED) is None
    assert pace([], STUDIED) is None


def test_a_host_as_it_was_is_not_mentioned() -> None:
    assert another_pace(None) is None
    assert another_pace(1.1) is None
    assert another_pace(0.9) is None
    said = another_pace(1.31)
    assert said is not None
    assert "slower" in said
    assert "1.31 x" in said
    assert "faster" in (another_pace(0.7) or "")
    assert not math.isnan(pace([made(60, 4.0)], STUDIED) or math.nan)
