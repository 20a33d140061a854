"""Builders of synthetic records: measurements and profiles with known service times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loadtests.histogram import Histogram
from loadtests.records import CpuUse, LoadRun, Measurement, Throttling
from planner.records import Candidate, Demand, Interval, Plan, ServiceProfile
from serving.records import Deployment, Grant, InstanceType, Variant


def _variant(name: str = "onnx_fp32", **changes: Any) -> Variant:
    values: dict[str, Any] = {
        "workload": "credit",
        "name": name,
        "runtime": "onnx",
        "precision": "fp32",
        "file": f"{name}.onnx",
        "sha256": "0" * 64,
        "size_bytes": 1000,
        "inputs": (),
        "outputs": (),
    }
    return Variant(**(values | changes))


def _instance(name: str = "sim-1", **changes: Any) -> InstanceType:
    sizes = {"sim-0.25": (0.25, "quota"), "sim-0.5": (0.5, "quota"), "sim-2": (2, "cpuset")}
    vcpus, enforcement = sizes.get(name, (1, "cpuset"))
    values: dict[str, Any] = {
        "name": name,
        "vcpus": vcpus,
        "memory_gib": 2,
        "enforcement": enforcement,
        "cpu_family": "host",
    }
    return InstanceType(**(values | changes))


def _profile(
    service_ms: tuple[float, ...] = (9.0, 10.0, 11.0), capacity_rps: float = 95.0, **changes: Any
) -> ServiceProfile:
    values: dict[str, Any] = {
        "variant": _variant(),
        "instance": _instance(),
        "threads": 1,
        "batch": 1,
        "service": Histogram.of(np.repeat(service_ms, 100) / 1e3),
        "overhead_ms": 0.5,
        "cpu_ms": 10.0,
        "capacity_rps": capacity_rps,
        "capacity_interval": Interval(
            low=0.95 * capacity_rps, mid=capacity_rps, high=1.05 * capacity_rps
        ),
        "ingress_cpu_ms": 0.1,
        "peak_memory_bytes": 256 << 20,
        "startup_s": 2.0,
        "measured_points": (),
        "measurement_ids": ("m",),
    }
    return ServiceProfile(**(values | changes))


def _measurement(
    mode: str = "paced",
    service_ms: float = 2.0,
    rtt_ms: float = 2.5,
    completed_rps: float = 100.0,
    **changes: Any,
) -> Measurement:
    """Build a run of 10 s whose every request took the same times."""
    replicas = changes.pop("replicas", 1)
    n = round(10 * completed_rps)
    rate = None if mode == "closed" else completed_rps
    run = LoadRun(
        mode=mode,
        batch=changes.pop("batch", 1),
        duration_s=10,
        users=changes.pop("users", 4) if mode == "closed" else None,
        rate_rps=rate,
    )
    values: dict[str, Any] = {
        "id": f"{mode}-{completed_rps:g}",
        "sequence": 0,
        "started_at": "2026-01-01T00:00:00Z",
        "deployment": Deployment(
            variant=changes.pop("variant", _variant()),
            instance=changes.pop("instance", _instance()),
            threads=1,
            replicas=replicas,
        ),
        "grant": Grant(method="cgroup-v2", cpus=(1,), quota_cpus=None, memory_bytes=None),
        "inference": "thread",
        "run": run,
        "elapsed_s": 10,
        "offered": n,
        "ok": n,
        "due_to_done": Histogram.of([rtt_ms / 1e3] * 200),
        "sent_to_done": Histogram.of([rtt_ms / 1e3] * 200),
        "dispatch_lag": Histogram.of([1e-4] * 200),
        "queue": Histogram.of([1e-4] * 200),
        "service": Histogram.of([service_ms / 1e3] * 200),
        "cpu": CpuUse(replica_s=6, ingress_s=1, generator_s=1),
        "throttling": Throttling(periods=0, throttled_periods=0, throttled_s=0),
        "peak_memory_bytes": 100 << 20,
        "environment": "e1",
    }
    return Measurement(**(values | changes))


def _demand(rate_rps: float = 60.0, limit_ms: float = 80.0, **changes: Any) -> Demand:
    values: dict[str, Any] = {
        "name": "real-time",
        "title": "Real-time API",
        "batch": 1,
        "batch_range": (1, 1),
        "rate_rps": rate_rps,
        "slo": {"quantile": changes.pop("quantile", 0.99), "limit_ms": limit_ms},
    }
    return Demand(**(values | changes))


def plan_of(size: str = "sim-0.5", replicas: int = 2, **changes: Any) -> Plan:
    """A plan on this host's own sizes, without a price."""
    figure = Interval(low=20, mid=30, high=45)
    values: dict[str, Any] = {
        "candidate": Candidate(
            variant="onnx_int8", size=size, threads=1, instance=size, replicas_per_instance=1
        ),
        "replicas": replicas,
        "instances": replicas,
        "vcpus": 1,
        "memory_gib": 2,
        "replica_memory_gib": 0.3,
        "model_file": "m.onnx",
        "p50_ms": figure,
        "p99_ms": figure,
        "capacity_rps": 90,
        "rows_per_s": 60,
        "utilisation": 0.6,
        "latency_basis": "predicted",
        "usd_per_month": None,
        "usd_per_million": None,
        "price_basis": "host vCPU: no price",
        "margin": "",
    }
    return Plan(**(values | changes))


@pytest.fixture(scope="session")
def variant() -> Callable[..., Variant]:
    return _variant


@pytest.fixture(scope="session")
def instance() -> Callable[..., InstanceType]:
    return _instance


@pytest.fixture(scope="session")
def profile() -> Callable[..., ServiceProfile]:
    return _profile


@pytest.fixture(scope="session")
def measurement() -> Callable[..., Measurement]:
    return _measurement


@pytest.fixture(scope="session")
def demand() -> Callable[..., Demand]:
    return _demand
