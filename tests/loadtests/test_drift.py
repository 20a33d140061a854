"""Drift: what was measured while the host was another one is marked, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from loadtests.drift import with_drift
from loadtests.histogram import Histogram
from loadtests.records import CpuUse, Fault, FaultCode, LoadRun, Measurement, Throttling
from serving.records import Deployment, Grant, InstanceType, Variant

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")
GRANT = Grant(method="cgroup-v1", cpus=(1,), quota_cpus=None, memory_bytes=None)
Made = Callable[[Sequence[tuple[str, int]]], list[Measurement]]


@pytest.fixture
def made(make_stub: Callable[..., Variant]) -> Made:
    deployment = Deployment(variant=make_stub(), instance=SIZE, threads=1)
    latency = Histogram.of([0.005] * 100)

    def make(runs: Sequence[tuple[str, int]]) -> list[Measurement]:
        return [
            Measurement(
                id=str(place),
                role=role,
                sequence=place,
                started_at="",
                deployment=deployment,
                grant=GRANT,
                inference="inline",
                run=LoadRun(mode="closed", batch=1, duration_s=1, users=4),
                elapsed_s=1.0,
                offered=rps,
                ok=rps,
                due_to_done=latency,
                sent_to_done=latency,
                dispatch_lag=latency,
                queue=latency,
                service=latency,
                cpu=CpuUse(replica_s=0.5, ingress_s=0, generator_s=0, platform_busy=0.5),
                throttling=Throttling(periods=0, throttled_periods=0, throttled_s=0),
                peak_memory_bytes=1,
                environment="e",
            )
            for place, (role, rps) in enumerate(runs)
        ]

    return make


def marked(measurements: Sequence[Measurement]) -> list[int]:
    judged = with_drift(measurements)
    return [m.sequence for m in judged if any(fault.code == FaultCode.DRIFT for fault in m.faults)]


def test_a_host_that_stays_the_same_marks_nothing(made: Made) -> None:
    """Noise within the band is no drift, whatever the cells between do."""
    assert not marked(made([("reference", 100), ("cell", 7), ("reference", 110), ("cell", 70)]))


def test_one_slow_visit_marks_itself_alone(made: Made) -> None:
    """Between a sound visit and a drifted one nobody can say when it began."""
    runs = [("reference", 100), ("cell", 9), ("reference", 60), ("cell", 9), ("reference", 101)]
    assert marked(made(runs)) == [2]


def test_what_lies_between_two_slow_visits_is_not_believed(made: Made) -> None:
    """Before and after it the host was another one, so it was in between."""
    runs = [
        ("reference", 100),
        ("cell", 9),
        ("reference", 60),
        ("cell", 9),
        ("floor", 9),
        ("reference", 62),
        ("cell", 9),
        ("reference", 99),
    ]
    assert marked(made(runs)) == [2, 3, 4, 5]


def test_a_single_odd_rung_is_no_drift_of_the_visit(made: Made) -> None:
    """A visit is judged by the median of its rungs, a rung by itself."""
    visit = [("reference", 100)] * 3
    odd = [("reference", 70), ("reference", 99), ("reference", 101)]
    assert marked(made([*visit, *odd, ("cell", 9), *odd])) == [3, 7]


def test_faults_that_were_there_stay(made: Made) -> None:
    """Drift is added to what is known already; an invalid rung is compared with nothing."""
    runs = made([("reference", 100), ("reference", 50), ("cell", 9), ("reference", 50)])
    few = Fault(code=FaultCode.TOO_FEW_SAMPLES, detail="3")
    runs[2] = runs[2].model_copy(update={"faults": (few,)})
    runs[1] = runs[1].model_copy(update={"faults": (few,)})
    judged = with_drift(runs)
    assert judged[1].faults == (few,)
    assert judged[2].faults == (few,)
