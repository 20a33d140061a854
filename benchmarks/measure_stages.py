"""Where the time of a script goes that loads a model and runs pictures through it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.explain_timing import session, timed
from serving.heap import keep_freed_memory

PICTURES = 2500
_LOADERS = (0, 2)  # processes beside the script's own; tutorials have both


def stages(file: str, settings: str) -> dict[str, float]:
    """Seconds of each stage of a script; of those in ``ms`` milliseconds.

    ``loader_2_4_s`` is through a loader of two processes, in batches of four.
    """
    pictures = _pictures()
    default = settings == "library defaults"
    begin = time.perf_counter()
    load = {".pt": _torch, ".onnx": _onnx, ".xml": _openvino}[Path(file).suffix]
    opened = load(default)
    imported = time.perf_counter()
    call = opened(file)
    loaded = time.perf_counter()
    call(pictures[:1])
    first = time.perf_counter()
    found = {
        "import_s": imported - begin,
        "load_s": loaded - imported,
        "first_call_ms": 1e3 * (first - loaded),
        "ms_at_1": timed(lambda: call(pictures[:1]), 300),
    }
    for batch in (4, 1):
        call(pictures[:batch])
        start = time.perf_counter()
        for row in range(0, len(pictures), batch):
            call(pictures[row : row + batch])
        found[f"memory_{batch}_s"] = time.perf_counter() - start
    return found | _loaders(call, pictures)


def loaders_alone() -> dict[str, float]:
    """The pictures through the loaders, and through no model."""
    return _loaders(lambda rows: rows, _pictures())


def _pictures() -> np.ndarray:
    from serving.datasets.cifar10 import picture_dataset

    return picture_dataset(None).test["image"][:PICTURES]


def _loaders(call: Callable[[np.ndarray], Any], pictures: np.ndarray) -> dict[str, float]:
    return {
        f"loader_{workers}_{batch}_s": _with_loader(call, pictures, batch, workers)
        for workers in _LOADERS
        for batch in (4, 1)
    }


def _with_loader(
    call: Callable[[np.ndarray], Any], pictures: np.ndarray, batch: int, workers: int
) -> float:
    """Seconds for the pictures from a loader, as tutorials do it."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    rows = TensorDataset(torch.from_numpy(pictures))
    start = time.perf_counter()
    for (some,) in DataLoader(rows, batch_size=batch, num_workers=workers):
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
        ready = onnxruntime.InferenceSession(file) if default else session(file)
        return lambda rows: ready.run(None, {"image": rows})

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
