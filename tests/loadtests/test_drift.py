"""Drift: what was measured while the host was another one is marked, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from loadtests.drift import last_visit_strays, visits, with_drift
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


def test_what_lies_beside_a_visit_that_is_off_is_not_believed(made: Made) -> None:
    """Nobody can say on which side of the visit the host became another one."""
    runs = [("reference", 100), ("cell", 9), ("reference", 60), ("floor", 9), ("reference", 101)]
    far = [("cell", 9), ("reference", 99), ("cell", 9)]
    assert marked(made([*runs, *far])) == [1, 2, 3]


def test_of_two_visits_the_first_is_the_level(made: Made) -> None:
    """A study with as few as two visits can still be found out."""
    assert marked(made([("reference", 100), ("cell", 9), ("reference", 80)])) == [1, 2]


def test_an_odd_first_visit_is_the_one_that_is_off(made: Made) -> None:
    """The level is the median over the visits, so what came first has no privilege."""
    runs = [("reference", 50), ("cell", 9), ("reference", 100), ("cell", 9), ("reference", 99)]
    assert marked(made(runs)) == [0, 1]


def test_a_single_odd_rung_is_no_drift_of_the_visit(made: Made) -> None:
    """A visit is off when all its rungs are; an odd rung is marked by itself."""
    visit = [("reference", 100), ("reference", 101)]
    odd = [("reference", 70), ("reference", 99)]
    assert marked(made([*visit, ("cell", 9), *odd, ("cell", 9), *visit])) == [3]


def test_a_visit_that_strays_is_worth_repeating(made: Made) -> None:
    """A hiccup is gone when the visit is repeated, and then its neighbours are believed."""
    start = [("reference", 100), ("cell", 9), ("reference", 60)]
    assert not last_visit_strays(made(start[:2]))
    assert last_visit_strays(made(start))
    repeated = made([*start, ("reference", 98), ("cell", 9), ("reference", 100)])
    assert not last_visit_strays(repeated[:4])
    assert marked(repeated) == [2]


def test_faults_that_were_there_stay(made: Made) -> None:
    """Drift is added to what is known already; an invalid rung is compared with nothing."""
    runs = made([("reference", 100), ("reference", 50), ("cell", 9), ("reference", 50)])
    few = Fault(code=FaultCode.TOO_FEW_SAMPLES, detail="3")
    runs[2] = runs[2].model_copy(update={"faults": (few,)})
    runs[1] = runs[1].model_copy(update={"faults": (few,)})
    judged = with_drift(runs)
    assert judged[1].faults == (few,)
    assert [fault.code for fault in judged[2].faults] == [few.code, FaultCode.DRIFT]


@pytest.mark.parametrize(
    ("roles", "found"),
    [("c", 0), ("rrcc", 1), ("rcr", 2), ("rrcrrcr", 3)],
)
def test_visits_are_counted(made: Made, roles: str, found: int) -> None:
    """Whatever was found of them: two that differ by half were visits, too."""
    names = {"c": "cell", "r": "reference"}
    runs = made([(names[role], 200 - 20 * place) for place, role in enumerate(roles)])
    assert visits(runs) == visits(with_drift(runs)) == found
