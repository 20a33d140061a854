"""Mixed batch sizes: held against a queue that is simulated request by request."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.arrivals import Mix
from loadtests.histogram import Histogram
from loadtests.objective import Slo
from planner.batch_choice import OF_A_MIX
from planner.curve import predictor
from planner.mixture import mixed, mixed_profiles
from planner.prices import PriceList
from planner.recommend import recommend
from planner.records import Bottleneck, MeasuredPoint, ServiceProfile

Build = Callable[..., Any]

SHARES = {1: 0.7, 100: 0.3}
MIX = Mix(batches=(1, 100), weights=(0.7, 0.3))
HIDDEN_S, BEYOND_S = {1: 1e-3, 100: 2e-3}, 0.5e-3


@pytest.fixture(scope="module")
def parts(profile: Build) -> dict[int, ServiceProfile]:
    """Single rows of 2 to 3 ms and batches of 18 to 30 ms, with HTTP work beside them."""

    def part(batch: int, low_ms: float, high_ms: float) -> ServiceProfile:
        times = np.linspace(low_ms, high_ms, 400) / 1e3
        capacity = 1 / (times.mean() + HIDDEN_S[batch])
        made: ServiceProfile = profile(
            capacity_rps=capacity,
            batch=batch,
            service=Histogram.of(times),
            overhead_ms=1e3 * (HIDDEN_S[batch] + BEYOND_S),
            cpu_ms=1e3 / capacity,
            peak_memory_bytes=batch << 20,
        )
        return made

    return {1: part(1, 2, 3), 100: part(100, 18, 30)}


def queue(rate: float, replicas: int, n: int, seed: int, waking_s: float = 0) -> np.ndarray:
    """Latencies in ms, one request after the other: drawn, routed, served. Nothing is shared.

    Each takes its own batch's time, its own HTTP work, ``waking_s`` where it finds its replica
    idle, and what the way adds; the router picks a replica with the fewest requests under way,
    the one unused for longest of equals.
    """
    rng = np.random.default_rng(seed)
    now = 0.0
    under_way: list[list[float]] = [[] for _ in range(replicas)]
    free, used = [0.0] * replicas, list(range(-replicas, 0))
    found = np.empty(n)
    for i in range(n):
        now += rng.exponential(1 / rate)
        for ends in under_way:
            while ends and ends[0] <= now:
                heapq.heappop(ends)
        at = min(range(replicas), key=lambda k: (len(under_way[k]), used[k]))
        used[at] = i
        batch = 1 if rng.random() < SHARES[1] else 100
        low, high = (2, 3) if batch == 1 else (18, 30)
        done = max(now, free[at]) + rng.uniform(low, high) / 1e3 + HIDDEN_S[batch]
        done += waking_s if free[at] <= now else 0
        free[at] = done
        heapq.heappush(under_way[at], done)
        found[i] = 1e3 * (done - now + BEYOND_S)
    return found[n // 20 :]


@pytest.mark.parametrize(("replicas", "utilisation"), [(1, 0.3), (1, 0.65), (3, 0.5), (3, 0.75)])
def test_latencies_are_those_of_an_independent_simulation(
    parts: dict[int, ServiceProfile], replicas: int, utilisation: float
) -> None:
    """Over all requests, small ones that wait behind large ones included.

    At utilisations that are simulated, not interpolated, and by the share of requests below a
    predicted quantile: between the two sizes there is hardly any latency, so a median in that
    gap may lie anywhere.
    """
    made = mixed(MIX, parts, 0)
    rate = utilisation * replicas * made.capacity_rps
    truth = queue(rate, replicas, 120_000, 5)
    for quantile, off in ((0.5, 0.03), (0.95, 0.012), (0.99, 0.006)):
        low, mid, high = predictor(made, 0).latency(replicas, rate, quantile)
        assert np.mean(truth <= mid) == pytest.approx(quantile, abs=off)
        assert np.mean(truth <= low) - off / 2 < quantile < np.mean(truth <= high) + off / 2


@pytest.mark.parametrize("utilisation", [0.1, 0.5, 0.75])
def test_waking_an_idle_replica_is_in_it(
    parts: dict[int, ServiceProfile], utilisation: float
) -> None:
    """Two milliseconds of CPU more for whoever finds it asleep, whatever the batch."""
    waking_s = 2e-3
    woken = {
        batch: p.model_copy(
            update={
                "saturated_rps": p.capacity_rps,
                "first_cpu_ms": 1e3 * (p.service.mean_s() + HIDDEN_S[batch] + waking_s),
                "beyond": Histogram.of([HIDDEN_S[batch] + waking_s + BEYOND_S] * 100),
            }
        )
        for batch, p in parts.items()
    }
    made = mixed(MIX, woken, 0)
    rate = utilisation * made.capacity_rps
    truth = queue(rate, 1, 120_000, 5, waking_s)
    for quantile, off in ((0.5, 0.03), (0.95, 0.012), (0.99, 0.006)):
        low, mid, high = predictor(made, 0).latency(1, rate, quantile)
        assert np.mean(truth <= mid) == pytest.approx(quantile, abs=off)
        assert np.mean(truth <= low) - off / 2 < quantile < np.mean(truth <= high) + off / 2


def test_capacity_follows_from_the_mean_occupancy(parts: dict[int, ServiceProfile]) -> None:
    """1 / X = sum of w / X; memory is that of the largest; CPU is the mean."""
    made = mixed(MIX, parts, 0)
    small, large = parts[1], parts[100]
    assert 1 / made.capacity_rps == pytest.approx(
        0.7 / small.capacity_rps + 0.3 / large.capacity_rps
    )
    assert made.service.mean_s() == pytest.approx(1 / made.capacity_rps, rel=0.01)
    assert made.capacity_interval.low == pytest.approx(0.95 * made.capacity_rps)
    assert made.cpu_ms == pytest.approx(0.7 * small.cpu_ms + 0.3 * large.cpu_ms)
    assert (made.batch, made.peak_memory_bytes) == (100, large.peak_memory_bytes)
    assert made.service.count == pytest.approx(400 / 0.7, abs=1)  # no part more often than seen


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.05, 0.95), more=st.floats(0.01, 0.9))
def test_more_of_the_large_ones_is_never_faster(
    parts: dict[int, ServiceProfile], share: float, more: float
) -> None:
    """A mix lies between its parts, and nearer to the one that it has more of."""
    heavier = share + more * (1 - share)
    light, heavy = (
        mixed(Mix(batches=(1, 100), weights=(1 - s, s)), parts, 0) for s in (share, heavier)
    )
    assert parts[100].capacity_rps < heavy.capacity_rps < light.capacity_rps
    assert light.capacity_rps < parts[1].capacity_rps
    assert heavy.service.mean_s() >= light.service.mean_s() * (1 - 1e-2)


def test_weights_are_relative_and_their_order_is_free(parts: dict[int, ServiceProfile]) -> None:
    """7 to 3 is 0.7 to 0.3, whichever is named first."""
    one = mixed(MIX, parts, 0)
    other = mixed(Mix(batches=(100, 1), weights=(3, 7)), parts, 0)
    assert other.service.quantiles_s((0.3, 0.5, 0.9, 0.99)) == one.service.quantiles_s(
        (0.3, 0.5, 0.9, 0.99)
    )
    assert other.capacity_rps == pytest.approx(one.capacity_rps)


@pytest.mark.usefixtures("no_own_error")
@pytest.mark.parametrize("batch", [1, 100])
def test_what_runs_exceeded_their_prediction_by_is_carried(
    parts: dict[int, ServiceProfile], batch: int
) -> None:
    """The worst of the parts, at the utilisation that it was seen at; never called measured."""
    part = parts[batch]
    p50, p95, p99 = (predictor(part, 0).latency(1, 0.5 * part.capacity_rps, q).high for q in QS)
    point = MeasuredPoint(
        rate_rps=0.5 * part.capacity_rps,
        utilisation=0.5,
        p50_ms=p50 + 1,
        p95_ms=p95 + 4,
        p99_ms=p99 + 9,
        n=1000,
    )
    slower = {**parts, batch: part.model_copy(update={"measured_points": (point,)})}
    plain, made = mixed(MIX, parts, 0), mixed(MIX, slower, 0)
    rate = 0.5 * made.capacity_rps
    for quantile, over in zip(QS, (1, 4, 9), strict=True):
        before = predictor(plain, 0).latency(1, rate, quantile)
        after = predictor(made, 0).latency(1, rate, quantile)
        assert after.high - before.high == pytest.approx(over, abs=0.05)


QS = (0.5, 0.95, 0.99)


def ask(profiles: Sequence[ServiceProfile], demand: Any, instance: Build) -> Any:
    """A recommendation for a mix over one size here."""
    sizes = {"sim-1": instance("sim-1")}
    variants = list({p.variant.name: p.variant for p in profiles}.values())
    rests_on, lacks = mixed_profiles(demand, profiles, [], sizes, 0)
    return recommend(demand, rests_on, lacks, variants, sizes, *PriceList((), ()), 0)


def test_a_mix_is_planned_over_all_its_requests(
    parts: dict[int, ServiceProfile], demand: Build, instance: Build
) -> None:
    """More replicas than single rows alone need, fewer than batches alone; rows by their mean."""
    asked = demand(60, 120, batch=100, batch_range=(1, 100), mix=MIX)
    best = ask(list(parts.values()), asked, instance).best
    assert best.rows_per_s == pytest.approx(60 * (0.7 + 30))
    assert best.latency_basis == "predicted"
    single, all_large = (
        ask(list(parts.values()), demand(60, 120, batch=b, batch_range=(b, b)), instance).best
        for b in (1, 100)
    )
    assert single.replicas <= best.replicas <= all_large.replicas
    tight = asked.model_copy(update={"more_slos": (Slo(quantile=0.5, limit_ms=7),)})
    assert ask(list(parts.values()), tight, instance).best.p50_ms.high <= 7


def test_shared_calls_are_refused_where_they_would_be_tried(
    parts: dict[int, ServiceProfile], demand: Build, instance: Build, variant: Build
) -> None:
    """Where fewer replicas could do, or nothing holds; not where one does, nor where one is late.

    Nor for a variant whose answers depend on the company, nor for one size alone.
    """
    whole = {"batch": 100, "batch_range": (1, 100), "mix": MIX}

    def refused(asked: Any, **changes: Any) -> list[Any]:
        profiles = [p.model_copy(update=changes) for p in parts.values()]
        found = ask(profiles, asked, instance).rejections
        return [r for r in found if r.candidate.max_batch > 1]

    (one,) = refused(demand(150, 120, **whole))
    assert one.reason == OF_A_MIX
    assert one.bottleneck is Bottleneck.UNMEASURED
    assert len(refused(demand(1500, 120, max_replicas=2, **whole))) == 1
    assert refused(demand(10, 120, **whole)) == []
    assert refused(demand(150, 5, **whole)) == []
    company = variant("onnx_int8", method="int8 dynamic")
    assert refused(demand(150, 120, **whole), variant=company) == []
    assert refused(demand(150, 120)) == []


def test_a_batch_that_lacks_is_refused_with_its_command(
    parts: dict[int, ServiceProfile], demand: Build, instance: Build
) -> None:
    """Nothing is made up for it, and the reason says what to measure."""
    asked = demand(60, 120, batch=100, batch_range=(1, 100), mix=MIX)
    (rejection,) = ask([parts[100]], asked, instance).rejections
    assert rejection.bottleneck is Bottleneck.UNMEASURED
    assert rejection.reason.startswith("not measured at batch 1, which the mix has; measure this: ")
    assert "--variant onnx_fp32 --instance sim-1 --threads 1 --batch 1`" in rejection.reason


def test_contradictions_of_a_mix_are_refused(demand: Build) -> None:
    """Each batch once, and the largest is the demand's."""
    with pytest.raises(ValueError, match=r"batch = 1 is not the largest of the mix, 100"):
        demand(mix=MIX)
    with pytest.raises(ValueError, match="names each batch size once"):
        demand(batch=8, mix=Mix(batches=(8, 8), weights=(1, 1)))
