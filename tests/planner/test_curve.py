"""Predictions: consistent with capacity, with measured points, and with themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest

from loadtests.histogram import Histogram
from planner.curve import curve, predict, predict_quantile, predictor
from planner.occupancy import occupancy, quota_of
from planner.records import Interval, MeasuredPoint, ServiceProfile
from serving.errors import BadInput
from serving.records import InstanceType

Build = Callable[..., ServiceProfile]


def exact(rps: float) -> Interval:
    return Interval(low=rps, mid=rps, high=rps)


def point(utilisation: float, p99_ms: float, capacity_rps: float = 95.0) -> MeasuredPoint:
    return MeasuredPoint(
        rate_rps=utilisation * capacity_rps,
        utilisation=utilisation,
        p50_ms=10,
        p95_ms=12,
        p99_ms=p99_ms,
        n=1000,
    )


@pytest.mark.parametrize(("capacity_rps", "case"), [(80, "hidden work"), (130, "warm caches")])
def test_mean_occupancy_is_the_inverse_of_capacity(
    profile: Build, capacity_rps: float, case: str
) -> None:
    """The simulated queue saturates where the measured replica did."""
    values, counts = np.array([0.009, 0.011]), np.array([1, 1])
    found = occupancy(profile(capacity_rps=capacity_rps), values, counts, capacity_rps)
    assert found.busy_s.mean() == pytest.approx(1 / capacity_rps)
    assert (found.first_s is found.busy_s) == (case == "hidden work")
    if case == "warm caches":
        assert found.first_s.mean() == pytest.approx(0.010)


def test_hidden_work_is_not_added_twice(profile: Build) -> None:
    """An idle replica answers after service and overhead, of which hidden work is a part."""
    p = profile(service_ms=(0.05,), capacity_rps=4000, overhead_ms=0.43)
    assert predictor(p, 0).unloaded(0.5) == pytest.approx(0.48, rel=0.01)


def test_sparse_histograms_keep_their_values(profile: Build) -> None:
    """Two far apart service times stay where they are, not halfway between."""
    p = profile(service_ms=(10.0, 100.0), capacity_rps=18, overhead_ms=0)
    assert predictor(p, 0).unloaded(0.25) == pytest.approx(10 + 1e3 / 18 - 55, rel=0.01)
    assert predictor(p, 0).unloaded(0.75) == pytest.approx(100 + 1e3 / 18 - 55, rel=0.01)


def test_under_a_quota_capacity_counts_cpu_time(
    profile: Build, instance: Callable[..., InstanceType]
) -> None:
    """At 0.25 CPU, 25 requests per second leave 10 ms of CPU to each."""
    p = profile(capacity_rps=25, instance=instance("sim-0.25"))
    found = occupancy(p, np.array([0.009, 0.010]), np.array([1, 1]), 25)
    assert found.quota == 0.25
    assert found.busy_s.mean() == pytest.approx(0.010)


def test_stalls_of_paced_requests_are_not_simulated_twice(
    profile: Build, instance: Callable[..., InstanceType]
) -> None:
    """Paced requests of 120 ms on 0.25 CPU that carry 5/s burn 50 ms of CPU each."""
    p = profile(capacity_rps=5, instance=instance("sim-0.25"))
    found = occupancy(p, np.array([0.120]), np.array([1]), 5)
    assert found.busy_s == pytest.approx([0.050])
    assert found.first_s is found.busy_s


def test_a_request_that_wakes_its_replica_costs_what_a_paced_one_costs(
    profile: Build, instance: Callable[..., InstanceType]
) -> None:
    """0.1 ms of model, 1 ms of CPU alone, 0.27 ms in company; the background takes 0.01 CPUs."""
    p = profile(
        service_ms=(0.1,),
        capacity_rps=500,
        saturated_rps=900,
        first_cpu_ms=1.0,
        idle_cores=0.01,
        overhead_ms=1.5,
        instance=instance("sim-0.25"),
    )
    found = occupancy(p, np.array([0.0001]), np.array([1]), 500)
    assert found.quota == pytest.approx(0.24)
    assert found.busy_s == pytest.approx([0.24 / 900])
    assert found.first_s == pytest.approx([0.001])
    assert found.beyond_s == pytest.approx([0.0015 - 0.0009])
    slower = occupancy(p, np.array([0.0001]), np.array([1]), 250)
    assert slower.first_s == pytest.approx([0.002])


def test_sparse_traffic_spends_a_quota_that_a_closed_loop_does_not(
    profile: Build, instance: Callable[..., InstanceType]
) -> None:
    """Below saturation most requests wake the replica: the quota ends where CPU time does."""
    plain = {
        "service_ms": (0.1,), "capacity_rps": 500.0, "saturated_rps": 900.0,
        "overhead_ms": 1.0, "instance": instance("sim-0.25"),
    }  # fmt: skip
    cheap, dear = profile(**plain), profile(**plain, first_cpu_ms=1.0)
    assert predict(cheap, 1, 270, 0).p99_ms.mid < 3
    assert predict(dear, 1, 270, 0).p99_ms.mid > 10


def test_threads_of_the_model_are_no_http_work(profile: Build) -> None:
    """Two threads burn 20 ms in 10 ms; only what goes beyond that keeps the replica longer."""
    p = profile(capacity_rps=95, threads=2, first_cpu_ms=20.5, overhead_ms=2.0)
    found = occupancy(p, np.array([0.010]), np.array([1]), 95)
    assert found.first_s.mean() == pytest.approx(1 / 95)
    p = profile(capacity_rps=95, threads=2, first_cpu_ms=22.0, overhead_ms=3.0)
    assert occupancy(p, np.array([0.010]), np.array([1]), 95).first_s == pytest.approx([0.012])


def test_round_trips_alone_are_as_long_as_they_were_measured(profile: Build) -> None:
    """Their spread is the platform's, and shows in a p99 without any load."""
    rng = np.random.default_rng(3)
    beyond = Histogram.of(rng.gamma(2, 0.001, 2000))
    p = profile(service_ms=(10.0,), capacity_rps=100, capacity_interval=exact(100), beyond=beyond)
    expected = 10 + 1e3 * beyond.quantile_s(0.99)
    assert predictor(p, 0).unloaded(0.99) == pytest.approx(expected, rel=0.03)
    resampled = occupancy(p, *p.service.values(), 100, rng)
    assert 1e3 * resampled.alone_s(0.99) == pytest.approx(expected, rel=0.15)


def test_only_a_quota_below_one_cpu_throttles(
    profile: Build, instance: Callable[..., InstanceType]
) -> None:
    """A cpuset and a whole CPU of quota leave one inference call at a time alone."""
    assert quota_of(profile(instance=instance("sim-1"))) is None
    assert quota_of(profile(instance=instance("sim-1", enforcement="quota"))) is None
    assert quota_of(profile(instance=instance("sim-0.5"))) == 0.5


def test_a_prediction_agrees_with_md1(profile: Build) -> None:
    """Deterministic service of 10 ms at utilisation 0.7: M/D/1's p50 and p99, with overhead."""
    p = profile((10.0,), 100, capacity_interval=exact(100), overhead_ms=1.0)
    found = predict(p, 1, 70, seed=0)
    # Quantiles of 1 + W/S for M/D/1 at 0.7, from Erlang's series: 1.73 and 7.49.
    assert found.p50_ms.mid == pytest.approx(1 + 17.3, rel=0.06)
    assert found.p99_ms.mid == pytest.approx(1 + 74.9, rel=0.15)
    assert found.p99_ms.low < 1 + 74.9 < found.p99_ms.high


def test_intervals_widen_with_what_is_not_known(profile: Build) -> None:
    """An uncertain capacity and a small histogram both widen the interval at load."""
    rng = np.random.default_rng(1)
    many, few = (Histogram.of(rng.gamma(2, 0.005, n)) for n in (4000, 40))
    surely = profile(capacity_rps=90, service=many, capacity_interval=exact(90))
    roughly = profile(capacity_rps=90, service=many)
    barely = profile(capacity_rps=90, service=few)

    def width(p: ServiceProfile) -> float:
        # Of eight runs each, the spread of one is luck as well.
        found = [predict(p, 1, 0.7 * 90, seed=seed).p99_ms for seed in range(8)]
        return fmean((one.high - one.low) / one.mid for one in found)

    assert width(surely) < width(roughly)
    assert width(surely) < width(barely)


@pytest.mark.usefixtures("no_own_error")
def test_the_upper_end_covers_what_was_measured(profile: Build) -> None:
    """A slow run lifts middle and upper end at its own rate and above, and less below it."""
    plain, slow = profile(), profile(measured_points=(point(0.5, p99_ms=90),))
    at, below, above = (0.5 * 95, 0.3 * 95, 0.7 * 95)
    assert predict(slow, 1, at, 0).p99_ms.high == pytest.approx(90)
    assert predict(slow, 1, above, 0).p99_ms.high > 90
    narrower = predict(plain, 1, below, 0).p99_ms.high
    assert narrower < predict(slow, 1, below, 0).p99_ms.high < 90
    shift = predict(slow, 1, at, 0).p99_ms.mid - predict(plain, 1, at, 0).p99_ms.mid
    assert shift == pytest.approx(90 - predict(plain, 1, at, 0).p99_ms.high)


@pytest.mark.usefixtures("no_own_error")
def test_a_shortfall_carries_over_to_several_replicas(profile: Build) -> None:
    """What one replica took longer than its queue explains, each of two may take as well."""
    plain, slow = profile(), profile(measured_points=(point(0.5, p99_ms=90),))
    one, two = (predict(plain, k, 0.6 * 95 * k, 0).p99_ms.high for k in (1, 2))
    slow_one, slow_two = (predict(slow, k, 0.6 * 95 * k, 0).p99_ms.high for k in (1, 2))
    assert slow_two - two == pytest.approx(slow_one - one)


def test_a_fast_run_does_not_narrow_the_interval(profile: Build) -> None:
    """One lucky run is no reason to promise more."""
    fast = profile(measured_points=(point(0.5, p99_ms=11),))
    assert predict(fast, 1, 50, 0) == predict(profile(), 1, 50, 0)


@pytest.mark.parametrize("size", ["sim-1", "sim-0.5"])
@pytest.mark.parametrize("replicas", [1, 3, 40])
def test_latency_never_falls_along_a_curve(
    profile: Build, instance: Callable[..., InstanceType], size: str, replicas: int
) -> None:
    """More load is never faster, at any quantile or end of the interval."""
    p = profile(capacity_rps=95 if size == "sim-1" else 45, instance=instance(size))
    found = curve(p, replicas, seed=3)
    rows = [
        [getattr(q, end) for q in (c.p50_ms, c.p95_ms, c.p99_ms) for end in ("low", "mid", "high")]
        for c in found.points
    ]
    assert (np.diff(rows, axis=0) >= 0).all()
    assert (np.diff([row[1::3] for row in rows], axis=1) >= 0).all()
    assert found.points[-1].utilisation == pytest.approx(0.85)


def test_more_replicas_queue_less_at_one_utilisation(profile: Build) -> None:
    """Which is why a count that is not simulated is taken as the next lower one."""
    p99 = [predict(profile(), k, 0.7 * 95 * k, 0).p99_ms.mid for k in (1, 2, 4, 8)]
    assert p99 == sorted(p99, reverse=True)
    assert predict(profile(), 16, 0.7 * 95 * 16, 0).p99_ms.mid == pytest.approx(p99[-1])


def test_a_curve_says_which_range_was_measured(profile: Build) -> None:
    """Open-loop runs of one replica, at the utilisation of several; none is 0 to 0."""
    points = (point(0.2, 20), point(0.6, 40))
    found = curve(profile(measured_points=points), 2, seed=0)
    assert found.measured_from_rps == pytest.approx(2 * 0.2 * 95)
    assert found.measured_to_rps == pytest.approx(2 * 0.6 * 95)
    assert curve(profile(), 1, seed=0, utilisations=[0.5]).measured_to_rps == 0


def test_nothing_is_predicted_at_the_knee(profile: Build) -> None:
    """Beyond 85 % of capacity the text says what to change."""
    with pytest.raises(BadInput, match="ask for more replicas or a lower rate"):
        predict(profile(), 1, 90, seed=0)


def test_any_quantile_can_be_predicted(profile: Build) -> None:
    """An SLO on p90 or p99.9 lies where it belongs among the others."""
    p50, p90, p999 = (predict_quantile(profile(), 1, 60, q, 0).mid for q in (0.5, 0.9, 0.999))
    assert p50 < p90 < predict(profile(), 1, 60, 0).p99_ms.mid < p999


def test_predictions_are_deterministic(profile: Build) -> None:
    """Equal seeds give equal figures, other seeds other ones."""
    assert predict(profile(), 2, 100, 7) == predict(profile(), 2, 100, 7)
    assert predict(profile(), 2, 100, 7) != predict(profile(), 2, 100, 8)


def test_a_study_of_curves_takes_seconds(profile: Build) -> None:
    """25 profiles, 1 and 2 replicas: well under 10 s of CPU time on one core."""
    rng = np.random.default_rng(2)
    profiles = [profile(service=Histogram.of(rng.gamma(9, 0.001, 300))) for _ in range(25)]
    begun = time.process_time()
    for p in profiles:
        curve(p, 1, seed=0)
        curve(p, 2, seed=0)
    assert time.process_time() - begun < 10
