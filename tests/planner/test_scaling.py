"""Sizes never measured: the laws, their intervals, what is refused, and how plans use them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.histogram import Histogram
from planner import scaling
from planner.curve import predictor
from planner.prices import Price
from planner.recommend import best_on_host, recommend
from planner.records import (
    Bottleneck,
    CpuFactor,
    Interval,
    Plan,
    PredictedProfile,
    Recommendation,
    ServiceProfile,
)
from planner.scaling import LAWS, Fit, left_out_error, predict_sizes
from serving.records import InstanceType

Build = Callable[..., Any]

AMDAHL, POWER = LAWS["cpuset", "occupancy"], LAWS["quota", "occupancy"]


def amdahl(serial: float, x: float) -> float:
    return serial + (1 - serial) / x


@pytest.fixture(scope="module")
def catalogue(instance: Build) -> Mapping[str, InstanceType]:
    """Whole CPUs up to eight, shares of one, and two shapes that could be bought."""
    cloud = {"cpu_family": "cloud", "memory_gib": 32}
    sizes = [
        *(instance(f"sim-{q:g}", vcpus=q, enforcement="quota") for q in (0.125, 0.25, 0.5)),
        *(instance(f"sim-{n}", vcpus=n, enforcement="cpuset") for n in (1, 2, 3, 4, 8)),
        instance("vm-8", vcpus=8, **cloud),
        instance("task-1", vcpus=1, enforcement="quota", **cloud),
    ]
    return {size.name: size for size in sizes}


@pytest.fixture(scope="module")
def measured(
    profile: Build, catalogue: Mapping[str, InstanceType]
) -> Callable[..., list[ServiceProfile]]:
    """Profiles whose times follow a given law exactly: occupancy is the service time."""

    def make(
        time_ms: Callable[[float], float], *sizes: str, **changes: Any
    ) -> list[ServiceProfile]:
        found = []
        for name in sizes:
            size = catalogue[name]
            ms, share = time_ms(size.vcpus), min(1.0, size.vcpus)
            # Under a quota the occupancy is the CPU time over the share; paced calls are short.
            service = ms * (share if size.enforcement == "quota" else 1.0)
            values: dict[str, Any] = {
                "instance": size,
                "threads": max(1, int(size.vcpus)),
                "capacity_interval": _around(1e3 / ms),
            }
            times = (0.9 * service, service, 1.1 * service)
            found.append(profile(times, 1e3 / ms, **(values | changes)))
        return found

    return make


def _around(rps: float) -> Interval:
    return Interval(low=0.95 * rps, mid=rps, high=1.05 * rps)


@pytest.mark.parametrize("serial", [0.02, 0.1, 0.3, 0.7])
def test_amdahls_law_is_recovered(serial: float) -> None:
    """From three sizes that follow it exactly, the fourth to a few percent."""
    fit = Fit(AMDAHL, [1, 2, 4], [10 * amdahl(serial, x) for x in (1, 2, 4)])
    assert fit.parameter == pytest.approx(serial, abs=0.03)
    assert fit.time(8) == pytest.approx(10 * amdahl(serial, 8), rel=0.07)


@pytest.mark.parametrize("exponent", [0.95, 1.05, 1.2])
def test_the_law_of_shares_is_recovered(exponent: float) -> None:
    """From shares of a CPU to a whole one, but for what the prior pulls."""
    fit = Fit(POWER, [0.125, 0.25, 0.5], [x**-exponent for x in (0.125, 0.25, 0.5)])
    assert fit.parameter == pytest.approx(exponent, abs=0.03)
    assert fit.time(1) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("sizes", [(1, 2), (1, 2, 4)])
@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_intervals_cover_the_truth_under_noise(sizes: tuple[int, ...], noise: float) -> None:
    """Serial shares drawn from all that is plausible; 90 % intervals hold at least 85 %."""
    rng = np.random.default_rng(5)
    inside = 0
    trials = 400
    for _ in range(trials):
        serial = rng.uniform(0, 0.6)
        times = [amdahl(serial, x) * math.exp(rng.normal(0, noise)) for x in sizes]
        new = 2 * sizes[-1]
        truth = amdahl(serial, new) * math.exp(rng.normal(0, noise))
        found = Fit(AMDAHL, sizes, times).interval(new)
        inside += found.low <= truth <= found.high
    assert inside >= 0.85 * trials


def test_intervals_of_shares_cover_the_truth_under_noise() -> None:
    """The same for quotas, whose law has another parameter."""
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(400):
        exponent = rng.uniform(0.95, 1.25)
        times = [x**-exponent * math.exp(rng.normal(0, 0.05)) for x in (0.25, 0.5)]
        truth = math.exp(rng.normal(0, 0.05))
        found = Fit(POWER, (0.25, 0.5), times).interval(1)
        inside += found.low <= truth <= found.high
    assert inside >= 340


def test_an_interval_is_no_wider_than_it_has_to_be() -> None:
    """Twice the largest of two sizes: within a factor of 1.6 either way."""
    found = Fit(AMDAHL, [1, 2], [1, amdahl(0.1, 2)]).interval(4)
    assert found.high / found.mid < 1.6
    assert found.mid / found.low < 1.6


def test_the_left_out_error_is_that_of_the_prior_by_hand() -> None:
    """Of two sizes each is predicted by the other and the prior's mode, 1.05."""
    truth = 1.15
    times = [0.25**-truth, 0.5**-truth]
    # Predicting 0.5 from 0.25 by 2^-1.05 is 2^0.1 too slow, and the other way too fast.
    slow, fast = 2**0.1 - 1, 1 - 2**-0.1
    assert left_out_error(POWER, [0.25, 0.5], times) == pytest.approx(max(slow, fast), rel=0.02)


def test_the_left_out_error_of_an_exact_law_is_small() -> None:
    """Three sizes of one law predict each other."""
    times = [amdahl(0.1, x) for x in (1, 2, 4)]
    assert left_out_error(AMDAHL, [1, 2, 4], times) < 0.2
    off = [times[0], times[1], 3 * times[2]]
    assert left_out_error(AMDAHL, [1, 2, 4], off) > 0.5


times_of_two = st.tuples(st.floats(0.2, 1.2), st.floats(0.2, 1.2))


@settings(max_examples=80, deadline=None)
@given(ratios=times_of_two, law=st.sampled_from(sorted(LAWS)))
def test_a_larger_size_is_never_predicted_slower_nor_more_certain(
    ratios: tuple[float, float], law: Any
) -> None:
    """Whatever was measured: times fall, and intervals widen, away from the largest size."""
    sizes = [0.125, 0.25, 0.5] if law[0] == "quota" else [1.0, 2.0, 4.0]
    fit = Fit(LAWS[law], sizes, [1, ratios[0], ratios[0] * ratios[1]])
    further = np.linspace(sizes[-1], 2 * sizes[-1], 9)
    times = [fit.time(x) for x in further]
    widths = [math.log(i.high / i.low) for i in map(fit.interval, further)]
    assert all(a >= b for a, b in itertools.pairwise(times))
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(widths))
    assert widths[-1] > widths[0]


def test_sizes_are_predicted_up_to_twice_the_largest(
    measured: Build, catalogue: Mapping[str, InstanceType]
) -> None:
    """Between and above the measured ones, under the same enforcement, and no further."""
    whole = measured(lambda x: 20 * amdahl(0.1, x), "sim-1", "sim-2")
    assert [p.instance.label for p in predict_sizes(whole, catalogue)] == [
        "sim-3 (cpuset)",
        "sim-4 (cpuset)",
    ]
    shares = measured(lambda x: 20 / x, "sim-0.125", "sim-0.5")
    # A container of a cloud puts a quota on a whole CPU; nothing buys two under one.
    assert [p.instance.label for p in predict_sizes(shares, catalogue)] == [
        "sim-0.25 (quota)",
        "sim-1 (quota)",
    ]


def test_laws_are_not_mixed_and_need_two_sizes(
    measured: Build, catalogue: Mapping[str, InstanceType], variant: Build
) -> None:
    """One size, two enforcements, two batches, two variants or idle vCPUs make no law."""
    one, other = measured(lambda x: 20 / x, "sim-0.5", "sim-1")
    assert predict_sizes([one, other], catalogue) == []
    pair = measured(lambda x: 20 / x, "sim-1", "sim-2")
    for changed in ({"batch": 7}, {"variant": variant("int8")}, {"threads": 1}):
        apart = [pair[0], pair[1].model_copy(update=changed)]
        assert predict_sizes(apart, catalogue) == []


def test_a_predicted_profile_can_be_simulated(
    measured: Build, catalogue: Mapping[str, InstanceType]
) -> None:
    """The histogram keeps its shape, four vCPUs halve the times of two, and all is uncertain."""
    known = measured(lambda x: 20 / x, "sim-1", "sim-2")
    four = next(p for p in predict_sizes(known, catalogue) if p.instance.name == "sim-4")
    assert four.threads == 4
    assert four.nearest == known[1]
    assert four.service.mean_s() == pytest.approx(known[1].service.mean_s() / 2, rel=0.1)
    assert four.capacity_rps == pytest.approx(2 * known[1].capacity_rps, rel=0.1)
    here, there = (predictor(p, 0).latency(1, 0.5 * p.capacity_rps, 0.99) for p in (known[1], four))
    assert there.mid == pytest.approx(here.mid / 2, rel=0.2)
    assert there.high / there.low > 1.5 * here.high / here.low
    assert there.low < there.mid < there.high


def test_what_the_queue_did_not_explain_is_not_lost(
    measured: Build, catalogue: Mapping[str, InstanceType]
) -> None:
    """Measured points of the nearest size lift the prediction of the larger one by as many ms."""
    point = {"rate_rps": 50.0, "utilisation": 0.5, "p50_ms": 30.0, "p95_ms": 90.0, "p99_ms": 200.0}
    known = measured(lambda x: 20 / x, "sim-1", "sim-2", measured_points=({**point, "n": 900},))
    quiet = measured(lambda x: 20 / x, "sim-1", "sim-2")
    noisy, calm = (
        next(p for p in predict_sizes(ps, catalogue) if p.instance.name == "sim-4")
        for ps in (known, quiet)
    )
    at = 0.5 * noisy.capacity_rps
    lifted = (
        predictor(noisy, 0).latency(1, at, 0.99).high - predictor(calm, 0).latency(1, at, 0.99).high
    )
    below = predictor(known[1], 0).latency(1, at / 2, 0.99)
    plain = predictor(quiet[1], 0).latency(1, at / 2, 0.99)
    assert lifted == pytest.approx(below.high - plain.high, rel=0.1)
    assert lifted > 100


FACTORS = [CpuFactor(target_family="cloud", low=0.9, mid=1.0, high=1.1, basis="assumed")]
PRICES = [
    Price(
        instance=name,
        usd_per_hour=usd,
        region="x",
        as_of="2025-01-15",
        source="list",
        cpu_family="cloud",
    )
    for name, usd in (("vm-8", 0.4), ("task-1", 0.03))
]


@pytest.fixture(scope="module")
def ask(
    measured: Build, catalogue: Mapping[str, InstanceType], demand: Build
) -> Callable[..., Recommendation]:
    """A recommendation from whole CPUs measured up to two."""
    known = measured(lambda x: 40 * amdahl(0.05, x), "sim-1", "sim-2")

    def answer(rate: float, limit: float, **changes: Any) -> Recommendation:
        variants = [known[0].variant]
        wanted = demand(rate, limit, **changes)
        return recommend(wanted, known, [], variants, catalogue, PRICES, FACTORS, 0)

    return answer


def plans_of(answer: Recommendation) -> list[Plan]:
    return [p for p in (answer.best, *answer.alternatives) if p]


def test_measured_sizes_come_first_at_equal_cost(ask: Build) -> None:
    """One scales out before one guesses: on one vm-8 replicas of a measured size are best."""
    answer = ask(40, 1000)
    assert answer.best is not None
    assert answer.best.predicted_size == ""
    predicted = [p for p in plans_of(answer) if p.predicted_size]
    assert predicted
    for plan in predicted:
        assert plan.latency_basis == "predicted"
        assert "from sim-1 (cpuset), sim-2 (cpuset)" in plan.predicted_size
        assert "missed by at most" in plan.predicted_size
    host = best_on_host(answer)
    assert host is not None
    assert host.predicted_size == ""


@pytest.mark.usefixtures("no_own_error")
def test_a_limit_that_only_a_larger_size_meets_takes_it(ask: Build) -> None:
    """40 ms on one vCPU, 21 on two: 18 ms need four, whose interval stays below."""
    answer = ask(1, 18)
    assert {p.candidate.size for p in plans_of(answer)} == {"sim-4"}
    assert all(p.predicted_size for p in plans_of(answer))
    assert best_on_host(answer) is None


def test_an_interval_across_the_limit_says_what_to_measure(ask: Build) -> None:
    """Four vCPUs may hold 12 ms, or not: refused, with the command that tells."""
    answer = ask(1, 12)
    assert answer.best is None
    unsure = [r for r in answer.rejections if r.candidate.size == "sim-4"]
    assert {r.bottleneck for r in unsure} == {Bottleneck.UNMEASURED}
    assert all(
        "measure this: `tonnage measure RUN --variant onnx_fp32 --instance sim-4 --threads 4 "
        "--batch 1`" in r.reason
        for r in unsure
    )


def test_a_limit_beyond_the_interval_is_a_plain_rejection(ask: Build) -> None:
    """What even the best end of the interval misses needs no measurement."""
    answer = ask(1, 2)
    reasons = [r for r in answer.rejections if r.candidate.size == "sim-4"]
    assert {r.bottleneck for r in reasons} == {Bottleneck.LATENCY}
    assert not [r for r in reasons if "measure this" in r.reason]


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(1, 300), more=st.floats(1, 4), limit=st.floats(8, 400))
def test_more_demand_is_never_cheaper_with_predicted_sizes(
    ask: Build, rate: float, more: float, limit: float
) -> None:
    """The law of measured sizes holds for predicted ones."""
    less, much = (ask(r, limit) for r in (rate, rate * more))
    costs = [
        a.best.usd_per_month if a.best and a.best.usd_per_month else math.inf for a in (less, much)
    ]
    assert costs[0] <= costs[1]


def test_a_predicted_profile_survives_its_json(
    measured: Build, catalogue: Mapping[str, InstanceType]
) -> None:
    """Written and read again it is the same, and has the same hash."""
    known = measured(lambda x: 20 / x, "sim-1", "sim-2")
    first = predict_sizes(known, catalogue)[0]
    again = PredictedProfile.model_validate_json(first.model_dump_json())
    assert again == first
    assert again.content_hash() == first.content_hash()


def test_scaled_histograms_keep_their_quantiles() -> None:
    """Thinned or not, every quantile is multiplied."""
    rng = np.random.default_rng(0)
    whole = Histogram.of(rng.gamma(4, 0.005, 5000))
    scaled = scaling._scaled(whole, 0.5)
    assert scaled.count == 1000
    for q in (0.1, 0.5, 0.95):
        assert scaled.quantile_s(q) == pytest.approx(0.5 * whole.quantile_s(q), rel=0.03)
