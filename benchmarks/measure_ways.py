"""The same network in ways that differ in one thing each, and how near they come to the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.explain_timing import BATCHES, in_turns, session, timed
from serving.heap import keep_freed_memory

_PRODUCT = 2048  # rows and columns of a product that is long enough to show the peak
_ROW_SHAPE = (3, 32, 32)


def ways(torch_file: str, onnx_file: str) -> dict[str, dict[str, float]]:
    """Milliseconds of a call by way and batch, on one thread; the ways take turns.

    Under "differs" is the largest difference of a way's answers from torch's own.
    """
    import torch

    torch.set_num_threads(1)
    keep_freed_memory()
    calls = {**_torch_ways(torch_file), **_onnx_ways(onnx_file)}
    found: dict[str, dict[str, float]] = {name: {} for name in (*calls, *_fixed_ways(onnx_file, 1))}
    for batch in BATCHES:
        rows = torch.from_numpy(_rows(batch))
        ready = calls | _fixed_ways(onnx_file, batch)
        wanted = _array(ready["torch, eager"](rows))
        for name, call in ready.items():
            differs = float(np.abs(_array(call(rows)) - wanted).max())
            found[name]["differs"] = max(differs, found[name].get("differs", 0.0))
        for name, value in in_turns(ready, rows, batch).items():
            found[name][str(batch)] = value
    return found


def operators(torch_file: str) -> dict[str, list[tuple[str, float]]]:
    """Share of torch's time by operator at batch 1 and 256, on one thread, largest first.

    All of them, since torch convolves a single row on one thread with another kernel.
    """
    import torch

    from serving.compressors.torch_models import open_network
    from serving.workloads.cifar_cnn import network

    torch.set_num_threads(1)
    keep_freed_memory()
    module = open_network(Path(torch_file), network)
    found = {}
    for batch in (1, 256):
        rows = torch.randn(batch, *_ROW_SHAPE)
        with torch.inference_mode():
            for _ in range(5):
                module(rows)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
                begin = time.perf_counter()
                for _ in range(20):
                    module(rows)
                total_us = 1e6 * (time.perf_counter() - begin)
        shares = [
            (event.key.removeprefix("aten::"), event.self_cpu_time_total / total_us)
            for event in seen.key_averages()
        ]
        found[str(batch)] = sorted(shares, key=lambda item: -item[1])
    return found


def roof(torch_file: str) -> dict[str, float]:
    """What one core does at best, and what the network asks of it.

    ``peak_gflops`` is that of a large float32 product in numpy, which must have been started
    with one thread; ``mflop`` are a picture's operations in convolutions and linear layers, two
    a multiplication; ``empty_ms`` is a call of an ONNX graph that does nothing.
    """
    from onnx import TensorProto, helper

    from serving.compressors.torch_models import open_network
    from serving.workloads.cifar_cnn import network

    left, right = np.random.default_rng(0).random((2, _PRODUCT, _PRODUCT), np.float32)
    left @ right
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begin)
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *_ROW_SHAPE])
        for name in ("image", "same")
    )
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["same"])], "empty", [given], [made]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    empty = session(model.SerializeToString())
    rows = {"image": _rows(1)}
    return {
        "peak_gflops": 2 * _PRODUCT**3 / min(seconds) / 1e9,
        "mflop": operations(open_network(Path(torch_file), network)) / 1e6,
        "empty_ms": timed(lambda: empty.run(None, rows), 1000),
    }


def operations(module: Any) -> int:
    """Floating-point operations of a picture in convolutions and linear layers."""
    import torch
    from torch import nn

    counted = []

    def count(layer: Any, _: Any, made: Any) -> None:
        counted.append(2 * made[0].numel() * layer.weight[0].numel())

    watching = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.inference_mode():
        module(torch.zeros(1, *_ROW_SHAPE))
    for hook in watching:
        hook.remove()
    return sum(counted)


def _torch_ways(file: str) -> dict[str, Callable[[Any], Any]]:
    import torch

    from serving.compressors.torch_models import open_network
    from serving.workloads.cifar_cnn import network

    last = torch.channels_last
    eager, other = (open_network(Path(file), network) for _ in range(2))
    other = other.to(memory_format=last)
    script = torch.jit.load(file).eval()
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.load(file).eval()))

    def without_autograd(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def called(rows: Any) -> Any:
            with torch.inference_mode():
                return call(rows)

        return called

    def without_onednn(rows: Any) -> Any:
        with torch.backends.mkldnn.flags(enabled=False):
            return eager(rows)

    return {
        "torch, eager, autograd on": eager,
        "torch, eager": without_autograd(eager),
        "torch, eager, oneDNN off": without_autograd(without_onednn),
        "torch, eager, channels last": without_autograd(
            lambda rows: other(rows.to(memory_format=last))
        ),
        "TorchScript, as served": without_autograd(script),
        "TorchScript, frozen and optimised": without_autograd(frozen),
    }


def _onnx_ways(file: str) -> dict[str, Callable[[Any], Any]]:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    opened = {
        "nothing fused": session(file, graph_optimization_level=levels.ORT_DISABLE_ALL),
        "fused, plain layout": session(file, graph_optimization_level=levels.ORT_ENABLE_EXTENDED),
        "as served": session(file),
        "no memory arena": session(file, enable_cpu_mem_arena=False),
        "no memory pattern": session(file, enable_mem_pattern=False),
        "denormals as zero": session(file, entries={"session.set_denormal_as_zero": "1"}),
    }
    return {f"ONNX Runtime, {name}": _onnx_call(found) for name, found in opened.items()}


def _fixed_ways(file: str, batch: int) -> dict[str, Callable[[Any], Any]]:
    """Ways that know the batch when they load: the dimension fixed, and tensors bound once."""
    fixed = session(file, fixed=batch)
    binding = fixed.io_binding()
    given, made = np.empty((batch, *_ROW_SHAPE), np.float32), np.empty((batch, 10), np.float32)
    name = fixed.get_outputs()[0].name
    binding.bind_input("image", "cpu", 0, np.float32, given.shape, given.ctypes.data)
    binding.bind_output(name, "cpu", 0, np.float32, made.shape, made.ctypes.data)

    def bound(rows: Any) -> Any:
        np.copyto(given, rows.numpy())
        fixed.run_with_iobinding(binding)
        return made

    return {
        "ONNX Runtime, batch fixed": _onnx_call(fixed),
        "ONNX Runtime, batch fixed, tensors bound": bound,
    }


def _onnx_call(opened: Any) -> Callable[[Any], Any]:
    return lambda rows: opened.run(None, {"image": rows.numpy()})[0]


def _rows(batch: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, *_ROW_SHAPE)).astype(np.float32)


def _array(answers: Any) -> np.ndarray:
    return answers if isinstance(answers, np.ndarray) else np.asarray(answers.detach())
