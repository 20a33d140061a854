"""Every fault is found when planted, and a clean run has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from loadtests.histogram import Histogram
from loadtests.judge import endpoint_faults, faults_of, not_enforced
from loadtests.monitor import Window
from loadtests.records import FaultCode, LoadRun
from loadtests.samples import Samples
from loadtests.steady import Steady
from loadtests.summary import LoadResult
from serving.records import Deployment, Grant, InstanceType, Variant

from .windows import QUIET

OPEN = LoadRun(mode="open", batch=1, duration_s=2, rate_rps=100)
CLOSED = LoadRun(mode="closed", batch=1, duration_s=2, users=4)
GRANT = Grant(method="cgroup-v1", cpus=(1,), quota_cpus=None, memory_bytes=1 << 30)
SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")
HALF = InstanceType(name="sim-0.5", vcpus=0.5, memory_gib=1, enforcement="quota", cpu_family="host")

RESULT = LoadResult(
    scheduled=200,
    workers=1,
    offered=200,
    ok=200,
    unsent=0,
    waited=0,
    connections=20_000,
    lost=0,
    errors={},
    other_cell=0,
    checked=50,
    wrong=0,
    inference="inline",
    elapsed_s=2.0,
    backlog_growth=0.1,
    silence_s=0.02,
    silence_p99_s=0.01,
    read_lag_p99_s=None,
    usual_s=0.004,
    backwards=0,
    generator_cpu_s=0.5,
    busiest_worker=0.25,
    run_delay_s=0.01,
    lost_workers=(),
    stopped_workers=(),
    steady=Steady(index=0, steady=True, reason="no warm-up found"),
    steady_from_s=0.0,
    due_to_done=Histogram.of([0.010] * 200),
    sent_to_done=Histogram.of([0.010] * 200),
    dispatch_lag=Histogram.of([0.0001] * 200),
    queue=Histogram.of([0.0] * 200),
    service=Histogram.of([0.004] * 200),
    samples=Samples.empty(),
)


@pytest.fixture
def deployment(make_stub: Callable[..., Variant]) -> Deployment:
    return Deployment(variant=make_stub(), instance=SIZE, threads=1)


def codes(deployment: Deployment, run: LoadRun, result: LoadResult, window: Window) -> set[str]:
    return {fault.code for fault in faults_of(run, deployment, GRANT, result, window)}


@pytest.mark.parametrize("run", [OPEN, CLOSED], ids=["open", "closed"])
def test_a_clean_run_is_valid(deployment: Deployment, run: LoadRun) -> None:
    """Nothing is held against a run in which nothing went wrong."""
    assert codes(deployment, run, RESULT, QUIET) == set()


def test_the_generator_is_judged_on_any_server() -> None:
    """Against somebody else's server, what the generator sees is held against it, too."""
    assert endpoint_faults(OPEN, RESULT) == ()
    for change, code in (
        ({"busiest_worker": 0.95}, FaultCode.GENERATOR_AT_LIMIT),
        (
            {"run_delay_s": 0.3, "scheduled": 2000, "offered": 2000, "ok": 2000},
            FaultCode.GENERATOR_AT_LIMIT,
        ),
        (
            {"run_delay_s": 0.1, "scheduled": 25, "offered": 25, "ok": 25},
            FaultCode.GENERATOR_AT_LIMIT,
        ),
        ({"lost_workers": (0,)}, FaultCode.WORKER_LOST),
        ({"silence_s": 1.0}, FaultCode.STALLED),
        ({"scheduled": 201}, FaultCode.GENERATOR_AT_LIMIT),
    ):
        found = endpoint_faults(OPEN, replace(RESULT, **change))
        assert [fault.code for fault in found] == [code]


PLANTED: dict[str, tuple[LoadRun, dict[str, Any], dict[str, Any]]] = {
    FaultCode.TOO_FEW_SAMPLES: (CLOSED, {"ok": 3}, {}),
    FaultCode.ERRORS: (OPEN, {"errors": {"http_503": 1}, "ok": 199}, {}),
    FaultCode.WRONG_ANSWERS: (OPEN, {"wrong": 1}, {}),
    FaultCode.WRONG_CELL: (OPEN, {"other_cell": 1, "ok": 199}, {}),
    FaultCode.GENERATOR_AT_LIMIT: (CLOSED, {}, {"platform_busy": 0.99}),
    FaultCode.WORKER_LOST: (OPEN, {"stopped_workers": (0,)}, {}),
    FaultCode.STALLED: (OPEN, {"silence_s": 1.0}, {}),
    FaultCode.CLOCK: (OPEN, {"backwards": 1}, {}),
    FaultCode.DISPATCH_LAG: (OPEN, {"dispatch_lag": Histogram.of([0.005] * 200)}, {}),
    FaultCode.RATE_NOT_MET: (OPEN, {"ok": 190}, {}),
    FaultCode.BACKLOG_GROWING: (OPEN, {"backlog_growth": 20.0}, {}),
    FaultCode.OVER_GRANT: (CLOSED, {}, {"replica_s": 2.5}),
    FaultCode.THROTTLED: (CLOSED, {}, {"throttled_periods": 1}),
    FaultCode.REPLICA_CHANGED: (CLOSED, {}, {"replica_changed": True}),
    FaultCode.FALLBACK_PROXY: (CLOSED, {}, {"fallback_sessions": 1}),
    FaultCode.CORES_SHARED: (CLOSED, {}, {"others_on_replica_cores": 0.05}),
    FaultCode.NOISY_HOST: (CLOSED, {}, {"steal": 0.02}),
    FaultCode.NOT_ENFORCED: (CLOSED, {}, {"thread_shares": ((0.5, 0.4),)}),
}


@pytest.mark.parametrize("code", PLANTED)
def test_each_planted_fault_is_found(deployment: Deployment, code: str) -> None:
    """One thing goes wrong; exactly that is named."""
    run, result, window = PLANTED[code]
    found = codes(deployment, run, replace(RESULT, **result), replace(QUIET, **window))
    assert found == {code}


@pytest.mark.parametrize("short", [{"waited": 4}, {"unsent": 1, "waited": 1}])
def test_a_generator_out_of_connections_is_no_overload(short: dict[str, int]) -> None:
    """However far behind the server then looks, it is the generator that is said to be full."""
    behind = replace(RESULT, backlog_growth=90.0, ok=100, **short)
    faults = endpoint_faults(OPEN, behind)
    assert [fault.code for fault in faults] == [FaultCode.GENERATOR_AT_LIMIT]
    assert "a load worker may open 20,000" in faults[0].detail


def test_a_fraction_of_a_cpu_needs_control_groups(make_stub: Callable[..., Variant]) -> None:
    """Affinity cannot grant half a CPU: such a cell is refused, a whole CPU is not."""
    affinity = Grant(method="affinity", cpus=(1,), quota_cpus=None, memory_bytes=None)
    half = Deployment(variant=make_stub(), instance=HALF, threads=1)
    whole = Deployment(variant=make_stub(), instance=SIZE, threads=1)
    fault = not_enforced(half, affinity)
    assert fault is not None
    assert fault.code == FaultCode.NOT_ENFORCED
    assert not_enforced(whole, affinity) is None


FOUND_OTHERWISE: dict[str, tuple[FaultCode, dict[str, Any]]] = {
    "slewed": (FaultCode.CLOCK, {"clock_slew_ppm": -600.0}),
    "suspended": (FaultCode.CLOCK, {"suspended_s": 0.5}),
    "strangers": (FaultCode.NOISY_HOST, {"others_on_platform_cores": 0.3}),
    "audit": (FaultCode.NOT_ENFORCED, {"violations": ("a thread is elsewhere",)}),
    "container": (FaultCode.THROTTLED, {"container_throttled_periods": 1}),
}


@pytest.mark.parametrize("case", FOUND_OTHERWISE)
def test_other_ways_to_the_same_faults(deployment: Deployment, case: str) -> None:
    """A clock, a neighbour, an audit or a quota around everything can go wrong in several ways."""
    code, window = FOUND_OTHERWISE[case]
    assert codes(deployment, OPEN, RESULT, replace(QUIET, **window)) == {code}


def test_ticks_are_allowed_for(deployment: Deployment) -> None:
    """2 % of the cores, and two ticks of 10 ms of 2.1 s."""
    for others, fine in ((0.029, True), (0.03, False)):
        window = replace(QUIET, others_on_replica_cores=others)
        found = codes(deployment, OPEN, RESULT, window)
        assert found == (set() if fine else {FaultCode.CORES_SHARED})


def test_lag_is_a_small_part_of_the_latency() -> None:
    """Of a p99 of 100 ms the generator may be 5 ms, not the 20 that a fifth would be."""
    slow = replace(RESULT, due_to_done=Histogram.of([0.1] * 200))
    for lag_s, fine in ((0.0045, True), (0.006, False)):
        late = replace(slow, dispatch_lag=Histogram.of([lag_s] * 200))
        found = [fault.code for fault in endpoint_faults(OPEN, late)]
        assert found == ([] if fine else [FaultCode.DISPATCH_LAG])


def test_as_many_busy_threads_as_declared_are_fine(deployment: Deployment) -> None:
    """Two threads of a deployment with two; a housekeeping thread does not count."""
    two = deployment.model_copy(update={"threads": 2})
    window = replace(QUIET, thread_shares=((0.45, 0.4, 0.05),))
    assert codes(two, CLOSED, RESULT, window) == set()
    window = replace(QUIET, thread_shares=((0.35, 0.33, 0.3),))
    assert codes(two, CLOSED, RESULT, window) == {FaultCode.NOT_ENFORCED}


CONTAINER_RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "Ray alone": ({}, {"others_on_replica_cores": 0.09}, None),
    "filled by the replica": ({}, {"platform_busy": 1.0, "container_throttled_periods": 3}, None),
    "heavy generator": ({"generator_cpu_s": 1.0}, {}, "generator and ingress used 7.3% of the"),
    "heavy ingress": (
        {},
        {"ingress_s": 1.2},
        "generator and ingress used 11.3% of the container's",
    ),
    "a stranger inside": ({}, {"others_on_platform_cores": 0.05}, "other programs used 5.0%"),
    "a heavy Ray": ({}, {"others_on_replica_cores": 0.2}, "Ray, ingress and generator used 20.0%"),
    "neighbours outside": ({}, {"waited": 0.3}, "the model waited for a CPU in 30% of the time"),
    "out of quota": ({}, {"waited": 0.3, "container_throttled_periods": 9}, None),
}


@pytest.mark.parametrize("case", CONTAINER_RUNS)
def test_a_container_is_shared_with_us(deployment: Deployment, case: str) -> None:
    """Generator and ingress may take a little of it, Ray some; strangers hardly anything."""
    whole = Grant(method="container", cpus=(0, 1), quota_cpus=1.5, memory_bytes=1 << 30)
    result, window, said = CONTAINER_RUNS[case]
    seen = replace(QUIET, **{"wall_s": 10.0, **window})
    faults = faults_of(CLOSED, deployment, whole, replace(RESULT, **result), seen)
    assert [fault.detail[: len(said or "")] for fault in faults] == ([said] if said else [])
