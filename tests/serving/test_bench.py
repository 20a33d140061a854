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

    monkeypatch.setattr(benchmark, "gpu_providers", lambda: ("CUDAExecutionProvider",))
    monkeypatch.setattr(benchmark, "memory_held", lambda: 7)
    monkeypatch.setattr(benchmark, "load_runtime", loading)
    onnx = stub.model_copy(update={"runtime": "onnxruntime"})
    rows = benchmark.bench_one(onnx, ROWS, (1,), (1, 2), 0.01)
    found = [(row.device, row.threads, row.gpu_memory_bytes) for row in rows]
    assert found == [("cpu", 1, None), ("cpu", 2, None), ("gpu", 1, 7)]
    assert asked == [(), (), ("CUDAExecutionProvider",)]


def test_gpu_memory_is_this_process_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the driver's list, the lines of other processes are left out."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\necho '1, 900'\necho '{os.getpid()}, 300'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu.memory_held() == 300 << 20


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tool, no figure; and no provider is tried."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.memory_held() is None
    assert gpu.gpu_providers() == ()
