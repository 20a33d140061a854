"""One measurement of ``benchmarks.explain``, in this process; JSON on the last line."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from serving.heap import keep_freed_memory

_BATCHES = (1, 32, 256)
_ROUNDS = 7
PICTURES = 2500
_WIDTHS = (
    ((32, 32, 64), 256),
    ((24, 24, 48), 192),
    ((22, 22, 44), 179),
    ((16, 16, 32), 128),
)


def ways(torch_file: str, onnx_file: str) -> dict[str, dict[str, float]]:
    """Milliseconds of a call by way and batch; the ways take turns."""
    import onnxruntime
    import torch

    from serving.compressors.torch_models import open_network
    from serving.workloads.cifar_cnn import network

    torch.set_num_threads(1)
    keep_freed_memory()
    last = torch.channels_last
    eager, other = (open_network(Path(torch_file), network) for _ in range(2))
    other = other.to(memory_format=last)
    script = torch.jit.load(torch_file).eval()
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.load(torch_file).eval()))
    plain = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [_session(onnx_file), _session(onnx_file, plain)]

    def onnx_call(session: Any) -> Callable[[Any], Any]:
        return lambda rows: session.run(None, {"image": rows.numpy()})

    calls: dict[str, Callable[[Any], Any]] = {
        "torch, eager": eager,
        "TorchScript, as served": script,
        "TorchScript, frozen and optimised": frozen,
        "torch, eager, channels last": lambda rows: other(rows.to(memory_format=last)),
        "ONNX Runtime, nothing fused": onnx_call(sessions[1]),
        "ONNX Runtime": onnx_call(sessions[0]),
    }
    found: dict[str, dict[str, float]] = {name: {} for name in calls}
    with torch.inference_mode():
        for batch in _BATCHES:
            rows = torch.randn(batch, 3, 32, 32)
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(_ROUNDS):
                for name, call in calls.items():
                    times[name].append(_timed(partial(call, rows), max(5, 200 // batch)))
            for name, values in times.items():
                found[name][str(batch)] = median(values)
    return found


def widths() -> dict[str, dict[str, float]]:
    """Milliseconds in ONNX Runtime by width of the network and batch; the widths take turns."""
    import torch

    from serving.compressors.quiet import quiet
    from serving.workloads.cifar_cnn import of_width

    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for channels, hidden in _WIDTHS:
            file = f"{folder}/{channels[0]}.onnx"
            with quiet():
                torch.onnx.export(
                    of_width(channels, hidden).eval(),
                    (torch.ones(2, 3, 32, 32),),
                    dynamo=True,
                    input_names=["image"],
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                ).save(file)
            sessions[f"{', '.join(map(str, channels))}; {hidden}"] = _session(file)
    found: dict[str, dict[str, float]] = {name: {} for name in sessions}
    for batch in _BATCHES:
        rows = {"image": np.random.default_rng(0).normal(size=(batch, 3, 32, 32)).astype("f4")}
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(_ROUNDS):
            for name, session in sessions.items():
                call = partial(session.run, None, rows)
                times[name].append(_timed(call, max(5, 200 // batch)))
        for name, values in times.items():
            found[name][str(batch)] = median(values)
    return found


def operators(torch_file: str, onnx_file: str) -> dict[str, list[tuple[str, float]]]:
    """Share of torch's time by kernel, largest first; the rest is between kernels."""
    import torch

    from serving.compressors.torch_models import open_network
    from serving.workloads.cifar_cnn import network

    del onnx_file
    torch.set_num_threads(1)
    keep_freed_memory()
    module = open_network(Path(torch_file), network)
    kernels = ("mkldnn_convolution", "max_pool2d_with_indices", "native_batch_norm", "clamp_min")
    kernels += ("addmm",)
    found = {}
    for batch in (1, 256):
        rows = torch.randn(batch, 3, 32, 32)
        with torch.inference_mode():
            for _ in range(5):
                module(rows)
            with torch.profiler.profile() as profile:
                begin = time.perf_counter()
                for _ in range(20):
                    module(rows)
                total_us = 1e6 * (time.perf_counter() - begin)
        spent = {
            event.key.removeprefix("aten::"): event.self_cpu_time_total
            for event in profile.key_averages()
        }
        shares = [(name, min(1.0, spent.get(name, 0.0) / total_us)) for name in kernels]
        found[str(batch)] = sorted(shares, key=lambda item: -item[1])
    return found


def stages(file: str, settings: str) -> dict[str, float]:
    """Where the time of a script goes that loads a model and runs pictures through it."""
    from serving.datasets.cifar10 import picture_dataset

    pictures = picture_dataset(None).test["image"][:PICTURES]
    default = settings == "library defaults"
    begin = time.perf_counter()
    load = {".pt": _torch, ".onnx": _onnx, ".xml": _openvino}[Path(file).suffix]
    opened = load(default)
    imported = time.perf_counter()
    call = opened(file)
    loaded = time.perf_counter()
    call(pictures[:1])
    first = time.perf_counter()
    one = _timed(lambda: call(pictures[:1]), 300)
    call(pictures[:4])
    start = time.perf_counter()
    for row in range(0, len(pictures), 4):
        call(pictures[row : row + 4])
    alone = time.perf_counter() - start
    return {
        "import_s": imported - begin,
        "load_s": loaded - imported,
        "first_call_ms": 1e3 * (first - loaded),
        "ms_at_1": one,
        "from_memory_s": alone,
        "loader_4_s": _with_loader(call, pictures, 4),
        "loader_1_s": _with_loader(call, pictures, 1),
    }


def loader_alone() -> dict[str, float]:
    """The pictures through the loader, and through no model."""
    from serving.datasets.cifar10 import picture_dataset

    pictures = picture_dataset(None).test["image"][:PICTURES]
    return {f"loader_{n}_s": _with_loader(lambda rows: rows, pictures, n) for n in (4, 1)}


def _with_loader(call: Callable[[np.ndarray], Any], pictures: np.ndarray, batch: int) -> float:
    """Seconds for the pictures from a loader with two processes, as tutorials do it."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    rows = TensorDataset(torch.from_numpy(pictures))
    start = time.perf_counter()
    for (some,) in DataLoader(rows, batch_size=batch, num_workers=2):
        call(some.numpy())
    return time.perf_counter() - start


def _torch(default: bool) -> Callable[[str], Callable[[np.ndarray], Any]]:
    import torch

    if not default:
        torch.set_num_threads(1)
        keep_freed_memory()

    def opened(file: str) -> Callable[[np.ndarray], Any]:
        module = torch.jit.load(file).eval()

        def call(rows: np.ndarray) -> Any:
            with torch.inference_mode():
                return module(torch.from_numpy(rows)).numpy()

        return call

    return opened


def _onnx(default: bool) -> Callable[[str], Callable[[np.ndarray], Any]]:
    import onnxruntime

    def opened(file: str) -> Callable[[np.ndarray], Any]:
        session = onnxruntime.InferenceSession(file) if default else _session(file)
        return lambda rows: session.run(None, {"image": rows})

    return opened


def _openvino(default: bool) -> Callable[[str], Callable[[np.ndarray], Any]]:
    import openvino

    def opened(file: str) -> Callable[[np.ndarray], Any]:
        settings = {} if default else {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(file, "CPU", settings)
        if default:
            return lambda rows: compiled([rows])[compiled.output(0)]
        request = compiled.create_infer_request()
        return lambda rows: request.infer([rows], share_inputs=True)[0]

    return opened


def _session(file: str, level: Any = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = level
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _timed(call: Callable[[], Any], count: int) -> float:
    """Median milliseconds of ``count`` calls, after three."""
    for _ in range(3):
        call()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * median(times)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    measure: dict[str, Callable[..., Any]] = {
        "ways": ways,
        "operators": operators,
        "stages": stages,
        "loader": loader_alone,
        "widths": widths,
    }
    print(json.dumps(measure[sys.argv[1]](*sys.argv[2:])))
