"""What the width of the pictures' network costs, with weights that were never trained."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from benchmarks.explain_timing import BATCHES, in_turns, session
from benchmarks.measure_script import export
from benchmarks.measure_ways import operations

_WIDTHS = (
    ((32, 32, 64), 256),
    ((28, 28, 56), 224),
    ((24, 24, 48), 192),
    ((22, 22, 44), 179),
    ((20, 20, 40), 160),
    ((16, 16, 32), 128),
)


def widths() -> list[dict[str, Any]]:
    """Milliseconds by width and batch in ONNX Runtime and eager torch; the widths take turns.

    ``channels`` are those of the first two convolutions; the third has twice as many.
    """
    import torch

    from serving.heap import keep_freed_memory
    from serving.workloads.cifar_cnn import of_width

    torch.set_num_threads(1)
    keep_freed_memory()
    modules = {str(n): of_width(*shape).eval() for n, shape in enumerate(_WIDTHS)}
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for key, module in modules.items():
            export(module, f"{folder}/{key}.onnx")
            sessions[key] = session(f"{folder}/{key}.onnx")
    onnx = {
        key: (lambda rows, opened=opened: opened.run(None, {"image": rows.numpy()}))
        for key, opened in sessions.items()
    }
    found: list[dict[str, Any]] = [
        {
            "name": f"{', '.join(map(str, channels))}; {hidden}",
            "channels": channels[0],
            "mflop": operations(modules[str(number)]) / 1e6,
            "onnx": {},
            "torch": {},
        }
        for number, (channels, hidden) in enumerate(_WIDTHS)
    ]
    for batch in BATCHES:
        values = np.random.default_rng(0).normal(size=(batch, 3, 32, 32)).astype(np.float32)
        rows = torch.from_numpy(values)
        with torch.inference_mode():
            for runtime, calls in (("onnx", onnx), ("torch", modules)):
                for key, value in in_turns(calls, rows, batch).items():
                    found[int(key)][runtime][str(batch)] = value
    return found
