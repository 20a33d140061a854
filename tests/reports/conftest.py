"""A small but realistic run of synthetic records: every kind of table has something in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtests.histogram import Histogram
from loadtests.objective import Slo
from loadtests.records import CpuUse, Fault, FaultCode, LoadRun, Measurement, Throttling
from planner.advice import AutoscalingAdvice, AutoscalingRefusal, BurstReplay, ScalingSettings
from planner.daily import Daily
from planner.reach import CpuReach
from planner.records import (
    BatchChoice,
    Bottleneck,
    Candidate,
    Curve,
    CurvePoint,
    Demand,
    Interval,
    MeasuredPoint,
    Plan,
    Recommendation,
    Rejection,
    ServiceProfile,
)
from planner.shared_core import SharedCore
from reports.bundle import Bundle, StudyInfo
from serving.records import (
    BenchRow,
    Deployment,
    Environment,
    Grant,
    InstanceType,
    OwnLimits,
    Parity,
    Quality,
    TensorSpec,
    Variant,
)

SPEEDS = {"sklearn": 1.0, "onnx_fp32": 2.0, "onnx_int8": 2.4}
SIZES = {
    name: InstanceType(
        name=name, vcpus=vcpus, memory_gib=2 * vcpus, enforcement=how, cpu_family="host"
    )
    for name, vcpus, how in (
        ("sim-0.25", 0.25, "quota"),
        ("sim-0.5", 0.5, "quota"),
        ("sim-1", 1.0, "cpuset"),
    )
}


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """Planned run: three variants, three sizes, three profiles, one faulty cell."""
    variants = tuple(_variant(name) for name in SPEEDS)
    return Bundle(
        info=StudyInfo(
            name="credit",
            title="Credit scoring on CPU",
            workload="credit",
            baseline="sklearn",
            config_hash="0123456789ab",
            seed=7,
            started_at="2026-01-02T03:04:05Z",
            dataset="UCI default of credit card clients, 30,000 rows, 6,000 held out",
            metric="auc",
            max_loss=0.003,
            skipped=("sim-2, all cells: overlaps the generator on 2 cores; predicted instead",),
            reproduce=("make run", "tonnage run configs/studies/credit.toml --seed 7"),
            assumptions=("One vCPU of c7i is taken as 1.1 (0.9-1.3) of this host's: assumed.",),
        ),
        environment=_environment(),
        variants=variants,
        bench=tuple(_bench(v.name, b, t) for v in variants for t in (1, 2, 4) for b in BATCHES),
        measurements=tuple(_measurements(variants)),
        profiles=tuple(
            _shared(_profile(v, size, batch))
            for v in variants[1:]
            for size in SIZES.values()
            for batch in BATCHES
        ),
        curves=tuple(
            _curve(v.name, batch, replicas)
            for v in variants[1:]
            for batch in BATCHES
            for replicas in (1, 2)
        ),
        recommendations=(
            _recommendation("production", "Production", 100, 400.0, Slo(limit_ms=60)),
            _recommendation("real-time", "Real-time API", 1, 600.0, Slo(limit_ms=25), inside=1.0),
            _nothing_holds(),
        ),
    )


@pytest.fixture
def run_folder(tmp_path: Path, bundle: Bundle) -> Path:
    """Bundle as the files that a run leaves behind."""
    (tmp_path / "study.json").write_text(bundle.info.model_dump_json())
    assert bundle.environment is not None
    (tmp_path / "environment.json").write_text(bundle.environment.model_dump_json())
    for name in ("variants", "bench", "measurements", "profiles", "curves", "recommendations"):
        lines = [record.model_dump_json() for record in getattr(bundle, name)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def hostile(bundle: Bundle) -> Callable[[str], Bundle]:
    """Bundle with a text of the caller's in every name and sentence."""

    def rename(text: str) -> Bundle:
        dumped = bundle.model_dump_json().replace('"onnx_int8"', _json(text))
        dumped = dumped.replace('"Credit scoring on CPU"', _json(text))
        dumped = dumped.replace('"Production"', _json(text)).replace('"make run"', _json(text))
        return Bundle.model_validate_json(dumped)

    return rename


def _json(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


BATCHES = (1, 100, 6000)


def _variant(name: str) -> Variant:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 23))
    size = {"sklearn": 512_345, "onnx_fp32": 92_160, "onnx_int8": 31_022}[name]
    lost = 0.0009 if name == "onnx_int8" else 0.0
    return Variant(
        workload="credit",
        name=name,
        runtime="sklearn" if name == "sklearn" else "onnxruntime",
        precision="int8" if name == "onnx_int8" else "fp32",
        file=f"{name}.{'skops' if name == 'sklearn' else 'onnx'}",
        sha256="ab12cd34" * 8,
        size_bytes=size,
        made_from={"sklearn": "", "onnx_fp32": "sklearn", "onnx_int8": "onnx_fp32"}[name],
        method={"sklearn": "trained", "onnx_fp32": "converted", "onnx_int8": "int8 dynamic"}[name],
        inputs=(spec,),
        outputs=(spec,),
        quality=Quality(n_rows=6000, auc=0.771 - lost, precision=0.68, recall=0.34, f1=0.453),
        parity=None
        if name == "sklearn"
        else Parity(n_rows=6000, max_abs_difference=3.1e-6 + lost, mean_abs_difference=2.2e-7),
    )


def _bench(variant: str, batch: int, threads: int) -> BenchRow:
    parallel = min(threads, 2) ** 0.8 if batch == 6000 else 1.0
    p50 = (0.02 + batch * 0.0008) / SPEEDS[variant] / parallel
    return BenchRow(
        variant=variant,
        batch=batch,
        threads=threads,
        oversubscribed=threads > 2,
        n_calls=500,
        p50_ms=p50,
        p95_ms=1.2 * p50,
        p99_ms=1.6 * p50,
        rows_per_s=1e3 * batch / p50,
        peak_rss_bytes=140_000_000,
        load_s=0.05,
    )


def _service_ms(variant: str, size: InstanceType, batch: int) -> float:
    return (0.3 + batch * 0.0008 / SPEEDS[variant]) / min(size.vcpus, 1.0)


def _measurements(variants: tuple[Variant, ...]) -> list[Measurement]:
    found: list[Measurement] = []

    def add(variant: Variant, size: InstanceType, run: LoadRun, **more: Any) -> None:
        found.append(_measurement(len(found), variant, size, run, **more))

    reference = LoadRun(mode="closed", batch=100, duration_s=5, users=4)
    add(variants[1], SIZES["sim-1"], reference, role="reference")
    for batch in BATCHES:
        add(
            variants[1],
            SIZES["sim-1"],
            LoadRun(mode="paced", batch=batch, duration_s=3, rate_rps=20),
            role="floor",
        )
        for variant in variants[1:]:
            for size in SIZES.values():
                top = 1e3 / _service_ms(variant.name, size, batch)
                for run in (
                    LoadRun(mode="paced", batch=batch, duration_s=3, rate_rps=20),
                    LoadRun(mode="closed", batch=batch, duration_s=5, users=4),
                    LoadRun(mode="open", batch=batch, duration_s=5, rate_rps=round(0.6 * top)),
                ):
                    lagging = (batch, size.name, run.mode) == (1, "sim-1", "open")
                    add(variant, size, run, lagging=lagging)
    add(variants[1], SIZES["sim-1"], reference, role="reference", slower=1.04)
    halves = LoadRun(mode="open", batch=6000, duration_s=4, rate_rps=200)
    for variant in variants[1:]:
        add(variant, SIZES["sim-0.5"], halves, role="sharing", replicas=2, slower=1.12)
    disturbed = {"lagging": True, "role": "sharing", "replicas": 4}
    add(variants[1], SIZES["sim-0.25"], halves, **disturbed)
    return found


def _shared(profile: ServiceProfile) -> ServiceProfile:
    """With what two halves of a CPU were found to cost, where they were measured."""
    place = {"onnx_fp32": ("m059", "m045"), "onnx_int8": ("m060", "m054")}
    if profile.instance.name != "sim-0.5":
        return profile
    found = SharedCore(replicas=2, low=1.0, mid=1.1, high=1.21, runs=(place[profile.variant.name],))
    return profile.model_copy(update={"sharing": found})


def _measurement(
    sequence: int,
    variant: Variant,
    size: InstanceType,
    run: LoadRun,
    *,
    role: str = "cell",
    lagging: bool = False,
    slower: float = 1.0,
    replicas: int = 1,
) -> Measurement:
    service = _service_ms(variant.name, size, run.batch) * slower
    if role == "floor":
        service = 0.25
    rate = run.rate_rps if run.rate_rps is not None else 1e3 / service
    waiting = {"paced": 1.0, "closed": 4.0, "open": 2.0}[run.mode]
    draw = random.Random(sequence)
    times = [1e-3 * service * waiting * draw.lognormvariate(0, 0.3) for _ in range(300)]
    n = max(1, round(rate * run.duration_s))
    histogram = Histogram.of(times)
    quota = size.vcpus if size.enforcement == "quota" else None
    lag = (Fault(code=FaultCode.DISPATCH_LAG, detail="lag p99 4.2 ms, at most 1 ms"),)
    return Measurement.model_validate(
        {
            "id": f"m{sequence:03d}",
            "role": role,
            "sequence": sequence,
            "started_at": "2026-01-02T03:05:00Z",
            "deployment": Deployment(variant=variant, instance=size, threads=1, replicas=replicas),
            "grant": Grant(method="cgroup-v2", cpus=(1,), quota_cpus=quota, memory_bytes=2**30),
            "inference": "inline",
            "run": run,
            "elapsed_s": run.duration_s,
            "offered": n,
            "ok": n,
            "due_to_done": histogram,
            "sent_to_done": histogram,
            "dispatch_lag": Histogram.of([2e-4] * 20),
            "queue": Histogram.of([1e-4] * 20),
            "service": Histogram.of([0.6 * t for t in times]),
            "cpu": CpuUse(
                replica_s=min(n * service * 8e-4, 0.97 * replicas * size.vcpus * run.duration_s),
                ingress_s=n * 2e-5,
                generator_s=n * 4e-5,
            ),
            "throttling": Throttling(
                periods=0 if quota is None else 50,
                throttled_periods=0 if quota is None else 12,
                throttled_s=0.0 if quota is None else 0.3,
            ),
            "peak_memory_bytes": 310_000_000,
            "startup_s": 2.1 + 0.01 * len(variant.name),
            "worker_start_s": 1.4,
            "model_load_s": 0.02 * SPEEDS[variant.name],
            "environment": "abcdefabcdef",
            "ladder_end": "gain_small" if (run.mode, role) == ("closed", "cell") else None,
            "faults": lag if lagging else (),
        }
    )


def _interval(mid: float, spread: float = 0.2) -> Interval:
    return Interval(low=mid * (1 - spread), mid=mid, high=mid * (1 + 1.5 * spread))


def _latency(service_ms: float, utilisation: float) -> tuple[float, float, float]:
    queueing = 1 / (1 - utilisation)
    return service_ms * queueing, 2 * service_ms * queueing, 3 * service_ms * queueing


def _profile(variant: Variant, size: InstanceType, batch: int) -> ServiceProfile:
    service = _service_ms(variant.name, size, batch)
    capacity = 1e3 / service
    points = []
    for share in (0.5, 0.7):
        p50, p95, p99 = (1.08 * v for v in _latency(service, share))
        points.append(
            MeasuredPoint(
                rate_rps=share * capacity,
                utilisation=share,
                p50_ms=p50,
                p95_ms=p95,
                p99_ms=p99,
                n=900,
            )
        )
    return ServiceProfile(
        variant=variant,
        instance=size,
        threads=1,
        batch=batch,
        service=Histogram.of([1e-3 * service] * 50),
        overhead_ms=0.3,
        cpu_ms=0.8 * service,
        capacity_rps=capacity,
        capacity_interval=_interval(capacity, 0.05),
        ingress_cpu_ms=0.02,
        peak_memory_bytes=310_000_000,
        startup_s=2.1,
        measured_points=tuple(points),
        measurement_ids=("m001",),
    )


def _curve(variant: str, batch: int, replicas: int) -> Curve:
    service = _service_ms(variant, SIZES["sim-1"], batch)
    capacity = replicas * 1e3 / service
    points = []
    for step in range(1, 18):
        u = step / 20
        p50, p95, p99 = (_interval(v, 0.1 + 0.2 * u) for v in _latency(service, u**replicas))
        points.append(
            CurvePoint(rate_rps=u * capacity, utilisation=u, p50_ms=p50, p95_ms=p95, p99_ms=p99)
        )
    return Curve(
        variant=variant,
        instance="sim-1 (cpuset)",
        threads=1,
        batch=batch,
        replicas=replicas,
        points=tuple(points),
        measured_from_rps=0.5 * capacity,
        measured_to_rps=0.7 * capacity,
    )


def _plan(
    variant: str, instance: str, batch: int, rate: float, usd: float | None, most: int = 1
) -> Plan:
    service = _service_ms(variant, SIZES["sim-1"], batch)
    p50, _, p99 = _latency(service, 0.6)
    on_host = instance == "sim-1"
    return Plan(
        candidate=Candidate(
            variant=variant,
            size="sim-1",
            threads=1,
            instance=instance,
            replicas_per_instance=1 if on_host else 2,
            max_batch=most,
        ),
        replicas=2,
        instances=2 if on_host else 1,
        vcpus=2,
        memory_gib=4,
        replica_memory_gib=0.45,
        model_file=f"{variant}.onnx",
        p50_ms=_interval(p50),
        p99_ms=_interval(p99),
        capacity_rps=1.4 * rate,
        rows_per_s=rate * batch,
        utilisation=0.51,
        latency_basis="predicted",
        usd_per_month=usd,
        usd_per_million=usd / (rate * batch * 2.628) if usd else None,
        price_basis="c7i.large USD 0.0893/h, us-east-1, as of 2026-01-01, price list"
        if usd
        else "this host's vCPU has no price",
        margin=f"upper bound is {1.3 * p99:.1f} ms",
    )


def _rejection(number: int, bottleneck: Bottleneck, reason: str) -> Rejection:
    candidate = Candidate(
        variant="onnx_fp32",
        size=("sim-0.25", "sim-0.5", "sim-1")[number % 3],
        threads=1 + number % 2,
        instance=("c7i.large", "c7g.large", "sim-1")[number % 3],
        replicas_per_instance=1,
    )
    return Rejection(candidate=candidate, bottleneck=bottleneck, reason=reason)


def _recommendation(
    name: str, title: str, batch: int, rate: float, slo: Slo, inside: float | None = None
) -> Recommendation:
    costly = [
        _rejection(i, Bottleneck.COST, f"USD {90 + i} per month against USD 65") for i in range(14)
    ]
    slow = [
        _rejection(i, Bottleneck.LATENCY, f"p99 up to {70 + i} ms, limit {slo.limit_ms:g} ms")
        for i in range(5)
    ]
    return Recommendation(
        demand=Demand(
            name=name,
            title=title,
            batch=batch,
            batch_range=(batch, 5 * batch if batch > 1 else 1),
            rate_rps=rate,
            slo=slo,
            spare_replicas=1,
            in_process_limit_ms=inside,
            daily=Daily.hourly([rate / 4] * 8 + [rate] * 16),
        ),
        best=_plan("onnx_int8", "c7i.large", batch, rate, 65.19, most=8 if inside else 1),
        alternatives=(
            _plan("onnx_fp32", "c7i.large", batch, rate, 65.19),
            _plan("onnx_int8", "sim-1", batch, rate, None),
        ),
        rejections=(*costly, *slow),
        autoscaling=_advice(rate) if inside is None else _no_advice(rate),
        cpu_reaches=(_reach(batch, rate),),
        batching=_choice() if inside else None,
    )


def _burst(rate: float, *, holds: bool) -> BurstReplay:
    return BurstReplay(
        from_rps=rate / 4,
        to_rps=rate,
        rise_s=60,
        n=40_000,
        over=120 if holds else 2_400,
        refused=0 if holds else 300,
        quantile_ms=31.4 if holds else 212.0,
        replicas_before=1,
        most_replicas=2,
        holds=holds,
    )


def _advice(rate: float) -> AutoscalingAdvice:
    return AutoscalingAdvice(
        settings=ScalingSettings(min_replicas=1, max_replicas=2, target_ongoing_requests=0.85),
        max_ongoing_requests=64,
        max_queued_requests=64,
        startup_s=2.1,
        machine_start_s=0,
        replicas=(1,) * 8 + (2,) * 16,
        static_replicas=2,
        mean_replicas=1.67,
        mean_machines=1.67,
        usd_per_month=54.44,
        static_usd_per_month=65.19,
        burst=_burst(rate, holds=True),
    )


def _no_advice(rate: float) -> AutoscalingRefusal:
    return AutoscalingRefusal(
        reason="start-up of 14 s, and 4 s until Ray Serve decides, is longer than the 9 s in "
        "which the load outgrows 1 replica",
        static_replicas=2,
        burst=_burst(rate, holds=False),
    )


def _choice() -> BatchChoice:
    return BatchChoice(
        max_batch=8,
        batch_wait_ms=0,
        replicas=2,
        instances=1,
        instead_of=4,
        latency_ms=_interval(12.0),
        residual=0.062,
        measured_batches=(1, 100, 6000),
        usd_per_month=65.19,
    )


def _reach(batch: int, rate: float) -> CpuReach:
    return CpuReach(
        batch=batch,
        rate_rps=8 * rate,
        variant="onnx_int8",
        instance="c7i.large",
        instances=8,
        replicas=16,
        usd_per_hour=0.714,
        usd_per_million=0.714 / (8 * rate * batch * 3600) * 1e6,
        spare_replicas=1,
    )


def _nothing_holds() -> Recommendation:
    return Recommendation(
        demand=Demand(
            name="batch",
            title="Batch processing",
            batch=6000,
            batch_range=(1000, 6000),
            rate_rps=60,
            slo=Slo(quantile=0.95, limit_ms=2.5),
        ),
        best=None,
        alternatives=(),
        rejections=(_rejection(2, Bottleneck.LATENCY, "p95 up to 9.1 ms, limit 2.5 ms"),),
        note="Loosen the limit to 10 ms and sim-1 holds.",
        cpu_reaches=(CpuReach(batch=6000, rate_rps=0),),
    )


def _environment() -> Environment:
    return Environment(
        cpu_model="Example CPU @ 2.5 GHz",
        logical_cpus=2,
        threads_per_core=2,
        instruction_sets=("avx2", "avx512f"),
        memory_gib=7.7,
        kernel="6.1.0",
        governor=None,
        virtualised=True,
        python="3.11.2",
        packages={"onnxruntime": "1.20.0", "ray": "2.60.0"},
        enforcement="cgroup-v2",
        replica_cpus=(1,),
        platform_cpus=(0,),
        generator_priority="fifo",
        settings={"RAY_SERVE_ENABLE_HA_PROXY": "1"},
        own_limits=OwnLimits(cpus=(0, 1), quota_cpus=None, memory_bytes=8 << 30),
    )
