"""Service profiles from measurements."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loadtests.histogram import Histogram
from loadtests.records import ROUND_TRIP, CpuUse, Fault, FaultCode, Measurement, Throttling
from planner.profile import Refusal, build_profiles
from serving.errors import BadInput
from serving.records import Variant

Measure = Callable[..., Measurement]
NOISY = (Fault(code=FaultCode.NOISY_HOST, detail="12 % steal"),)


def test_a_profile_has_each_figure_from_its_own_kind_of_run(measurement: Measure) -> None:
    """Service and overhead come from paced runs, capacity from what binds first."""
    runs = [
        measurement("paced", service_ms=2.0, rtt_ms=2.5),
        measurement("closed", completed_rps=390, users=2, service_ms=9),
        measurement("closed", completed_rps=400, users=4, service_ms=9, peak_memory_bytes=7 << 30),
        measurement("open", completed_rps=200, rtt_ms=4.0, startup_s=3.5),
    ]
    (profile,), refused = build_profiles(runs)
    assert not refused
    assert profile.service.quantile_s(0.5) == pytest.approx(0.002, rel=0.01)
    assert profile.overhead_ms == pytest.approx(2.5 - 2.0 - 0.1, abs=0.01)
    assert profile.capacity_rps == pytest.approx(200 / 0.6)  # 0.6 of the CPU for 200 req/s
    assert profile.cpu_ms == pytest.approx(6 / 4000 * 1e3)
    assert profile.ingress_cpu_ms == pytest.approx(1 / 4000 * 1e3)
    assert profile.peak_memory_bytes == 7 << 30
    assert profile.startup_s == 3.5
    (point,) = profile.measured_points
    assert (point.rate_rps, point.utilisation, point.n) == (200, 0.6, 200)
    assert point.p99_ms == pytest.approx(4, rel=0.01)
    assert len(profile.measurement_ids) == 4


@pytest.mark.parametrize(
    ("rungs", "share"), [((400, 399), 0.08), ((400, 360), 0.1), ((400, 100), 0.15), ((400,), 0.15)]
)
def test_the_capacity_interval_follows_the_two_best_rungs(
    measurement: Measure, rungs: tuple[float, ...], share: float
) -> None:
    """Their spread counts between a floor of 5 % and a ceiling of 15 %."""
    ladder = [measurement("closed", completed_rps=rps) for rps in rungs]
    (profile,), _ = build_profiles([measurement("paced"), *ladder])
    interval = profile.capacity_interval
    assert interval.low == pytest.approx(400 * (1 - share))
    assert interval.high == pytest.approx(400 * (1 + share))


@pytest.mark.parametrize(("visits", "share"), [((100, 130), 0.08), ((90, 100, 111), 0.1725)])
def test_an_unsteady_host_widens_every_capacity(
    measurement: Measure, visits: tuple[float, ...], share: float
) -> None:
    """Three visits of the reference whose logarithms have a standard deviation of 0.105."""
    seen = [
        measurement("closed", completed_rps=rps, users=1, role="reference", id=f"r{rps}", batch=7)
        for rps in visits
    ]
    ladder = [measurement("closed", completed_rps=rps) for rps in (400, 399)]
    profiles, _ = build_profiles([measurement("paced"), *ladder, *seen])
    (profile,) = [p for p in profiles if p.batch == 1]
    assert profile.capacity_interval.low == pytest.approx(400 * (1 - share), rel=0.01)


def test_capacity_is_per_replica_and_points_are_of_one(measurement: Measure) -> None:
    """Two replicas at 600/s have 300/s each, and their open runs are no measured points."""
    runs = [
        measurement("paced"),
        measurement("closed", completed_rps=600, replicas=2),
        measurement("open", completed_rps=300, replicas=2),
    ]
    (profile,), _ = build_profiles(runs)
    assert profile.capacity_rps == 300
    assert profile.measured_points == ()


def test_a_paced_request_costs_cpu_time_less_what_the_replica_uses_unasked(
    measurement: Measure,
) -> None:
    """6 s of CPU in 10 s, 1 s of it unasked, leave 5 ms to each of 1,000 requests."""
    runs = [measurement("paced", idle_cores=0.1), measurement("closed", completed_rps=300)]
    (profile,), _ = build_profiles(runs)
    assert profile.first_cpu_ms == pytest.approx(5)
    assert profile.idle_cores == 0.1
    assert profile.saturated == 300
    older = [measurement("paced"), measurement("closed", completed_rps=300)]
    assert build_profiles(older)[0][0].first_cpu_ms is None


def test_service_and_what_is_beyond_make_the_round_trip(measurement: Measure) -> None:
    """Quantile by quantile, also where the slowest are far off."""
    service = Histogram.of([0.002] * 90 + [0.004] * 10)
    whole = Histogram.of([0.003] * 90 + [0.009] * 10)
    runs = [
        measurement("paced", service=service, due_to_done=whole),
        measurement("closed", completed_rps=300),
    ]
    (profile,), _ = build_profiles(runs)
    assert profile.beyond is not None
    assert profile.beyond.quantile_s(0.5) == pytest.approx(0.001, rel=0.02)
    assert profile.beyond.quantile_s(0.95) == pytest.approx(0.005, rel=0.02)


@pytest.mark.parametrize(
    ("used", "first_ms", "saturated"),
    [
        # 9 ms of CPU a request at 90/s, of which the fifth that wakes its replica takes 8.5.
        pytest.param(0.81, 8.5, 111.1, id="dearer than in a closed loop"),
        # 7 ms a request, of which the third that wakes its replica takes 10: the others 5.2.
        pytest.param(0.63, 10.0, 130.0, id="only those that wake it are dearer"),
        pytest.param(0.45, 0.0, 130.0, id="too few follow another to tell"),
    ],
)
def test_what_a_request_costs_that_follows_another_is_that_of_open_traffic(
    measurement: Measure, used: float, first_ms: float, saturated: float
) -> None:
    """A closed loop's best rung is not reached where arrivals at random cost more."""

    def cpu(used: float) -> CpuUse:
        return CpuUse(replica_s=10 * used, ingress_s=0, generator_s=0)

    runs = [
        measurement("paced", completed_rps=10, idle_cores=0.0, cpu=cpu(0.01 * first_ms)),
        measurement("closed", completed_rps=130),
        measurement("open", completed_rps=90, cpu=cpu(used)),
    ]
    (profile,), _ = build_profiles(runs)
    assert profile.saturated == pytest.approx(saturated, rel=0.001)
    assert profile.saturated >= profile.capacity_rps


def test_service_times_of_open_loop_runs_add_samples(measurement: Measure) -> None:
    """Of a replica that is slower in company they are the usual; faster ones are another kind."""
    runs = [measurement("paced"), measurement("closed", completed_rps=300)]
    for service_ms in (2.1, 3.0):
        slower = measurement("open", completed_rps=150, service_ms=service_ms)
        assert build_profiles([*runs, slower])[0][0].service.count == 400
        foreign = slower.model_copy(update={"inference": ROUND_TRIP})  # its time holds waiting
        assert build_profiles([*runs, foreign])[0][0].service.count == 200
    faster = measurement("open", completed_rps=150, service_ms=1.0)
    assert build_profiles([*runs, faster])[0][0].service.count == 200
    spent = Throttling(periods=100, throttled_periods=9, throttled_s=0.3)
    stalled = measurement("open", completed_rps=150, service_ms=2.1, throttling=spent)
    assert build_profiles([*runs, stalled])[0][0].service.count == 200


def test_overhead_is_never_negative(measurement: Measure) -> None:
    """Medians of different requests may cross; time is not given back."""
    runs = [measurement("paced", service_ms=3, rtt_ms=2), measurement("closed")]
    assert build_profiles(runs)[0][0].overhead_ms == 0


def test_runs_with_faults_do_not_count(measurement: Measure) -> None:
    """The best rung is the best valid one, and an invalid open run is no point."""
    runs = [
        measurement("paced"),
        measurement("closed", completed_rps=300),
        measurement("closed", completed_rps=900, faults=NOISY),
        measurement("open", completed_rps=100, faults=NOISY),
    ]
    (profile,), _ = build_profiles(runs)
    assert profile.capacity_rps == 300
    assert profile.measured_points == ()


def test_a_key_without_valid_runs_is_refused_with_its_first_fault(measurement: Measure) -> None:
    """Missing and invalid runs are told apart, each key by itself."""
    runs = [
        measurement("paced", batch=1),
        measurement("closed", batch=1, faults=NOISY),
        measurement("closed", batch=6000),
        measurement("paced", batch=100),
        measurement("closed", batch=100, ok=0, service=Histogram.of([])),
    ]
    profiles, refused = build_profiles(runs)
    assert not profiles
    assert refused == [
        Refusal(
            ("onnx_fp32", "sim-1 (cpuset)", 1, 1),
            "no valid closed-loop run: noisy_host: 12 % steal",
        ),
        Refusal(
            ("onnx_fp32", "sim-1 (cpuset)", 1, 100),
            "no valid closed-loop run: not one request was answered",
        ),
        Refusal(("onnx_fp32", "sim-1 (cpuset)", 1, 6000), "no paced run"),
    ]


def test_floors_are_left_out(measurement: Measure) -> None:
    """A no-op replica says what the platform costs, not what the model does."""
    assert build_profiles([measurement("paced", role="floor")]) == ([], [])


def test_unlike_environments_are_refused(measurement: Measure) -> None:
    """Also when one of the runs is invalid: they may never share a plan."""
    runs = [measurement("paced"), measurement("closed", environment="e2", faults=NOISY)]
    with pytest.raises(BadInput, match=r"2 environments \(e1, e2\)"):
        build_profiles(runs)


def test_two_files_of_one_variant_are_refused(
    measurement: Measure, variant: Callable[..., Variant]
) -> None:
    """A variant that was rebuilt between runs is another one."""
    runs = [measurement("paced"), measurement("closed", variant=variant(sha256="f" * 64))]
    with pytest.raises(BadInput, match="two model files"):
        build_profiles(runs)


def test_the_order_of_measurements_does_not_matter(measurement: Measure) -> None:
    """Profiles come sorted by key, whatever order the study measured in."""
    runs = [
        measurement(mode, batch=batch, id=f"{mode}-{batch}")
        for batch in (100, 1)
        for mode in ("paced", "closed")
    ]
    profiles, _ = build_profiles(runs)
    assert [p.batch for p in profiles] == [1, 100]
    assert [p.batch for p in build_profiles(runs[::-1])[0]] == [1, 100]


def test_overload_is_an_answer_not_a_bad_measurement(measurement: Measure) -> None:
    """A run the server fell behind in bounds the capacity and stays a measured point."""
    grown = Fault(code=FaultCode.BACKLOG_GROWING, detail="many")
    late = Fault(code=FaultCode.DISPATCH_LAG, detail="late")
    runs = [
        measurement("paced"),
        measurement("closed", completed_rps=400),
        measurement("open", completed_rps=150, faults=(grown,)),
        measurement("open", completed_rps=90, faults=(grown, late)),
    ]
    (profile,), _ = build_profiles(runs)
    assert profile.capacity_rps == pytest.approx(150 / 0.6)
    assert [point.rate_rps for point in profile.measured_points] == [150]
