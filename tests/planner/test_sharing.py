"""What sharing a core costs, and what a plan makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.arrivals import Mix
from loadtests.histogram import Histogram
from loadtests.records import CpuUse, Fault, FaultCode, Measurement
from planner.curve import Predictor, predict
from planner.ranges import Range
from planner.records import CpuFactor, Interval, ServiceProfile
from planner.shared_core import SharedCore
from planner.sharing import SHARED_CORE, capacity, crowding, draws, on_a_core, with_sharing
from planner.sizing import UTILISATION_CAP, Sizing
from planner.surface import simulate_surface
from serving.calibration import HOST_FAMILY

Build = Callable[..., Any]
AS_HERE = CpuFactor(target_family=HOST_FAMILY, low=1, mid=1, high=1, basis="this host")


def shared(mid: float, replicas: int = 4, spread: float = 1.1) -> SharedCore:
    return SharedCore(
        replicas=replicas, low=mid / spread, mid=mid, high=mid * spread, runs=(("four", "one"),)
    )


@pytest.fixture
def quarter(profile: Build, instance: Build) -> ServiceProfile:
    """10 ms of CPU a request on a quarter of a CPU: 25 req/s."""
    found: ServiceProfile = profile(
        instance=instance("sim-0.25"), capacity_rps=25.0, saturated_rps=25.0
    )
    return found


def test_what_is_not_measured_is_assumed(profile: Build, instance: Build) -> None:
    """By their caches and by what each does unasked; not on whole CPUs, and not one alone."""
    half, quarter = (
        profile(instance=instance(f"sim-{n}", vcpus=n, enforcement="quota"), idle_cores=0.01)
        for n in (0.5, 0.25)
    )
    whole = profile(instance=instance("sim-1", enforcement="cpuset"), idle_cores=0.01)
    assert [crowding(p, 1) for p in (half, quarter, whole)] == [Range(1, 1, 1)] * 3
    assert crowding(whole, 4) == Range(1, 1, 1)
    assert crowding(half, 2).mid == pytest.approx((1 + SHARED_CORE) / 0.98)
    assert crowding(half, 4) == crowding(half, 2)  # on two cores
    assert crowding(quarter, 4).mid == pytest.approx((1 + SHARED_CORE) / 0.96)
    assert capacity(quarter, 4) == capacity(quarter, 1), "what nobody measured is no loss"
    three = profile(instance=instance("sim-0.75", vcpus=0.75, enforcement="quota"))
    assert on_a_core(three, 2) == 1
    slow = half.model_copy(update={"idle_cores": 0.2})
    assert predict(slow, 2, 60, 7).p50_ms.mid > predict(half, 2, 60, 7).p50_ms.mid


def test_what_was_measured_takes_its_place(quarter: ServiceProfile) -> None:
    """Of four on a core as measured, of fewer the less; what they carry falls by as much."""
    made = quarter.model_copy(update={"sharing": shared(1.3), "idle_cores": 0.02})
    assert crowding(made, 4).mid == pytest.approx(1.3 / 0.92)
    assert crowding(made, 2).mid == pytest.approx(1.1 / 0.96)
    assert crowding(made, 1) == Range(1, 1, 1)
    assert capacity(made, 1).mid == 25
    assert capacity(made, 4).mid == pytest.approx(25 / 1.3)
    assert capacity(made, 8) == capacity(made, 4), "on two cores"
    low, _, high = capacity(made, 4)
    # 5 % of doubt about one replica, 10 % about sharing: independent, so not their sum.
    assert np.log(25 / 1.3 / low) == pytest.approx(np.hypot(np.log(1 / 0.95), np.log(1.1)))
    assert high == pytest.approx(25 / 1.3 * np.exp(np.hypot(np.log(1.05), np.log(1.1))))


@given(
    mid=st.floats(0.7, 1.6),
    spread=st.floats(1.0, 1.3),
    replicas=st.integers(1, 40),
    vcpus=st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.75]),
)
def test_company_never_helps_to_carry_more(
    profile: Build, instance: Build, mid: float, spread: float, replicas: int, vcpus: float
) -> None:
    """Ranges are in order, whatever was measured; no replica carries more than by itself."""
    size = instance("some", vcpus=vcpus, enforcement="quota")
    sharing = shared(mid, max(2, int(1 / vcpus)), spread)
    made = profile(instance=size, capacity_rps=25.0, sharing=sharing)
    for found in (capacity(made, replicas), crowding(made, replicas)):
        assert found.low <= found.mid <= found.high
    assert capacity(made, replicas).mid <= 25
    assert capacity(made, replicas).high <= made.capacity_interval.high


def test_a_shared_core_is_simulated_as_slower_replicas_are(quarter: ServiceProfile) -> None:
    """Four that each take 1.25 times the work share a core as four of so much work do."""
    costly = quarter.model_copy(update={"sharing": shared(1.25, spread=1.0)})
    slower = quarter.model_copy(
        update={
            "service": Histogram.of(1.25 * np.repeat([0.009, 0.010, 0.011], 100)),
            "capacity_rps": 20.0,
            "saturated_rps": 20.0,
            "capacity_interval": Interval(low=19, mid=20, high=21),
            "sharing": shared(1.0, spread=1.0),
        }
    )
    one, other = (simulate_surface(p, 4, 3, (0.5, 0.99)) for p in (costly, slower))
    for at in (0.3, 0.65, 0.75):
        assert one.at(at, 0.99).mid == pytest.approx(other.at(at, 0.99).mid, rel=0.05)
    free = quarter.model_copy(update={"sharing": shared(1.0, spread=1.0)})
    assert predict(costly, 4, 60, 3).p99_ms.mid > 1.2 * predict(free, 4, 60, 3).p99_ms.mid


def test_a_plan_asks_for_as_many_as_carry_the_rate_together(
    quarter: ServiceProfile, demand: Build
) -> None:
    """Of replicas that lose a quarter in company it takes a third more, and it says so."""
    costly = quarter.model_copy(update={"sharing": shared(4 / 3, spread=1.0)})
    asked = demand(rate_rps=130.0, limit_ms=5000.0)
    needed = {}
    for name, made in (("alone", quarter), ("costly", costly)):
        sizing = Sizing(Predictor(made, 1), AS_HERE, 1, asked)
        needed[name] = sizing.needed
        assert sizing.carried_rps(sizing.needed) >= 130
        assert sizing.carried_rps(sizing.needed - 1) < 130
        each = capacity(made, sizing.needed).low
        assert sizing.carried_rps(sizing.needed) == sizing.needed * UTILISATION_CAP * each
    assert needed == {"alone": 8, "costly": 10}, "two cores of three, and one of four: 1.26 times"


@pytest.fixture
def run(measurement: Build, instance: Build) -> Build:
    """A run on quarters of a CPU: ``work_ms`` a request, and a percent unasked of each replica."""

    def make(mode: str, rate: float, work_ms: float, replicas: int = 1, **more: Any) -> Measurement:
        used = 10 * (rate * work_ms / 1e3 + 0.01 * replicas)
        made: Measurement = measurement(
            mode,
            completed_rps=rate,
            instance=instance("sim-0.25"),
            replicas=replicas,
            cpu=CpuUse(replica_s=used, ingress_s=1, generator_s=1),
            **({"idle_cores": 0.01} if mode == "paced" else {}),
            **more,
        )
        return made

    return make


def profiled(quarter: ServiceProfile) -> list[ServiceProfile]:
    return [quarter.model_copy(update={"idle_cores": 0.01})]


def test_sharing_is_measured_against_one_that_is_asked_as_often(
    quarter: ServiceProfile, run: Build
) -> None:
    """12 ms where one took 10: its range holds 1.2, weighed against what is usual elsewhere."""
    runs = [
        run("open", 5, 14),
        run("open", 16, 10),
        run("open", 64, 12, replicas=4, role="sharing", id="four"),
    ]
    (found,) = with_sharing(profiled(quarter), runs)
    assert found.sharing is not None
    assert found.sharing.replicas == 4
    assert found.sharing.low < 1.2 < found.sharing.high
    assert 1 + SHARED_CORE < found.sharing.mid < 1.2
    assert found.sharing.runs == (("four", "open-16"),)


def test_more_runs_are_surer(quarter: ServiceProfile, run: Build) -> None:
    """And nearer to what they say."""
    alone = run("open", 16, 10)
    together = [run("open", 64, 12, replicas=4, role="sharing", id=str(i)) for i in range(4)]
    (once,) = with_sharing(profiled(quarter), [alone, together[0]])
    (often,) = with_sharing(profiled(quarter), [alone, *together])
    assert once.sharing is not None
    assert often.sharing is not None
    assert once.sharing.mid < often.sharing.mid < 1.2
    assert often.sharing.high / often.sharing.low < once.sharing.high / once.sharing.low


def test_what_says_nothing_of_sharing_is_left_out(quarter: ServiceProfile, run: Build) -> None:
    """Without the single one, of another batch, disturbed, of another size; a backlog tells."""
    alone = run("open", 16, 10)

    def together(**more: Any) -> Measurement:
        return run("open", 64, 12, **({"replicas": 4, "role": "sharing"} | more))

    def faulty(code: FaultCode) -> Measurement:
        return together(faults=(Fault(code=code, detail=""),))

    for runs in (
        [together()],
        [alone, together(batch=100)],
        [alone, together(role="cell")],
        [alone, faulty(FaultCode.NOISY_HOST)],
    ):
        (found,) = with_sharing(profiled(quarter), runs)
        assert found.sharing is None
    (found,) = with_sharing(profiled(quarter), [alone, faulty(FaultCode.BACKLOG_GROWING)])
    assert found.sharing is not None
    other = quarter.model_copy(update={"threads": 2})
    assert with_sharing([other], [alone, together()]) == [other]


def test_it_counts_for_every_batch_size_of_the_deployment(
    quarter: ServiceProfile, run: Build
) -> None:
    """One batch size of it is measured so."""
    (base,) = profiled(quarter)
    more = base.model_copy(update={"batch": 100})
    runs = [run("open", 16, 10), run("open", 64, 12, replicas=4, role="sharing")]
    one, hundred = with_sharing([base, more], runs)
    assert one.sharing == hundred.sharing
    assert one.sharing is not None


def test_draws_cover_the_range() -> None:
    """Evenly, and in no order."""
    found = draws(Range(1.0, 1.2, 1.8), 101, np.random.default_rng(0))
    assert min(found) == 1.0
    assert max(found) == 1.8
    assert np.median(found) == pytest.approx(1.2)
    assert list(found) != sorted(found)


def test_more_than_may_be_planned_is_no_plan(quarter: ServiceProfile, demand: Build) -> None:
    """Of replicas that lose a quarter, 10,000 are too few for what 10,000 by themselves carry."""
    costly = quarter.model_copy(update={"sharing": shared(4 / 3)})
    asked = demand(rate_rps=165_000.0, limit_ms=5000.0, max_replicas=10_000)
    sizing = Sizing(Predictor(costly, 1), AS_HERE, 1, asked)
    assert sizing.carried_rps(10_000) < 165_000
    assert sizing.hopeless is not None
    assert "at 70% of capacity" in sizing.hopeless.reason


def test_runs_of_other_requests_are_not_held_against(quarter: ServiceProfile, run: Build) -> None:
    """Those of shared calls or of a mix say nothing of one request at a time."""
    alone = run("open", 16, 10)
    together = run("open", 64, 12, replicas=4, role="sharing")
    batched = alone.deployment.model_copy(update={"max_batch": 4})
    for other in (
        alone.model_copy(update={"deployment": batched}),
        alone.model_copy(
            update={
                "run": alone.run.model_copy(update={"mix": Mix(batches=(1, 2), weights=(9.0, 1.0))})
            }
        ),
    ):
        (found,) = with_sharing(profiled(quarter), [other, together])
        assert found.sharing is None
