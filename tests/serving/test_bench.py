"""The in-process benchmark: what it measures where, and what it sends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving import bench as benchmark
from serving import gpu
from serving.errors import BadInput
from serving.records import Variant

CUDA, TENSOR_RT, CPU = (f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "CPU"))
ROWS = {"features": np.zeros((40, 4), np.float32)}


def test_a_known_service_time_is_measured(make_stub: Callable[..., Variant]) -> None:
    """A call that burns 2 ms of CPU takes no less, at each batch size."""
    rows = benchmark.bench([make_stub(2.0)], ROWS, batches=(1, 40), threads=(1,), seconds=0.1)
    assert [(row.batch, row.device) for row in rows] == [(1, "cpu"), (40, "cpu")]
    for row in rows:
        assert row.p50_ms >= 2.0  # how much more is up to the neighbours
        assert row.rows_per_s == pytest.approx(1e3 * row.batch / row.p50_ms)


def test_more_rows_than_there_are_is_refused(make_stub: Callable[..., Variant]) -> None:
    """The line names the key and the number."""
    with pytest.raises(BadInput, match="41 rows are asked for, the test set has 40"):
        benchmark.bench([make_stub()], ROWS, batches=(41,), threads=(1,), seconds=0.1)


def test_a_gpu_is_measured_beside_the_cpu(
    make_stub: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU each ONNX variant is timed on both, and says how much of its memory it held."""
    asked: list[tuple[str, ...]] = []
    stub = make_stub()
    load = benchmark.load_runtime

    def loading(variant: Variant, threads: int) -> object:
        asked.append(variant.providers)
        return load(stub, threads)

    monkeypatch.setattr(benchmark, "gpu_providers", lambda variant: chosen)
    monkeypatch.setattr(benchmark, "memory_held", lambda: 7)
    monkeypatch.setattr(benchmark, "load_runtime", loading)
    for runtime, configured, chosen in (
        ("onnxruntime", (), (CUDA, CPU)),
        ("onnxruntime", (TENSOR_RT, CPU), (TENSOR_RT, CPU)),
        ("torch", (), ("cuda",)),
    ):
        asked.clear()
        given = stub.model_copy(update={"runtime": runtime, "providers": configured})
        rows = benchmark.bench_one(given, ROWS, (1,), (1, 2), 0.01)
        found = [(row.device, row.threads, row.gpu_memory_bytes) for row in rows]
        assert found == [("cpu", 1, None), ("cpu", 2, None), ("gpu", 1, 7)]
        on_cpu = (CPU,) if configured else ()  # a row of the CPU is never one of the GPU
        assert asked == [on_cpu, on_cpu, chosen]


def test_a_form_that_no_gpu_runs_keeps_its_cpu_figures(
    make_stub: Callable[..., Variant],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The bench goes on, has no row of the GPU, and says why."""
    stub = make_stub()
    load = benchmark.load_runtime

    def loading(variant: Variant, threads: int) -> object:
        if variant.providers == ("cuda",):
            raise RuntimeError("no kernel for int8 here\nand much more")
        return load(stub, threads)

    monkeypatch.setattr(benchmark, "gpu_providers", lambda variant: ("cuda",))
    monkeypatch.setattr(benchmark, "load_runtime", loading)
    rows = benchmark.bench_one(stub, ROWS, (1,), (1,), 0.01)
    assert [row.device for row in rows] == ["cpu"]
    assert capsys.readouterr().err == "no GPU figure: no kernel for int8 here\n"


def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A driver's tool that prints these lines."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def test_gpu_memory_is_this_process_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the driver's list, the lines of other processes are left out."""
    driver(tmp_path, monkeypatch, "1, 900", f"{os.getpid()}, 300", f"{os.getpid()}, [N/A]")
    assert gpu.memory_held() == 300 << 20


def test_gpu_memory_that_nobody_tells_is_not_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the driver lists other numbers: the memory is unknown, the GPU is there."""
    driver(tmp_path, monkeypatch, "1, 900")
    assert gpu.memory_held() is None


def test_who_runs_on_a_gpu(
    make_stub: Callable[..., Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Providers of the configuration are kept, torch has a device, other runtimes have none."""
    driver(tmp_path, monkeypatch)

    def chosen(runtime: str, *providers: str) -> tuple[str, ...]:
        given = make_stub().model_copy(update={"runtime": runtime, "providers": providers})
        return gpu.gpu_providers(given)

    assert chosen("torch") == ("cuda",)
    assert chosen("onnxruntime", TENSOR_RT, CPU) == (TENSOR_RT, CPU)
    assert chosen("openvino") == chosen("sklearn") == ()
    here: list[str] = [CPU]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: here)
    assert chosen("onnxruntime") == ()
    here.insert(0, CUDA)
    assert chosen("onnxruntime") == (CUDA, CPU)


def test_without_a_driver_there_is_no_gpu(
    make_stub: Callable[..., Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tool, no figure; and no provider is tried."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.memory_held() is None
    for runtime in ("onnxruntime", "torch"):
        assert gpu.gpu_providers(make_stub().model_copy(update={"runtime": runtime})) == ()
