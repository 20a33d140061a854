"""The platform's ceiling and floor, from no-op replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from loadtests.ceiling import ceilings, with_ceiling
from loadtests.floor import at_floor, floor_p99_s
from loadtests.histogram import Histogram
from loadtests.records import CpuUse, FaultCode, LoadRun, Measurement, Throttling
from serving.records import Deployment, Grant, InstanceType, Variant

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")
GRANT = Grant(method="cgroup-v1", cpus=(1,), quota_cpus=None, memory_bytes=None)


@pytest.fixture
def made(make_stub: Callable[..., Variant]) -> Callable[..., Measurement]:
    deployment = Deployment(variant=make_stub(), instance=SIZE, threads=1)

    def make(
        rps: float,
        role: str = "cell",
        mode: str = "closed",
        *,
        replica: float = 0.5,
        platform: float = 0.6,
        p99_ms: float = 5.0,
        users: int = 4,
        **changed: Any,
    ) -> Measurement:
        load = {"users": users} if mode == "closed" else {"rate_rps": rps}
        latency = Histogram.of([p99_ms / 1e3] * 100)
        return Measurement(
            id="x",
            role=role,
            sequence=0,
            started_at="",
            deployment=deployment,
            grant=GRANT,
            inference="inline",
            run=LoadRun(mode=mode, batch=1, duration_s=1, **load),
            elapsed_s=1.0,
            offered=round(rps),
            ok=round(rps),
            due_to_done=latency,
            sent_to_done=latency,
            dispatch_lag=latency,
            queue=latency,
            service=latency,
            cpu=CpuUse(replica_s=replica, ingress_s=0, generator_s=0, platform_busy=platform),
            throttling=Throttling(periods=0, throttled_periods=0, throttled_s=0),
            peak_memory_bytes=1,
            environment="e",
            **changed,
        )

    return make


def test_a_platform_that_was_full_is_its_own_ceiling(made: Callable[..., Measurement]) -> None:
    """With replicas to spare, the best rung is what generator and ingress carry."""
    known = ceilings([made(800, "floor"), made(1000, "ceiling", platform=1.0), made(500)])
    assert (known[1].rate_rps, known[1].basis) == (1000, "measured")


def test_a_full_replica_hides_the_ceiling(made: Callable[..., Measurement]) -> None:
    """Where the no-op itself was full, the ceiling follows from how busy the platform was."""
    known = ceilings([made(900, "floor", replica=0.98, platform=0.6)])
    assert known[1].basis == "extrapolated"
    assert known[1].rate_rps == pytest.approx(1500)


def test_room_left_on_both_sides_is_no_ceiling(made: Callable[..., Measurement]) -> None:
    """A ladder that ran out of users is extrapolated, one that levelled off was measured."""
    short = [made(rps, "ceiling", users=users) for users, rps in ((1, 200), (2, 390), (4, 600))]
    assert ceilings(short)[1].basis == "extrapolated"
    assert ceilings(short)[1].rate_rps == pytest.approx(1000)
    for last in (610, 590):
        level = ceilings([*short, made(last, "ceiling", users=8)])[1]
        assert (level.rate_rps, level.basis) == (max(600, last), "measured")


def test_what_comes_too_near_is_not_believed(made: Callable[..., Measurement]) -> None:
    """Beyond seven tenths of the ceiling a measurement carries the fault, with both figures."""
    runs = [made(1000, "floor", platform=1.0), made(690), made(710), made(710, mode="open")]
    judged = with_ceiling(runs)
    assert [m.valid for m in judged] == [True, True, False, False]
    assert judged[2].faults[0].code == FaultCode.GENERATOR_AT_LIMIT
    assert "71%" in judged[2].faults[0].detail
    assert [m.carried_rps for m in judged] == [None, 1000, 1000, 1000]
    assert with_ceiling([runs[0], made(9, mode="paced")])[1].carried_rps is None
    alone = with_ceiling([made(710)])[0]
    assert (alone.valid, alone.carried_rps) == (True, None)


def test_the_highest_believed_rate_is_believed(made: Callable[..., Measurement]) -> None:
    """A search may end there: what was asked for counts, not a few arrivals more by luck."""
    floor = made(1000, "ceiling", platform=1.0)
    limit = ceilings([floor])[1].believed_rps
    lucky = made(limit, mode="open").model_copy(update={"ok": 712})
    assert with_ceiling([floor, lucky])[1].valid
    above = made(limit + 1, mode="open").model_copy(update={"ok": 712})
    assert not with_ceiling([floor, above])[1].valid


def test_a_floor_is_interpolated_and_never_guessed(made: Callable[..., Measurement]) -> None:
    """Between two measured rates it lies between their p99; outside of them there is none."""
    floor = [
        made(100, "floor", "open", p99_ms=1.0),
        made(300, "floor", "open", p99_ms=3.0),
        made(200, "floor"),
    ]
    label = SIZE.label
    assert floor_p99_s(floor, 1, 200, label) == pytest.approx(0.002, rel=1e-2)
    assert floor_p99_s(floor, 1, 50, label) is None
    assert floor_p99_s(floor, 1, 400, label) is None
    assert floor_p99_s(floor, 8, 200, label) is None
    near, far = made(200, mode="open", p99_ms=2.5), made(200, mode="open", p99_ms=9.0)
    assert at_floor(near, floor) == pytest.approx(0.002, rel=1e-2)
    assert at_floor(far, floor) is None
    assert at_floor(floor[0], floor) is None
