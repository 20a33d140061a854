"""The platform's ceiling and floor, from no-op replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from loadtests.arrivals import Mix
from loadtests.ceiling import ceiling_of, ceilings, with_ceiling
from loadtests.floor import ABOUT, at_floor, floor_p50_s, floor_p99_s, floor_rates
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


def at_batch(m: Measurement, batch: int, mix: Mix | None = None) -> Measurement:
    return m.model_copy(update={"run": m.run.model_copy(update={"batch": batch, "mix": mix})})


def test_a_mix_has_the_ceiling_of_what_its_requests_cost(made: Callable[..., Measurement]) -> None:
    """9 of 1 ms and 1 of 11 ms of the platform are 2 ms a request: 500 a second."""
    floor = [
        made(1000, "floor", platform=1.0),
        at_batch(made(1000 / 11, "floor", platform=1.0), 100),
    ]
    known, mix = ceilings(floor), Mix(batches=(1, 100), weights=(9, 1))
    found = ceiling_of(known, 100, mix)
    assert found is not None
    assert found.rate_rps == pytest.approx(500, abs=0.5)  # answers are whole
    assert "500 req/s of batch 1 (90 %), 100 (10 %)" in str(found)
    runs = [at_batch(made(rate, mode="open"), 100, mix) for rate in (340, 360)]
    assert [m.valid for m in with_ceiling([*floor, *runs])[2:]] == [True, False]


def test_a_batch_without_a_ceiling_has_that_of_a_larger_one(
    made: Callable[..., Measurement],
) -> None:
    """Smaller requests are not heavier; beyond the largest that is known nothing is said."""
    known = ceilings([at_batch(made(200, "floor", platform=1.0), 100)])
    mix = Mix(batches=(1, 100), weights=(9, 1))
    assert ceiling_of(known, 100, mix) == known[100]
    assert ceiling_of(known, 6000, Mix(batches=(100, 6000), weights=(1, 1))) is None
    assert ceiling_of(known, 1, None) is None


def test_a_floor_is_interpolated_and_never_guessed(made: Callable[..., Measurement]) -> None:
    """Between two measured rates it lies between their p99; outside of them there is none."""
    floor = [
        made(150, "floor", "open", p99_ms=1.0),
        made(250, "floor", "open", p99_ms=3.0),
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


def test_a_floor_is_not_read_between_rates_far_apart(made: Callable[..., Measurement]) -> None:
    """A p99 bends upwards: a line from an idle no-op to a busy one is above all between them."""
    floor = [
        made(100, "floor", "paced", p99_ms=3.0),
        made(1400, "floor", "open", p99_ms=32.0),
        made(2000, "floor", "open", p99_ms=38.0),
    ]
    assert floor_p99_s(floor, 1, 700, SIZE.label) is None
    assert at_floor(made(700, mode="open", p99_ms=5.0), floor) is None
    assert floor_p99_s(floor, 1, 1700, SIZE.label) == pytest.approx(0.035, rel=1e-2)
    assert floor_p99_s(floor, 1, 1400, SIZE.label) == pytest.approx(0.032, rel=1e-2)


def on_size(m: Measurement, vcpus: float) -> Measurement:
    size = SIZE.model_copy(
        update={"name": f"sim-{vcpus:g}", "vcpus": vcpus, "enforcement": "quota"}
    )
    return m.model_copy(update={"deployment": m.deployment.model_copy(update={"instance": size})})


def test_a_floor_is_of_its_own_size_and_batch(made: Callable[..., Measurement]) -> None:
    """A quarter of a CPU has three times the floor of a whole one; a half has none: no label."""
    floor = [made(rps, "floor", "open", p99_ms=4.0) for rps in (150, 250)]
    floor += [on_size(made(rps, "floor", "open", p99_ms=12.0), 0.25) for rps in (150, 250)]
    floor += [made(100, "floor", "paced", p99_ms=2.0)]
    run = made(200, mode="open", p99_ms=13.0)
    assert at_floor(run, floor) is None, "three times the floor of sim-1"
    assert at_floor(on_size(run, 0.25), floor) == pytest.approx(0.012, rel=1e-2)
    assert at_floor(on_size(run, 0.5), floor) is None
    quick = made(200, mode="open", p99_ms=3.0)
    assert at_floor(quick, floor) == pytest.approx(0.004, rel=1e-2)
    assert at_floor(on_size(quick, 0.5), floor) is None
    other = quick.model_copy(update={"run": quick.run.model_copy(update={"batch": 8})})
    assert at_floor(other, floor) is None
    assert floor_p50_s(floor, 1, SIZE.label) == pytest.approx(0.002, rel=1e-2)
    assert floor_p50_s(floor, 1, on_size(run, 0.25).deployment.instance.label) is None
    assert floor_p50_s(floor, 8, SIZE.label) is None


def test_a_no_op_is_driven_around_the_rates_of_its_size(made: Callable[..., Measurement]) -> None:
    """A pair of rates for those near each other, the highest first; slow ones and others none."""
    runs = [made(rps, mode="open") for rps in (500.0, 700.0, 30.0, 41.0, 12.0)]
    aside = [
        made(900),
        made(900, "floor", "open"),
        made(100, mode="paced"),
        made(5000, mode="open", faults=({"code": "backlog_growing", "detail": "x"},)),
        on_size(made(2000, mode="open"), 0.5),
    ]
    found = floor_rates([*runs, *aside], 1, SIZE.label)
    assert found == pytest.approx([805, 425, 1.15 * 41, 0.85 * 30])
    assert floor_rates(runs, 8, SIZE.label) == []
    assert len(floor_rates([made(2.0**n, mode="open") for n in range(5, 13)], 1, SIZE.label)) == 6


@pytest.mark.parametrize("spread", [1.0, 1.3, 1.599, 1.601, 3.0])
def test_what_a_no_op_is_driven_at_says_the_floor_there(
    made: Callable[..., Measurement], spread: float
) -> None:
    """Each rate that was measured has a floor between two of those, near enough to each other."""
    rates = [1000.0, round(1000 / spread)]
    driven = floor_rates([made(rps, mode="open") for rps in rates], 1, SIZE.label)
    floor = [made(rps, "floor", "open", p99_ms=2.0) for rps in driven]
    for rps in (*rates, 1.05 * rates[0]):
        assert floor_p99_s(floor, 1, rps, SIZE.label) == pytest.approx(0.002, rel=1e-2)
    assert all(high <= ABOUT * low for high, low in zip(driven[::2], driven[1::2], strict=True))
