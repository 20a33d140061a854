"""What several replicas wait for the ingress that they share follows from the floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loadtests.histogram import Histogram
from loadtests.records import CpuUse, Fault, FaultCode, Measurement
from planner.candidates import HERE
from planner.congestion import NONE, platform_points, waits_ms, with_platform
from planner.curve import predict_quantile, predictor
from planner.records import Bottleneck, CpuFactor, MeasuredPoint
from planner.simulate import sojourns
from planner.sizing import Shortage, Sizing

Build = Callable[..., Any]

CLOUD = CpuFactor(target_family="cloud", low=1, mid=1, high=1, basis="assumed")


def point(rate: float, busy: float, *over_ms: float) -> MeasuredPoint:
    p50, p95, p99 = over_ms
    return MeasuredPoint(
        rate_rps=rate, utilisation=busy, p50_ms=p50, p95_ms=p95, p99_ms=p99, n=1000
    )


POINTS = (point(100, 0.1, 0, 0, 0), point(1000, 0.8, 1, 5, 20))


def floor(measurement: Build, mode: str, rate: float, times_ms: Any, **changes: Any) -> Measurement:
    """A run of a no-op that costs 0.1 ms of CPU; its platform is busy for 0.7 ms a request."""
    cpu = CpuUse(replica_s=1e-3 * rate, ingress_s=1, generator_s=1, platform_busy=7e-4 * rate)
    times = Histogram.of(np.atleast_1d(times_ms) / 1e3)
    values = {"role": "floor", "cpu": cpu, "due_to_done": times}
    made: Measurement = measurement(mode, completed_rps=rate, **(values | changes))
    return made


def test_points_are_what_no_ops_waited_beyond_paced_ones(measurement: Build) -> None:
    """By rate, never falling; what they waited for each other, 0.1 ms of CPU each, taken off."""
    runs = [
        floor(measurement, "paced", 100, 1.0),
        floor(measurement, "open", 500, 4.0),
        floor(measurement, "open", 900, 3.0),
        floor(measurement, "closed", 1500, 9.0),
    ]
    paced, half, most = platform_points(runs, 1)
    assert (paced.rate_rps, paced.p50_ms, paced.p99_ms) == (100, 0, 0)
    assert half.p50_ms == pytest.approx(3.0, rel=0.01)
    # M/D/1 at 5 % of its capacity: 5 in 100 wait, and hardly any for longer than one request.
    assert 2.85 < half.p99_ms <= half.p50_ms
    assert (most.rate_rps, most.p50_ms) == (900, half.p50_ms)
    assert most.utilisation == pytest.approx(0.63)


def test_without_a_floor_nothing_is_said(measurement: Build, profile: Build) -> None:
    """Of another batch size, unbelievable, or not paced: profiles stay what they were."""
    paced, opened = (
        floor(measurement, "paced", 100, 1.0),
        floor(measurement, "open", 500, 4.0),
    )
    noisy = Fault(code=FaultCode.CORES_SHARED, detail="")
    late = Fault(code=FaultCode.BACKLOG_GROWING, detail="")
    assert platform_points([opened], 1) == ()
    assert platform_points([paced, opened], 100) == ()
    assert platform_points([paced, opened.model_copy(update={"faults": (noisy,)})], 1) == ()
    assert len(platform_points([paced, opened.model_copy(update={"faults": (late,)})], 1)) == 2
    one = profile()
    assert with_platform([one], [paced]) == [one]
    assert "platform" not in one.model_dump()
    (known,) = with_platform([one], [paced, opened])
    assert [p.rate_rps for p in known.platform] == [100, 500]


def test_between_two_rates_a_wait_follows_how_busy_the_platform_is() -> None:
    """Of a queue whose waits go as 1 / (1 - u) the middle is exact, and the line above it."""
    each, rates = 7e-4, (100.0, 700.0, 1300.0)

    def wait(rate: float) -> float:
        return 1 / (1 - each * rate) - 1 / (1 - each * rates[0])

    points = tuple(point(r, each * r, 0, 0, wait(r)) for r in rates)
    for rate in (100, 300, 700, 1000, 1200, 1300):
        found = waits_ms(points, rate, 0.99)
        assert found.mid == pytest.approx(wait(rate), abs=1e-9)
        assert found.high >= found.mid - 1e-9
    assert waits_ms(points, 1000, 0.99).high > 1.5 * wait(1000)
    assert waits_ms(points, 5000, 0.999) == waits_ms(points, 1300, 0.99)
    assert waits_ms(points, 50, 0.99) == waits_ms((), 1000, 0.99) == NONE
    unsaid = tuple(p.model_copy(update={"utilisation": 0.0}) for p in points)
    assert len(set(waits_ms(unsaid, 1000, 0.99))) == 1


@pytest.mark.usefixtures("no_own_error")
def test_replicas_behind_a_busy_ingress_are_predicted(measurement: Build, profile: Build) -> None:
    """Truth: an M/M/1 ingress, whose departures are Poisson again (Burke), before three replicas.

    Its floor was measured at two other rates. Without it the truth lies above the interval.
    """
    rng = np.random.default_rng(3)
    each_s, service_s, n = 0.6e-3, 2e-3, 60_000

    def through(rate: float) -> tuple[np.ndarray, np.ndarray]:
        due = np.cumsum(rng.exponential(1 / rate, (n, 1)), axis=0)
        return due, sojourns(due, rng.exponential(each_s, (n, 1)))

    runs = []
    for mode, rate in (("paced", 100.0), ("open", 1400.0)):
        times = 1e3 * through(rate)[1].ravel() + 0.1
        busy = CpuUse(
            replica_s=1e-3 * rate, ingress_s=1, generator_s=1, platform_busy=each_s * rate
        )
        runs.append(floor(measurement, mode, rate, times, cpu=busy))
    bare = profile(
        (2.0,),
        480.0,
        beyond=Histogram.of(through(100.0)[1].ravel()),
        saturated_rps=1 / service_s,
        overhead_ms=0.4,
    )
    (known,) = with_platform([bare], runs)
    for rate in (500.0, 800.0, 1100.0):
        due, passed = through(rate)
        order = np.argsort((due + passed).ravel())
        behind = sojourns((due + passed)[order], np.full((n, 1), service_s), replicas=3)
        total = 1e3 * (passed[order] + behind)[2000:]
        truth = float(np.quantile(total, 0.99))
        found = predict_quantile(known, 3, rate, 0.99, 0)
        assert found.low < truth < found.high
        assert found.mid == pytest.approx(truth, rel=0.2)
        assert predict_quantile(bare, 3, rate, 0.99, 0).high < truth


@pytest.mark.usefixtures("no_own_error")
def test_one_replica_is_as_it_was_measured(profile: Build) -> None:
    """Its own runs were at its own rate; several wait as no-ops did, and never less for more."""
    bare, known = profile(), profile(platform=POINTS)
    alone = [predict_quantile(p, 1, 50, 0.99, 0) for p in (bare, known)]
    assert alone[0] == alone[1]
    without, here = (predict_quantile(p, 8, 500, 0.99, 0) for p in (bare, known))
    assert without.low == pytest.approx(here.low)
    assert here.high - without.high == pytest.approx(20 * 400 / 900)
    assert 0 < here.mid - without.mid < here.high - without.high
    highs = [predict_quantile(known, 20, rate, 0.99, 0).high for rate in range(100, 1400, 100)]
    assert highs == sorted(highs)
    # What its own runs exceeded their prediction by has such waits in it.
    over = point(66.5, 0.7, 0, 0, 200)
    lifted = profile(platform=POINTS, measured_points=(over,))
    plain = profile(measured_points=(over,))
    asked = (8, 0.7 * 8 * 95, 0.99, 0)
    assert predict_quantile(lifted, *asked).high == predict_quantile(plain, *asked).high


def test_waits_count_where_they_were_measured(profile: Build, demand: Build) -> None:
    """On this host no number of replicas is below them, and the reason says so; bought ones may."""
    known = predictor(profile(platform=POINTS), 0)
    wanted = demand(900, 25, max_replicas=64)
    here, there = (Sizing(known, factor, 1, wanted).smallest for factor in (HERE, CLOUD))
    assert isinstance(there, int)
    assert isinstance(here, Shortage)
    assert here.bottleneck is Bottleneck.LATENCY
    assert "generator and ingress alone may add 17.8 ms at 900 req/s" in here.reason
    eased = Sizing(known, HERE, 1, demand(900, 45, max_replicas=64)).smallest
    assert isinstance(eased, int)
