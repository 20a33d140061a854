"""Builders of synthetic records: profiles, runs and configurations whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.grid_records import GridRecord
from loadtests.histogram import Histogram
from loadtests.records import CpuUse, Fault, FaultCode, LoadRun, Measurement, Mode, Throttling
from planner.records import Interval, ServiceProfile
from planner.simulate import simulate
from serving.records import Deployment, Grant, InstanceType, Variant

SIZES = {"sim-0.25": (0.25, "quota"), "sim-0.5": (0.5, "quota"), "sim-1": (1, "cpuset")}
RUN_S = 12.0


def _deployment(variant: str = "fast", size: str = "sim-1", replicas: int = 1) -> Deployment:
    vcpus, enforcement = SIZES[size]
    return Deployment(
        variant=Variant(
            workload="made",
            name=variant,
            runtime="onnx",
            precision="fp32",
            file=f"{variant}.onnx",
            sha256="0" * 64,
            size_bytes=1000,
            inputs=(),
            outputs=(),
        ),
        instance=InstanceType.model_validate(
            {
                "name": size,
                "vcpus": vcpus,
                "memory_gib": 2,
                "enforcement": enforcement,
                "cpu_family": "host",
            }
        ),
        threads=1,
        replicas=replicas,
    )


def _profile(
    service_ms: Sequence[float] = (10.0,), capacity_rps: float = 100.0, **changes: Any
) -> ServiceProfile:
    made = _deployment()
    values: dict[str, Any] = {
        "variant": made.variant,
        "instance": made.instance,
        "threads": 1,
        "batch": 1,
        "service": Histogram.of(np.repeat(service_ms, 100) / 1e3),
        "overhead_ms": 0.0,
        "cpu_ms": 10.0,
        "capacity_rps": capacity_rps,
        "capacity_interval": Interval(low=capacity_rps, mid=capacity_rps, high=capacity_rps),
        "ingress_cpu_ms": 0.1,
        "peak_memory_bytes": 256 << 20,
        "startup_s": 2.0,
        "measurement_ids": ("m",),
    }
    return ServiceProfile(**(values | changes))


def _run(
    deployment: Deployment,
    mode: Mode,
    rate_rps: float,
    latency_s: Sequence[float],
    service_s: Sequence[float],
    faults: Sequence[FaultCode] = (),
) -> Measurement:
    n = round(RUN_S * rate_rps)
    return Measurement(
        id=f"{mode}-{rate_rps:g}",
        sequence=0,
        started_at="2026-01-01T00:00:00Z",
        deployment=deployment,
        grant=Grant(method="cgroup-v2", cpus=(1,), quota_cpus=None, memory_bytes=None),
        inference="thread",
        run=LoadRun(
            mode=mode,
            batch=1,
            duration_s=RUN_S,
            users=4 if mode == "closed" else None,
            rate_rps=None if mode == "closed" else rate_rps,
        ),
        elapsed_s=RUN_S,
        offered=n,
        ok=n,
        due_to_done=Histogram.of(latency_s),
        sent_to_done=Histogram.of(latency_s),
        dispatch_lag=Histogram.of([1e-4] * 20),
        queue=Histogram.of([1e-7] * 20),
        service=Histogram.of(service_s),
        cpu=CpuUse(replica_s=RUN_S / 2, ingress_s=0.1, generator_s=0.1),
        throttling=Throttling(periods=0, throttled_periods=0, throttled_s=0),
        peak_memory_bytes=100 << 20,
        environment="e1",
        faults=tuple(Fault(code=code, detail="made") for code in faults),
    )


def _record(
    variant: str,
    size: str,
    replicas: int,
    service_ms: float,
    rates_rps: Sequence[float],
    *,
    seconds: float = 50.0,
    cell_seconds: float = 10.0,
) -> GridRecord:
    """A configuration of constant CPU time, its truth simulated; beyond capacity it fell behind."""
    deployment = _deployment(variant, size, replicas)
    one = deployment.model_copy(update={"replicas": 1})
    share = deployment.instance.vcpus
    service = np.array([service_ms / 1e3])
    capacity = share / service[0]
    truth = []
    for rate in rates_rps:
        fine = rate < 0.95 * replicas * capacity
        times = (
            simulate(service, np.array([1]), rate, replicas, 4000, 1, share if share < 1 else None)
            if fine
            else np.full(100, 5.0)
        )
        faults = [] if fine else [FaultCode.BACKLOG_GROWING]
        truth.append(_run(deployment, "open", rate, times.tolist(), service.tolist(), faults))
        if not fine:
            break
    cell: list[Measurement] = []
    if replicas == 1:
        steady = [float(service[0])] * 200
        cell = [
            _run(one, "paced", 20, steady, steady),
            *(_run(one, "closed", capacity, steady, steady) for _ in range(2)),
        ]
    return GridRecord(
        workload="made",
        deployment=deployment,
        batch=1,
        rates_rps=tuple(rates_rps),
        dwell_s=RUN_S,
        environment="e1",
        ladder_seconds=4.0,
        seconds=seconds,
        truth=tuple(truth),
        cell_seconds=cell_seconds if cell else 0.0,
        cell=tuple(cell),
    )


@pytest.fixture(scope="session")
def profile() -> Callable[..., ServiceProfile]:
    """Factory of profiles; by default 10 ms of constant service."""
    return _profile


@pytest.fixture(scope="session")
def record() -> Callable[..., GridRecord]:
    """Factory of the records of one configuration."""
    return _record
