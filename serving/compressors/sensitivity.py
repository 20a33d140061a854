"""Which layers of an ONNX graph bear int8, and which are hurt by it.

Each layer is quantized alone, all others left in float; how far the network's answers move is
that layer's damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.compressors.onnx_ranges import Batch, Ranges
from serving.runtimes import open_model
from serving.scoring import predict_in_chunks

# Operators with weights; onnxruntime quantizes others only where these give reason to.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ROWS_PER_CALL = 16


@dataclass(frozen=True)
class Layer:
    """A node with constant weights."""

    name: str
    operator: str
    shape: tuple[int, ...]
    depthwise: bool

    @property
    def kind(self) -> str:
        """In words: ``depthwise 5 x 5``, ``Conv 1 x 1``, ``Gemm``."""
        kernel = " x ".join(map(str, self.shape[2:])) if len(self.shape) > 2 else ""
        return f"{'depthwise' if self.depthwise else self.operator} {kernel}".strip()


@dataclass(frozen=True)
class Distance:
    """How far answers are from the original's: by decisions and by signal to noise."""

    differing: float
    """Share of rows decided for another class, by the first output."""
    signal_db: float
    """20 log10(norm of the original's answers / norm of the difference)."""


def layers_of(graph: Path) -> list[Layer]:
    """The layers that have constant weights, in the order of the graph."""
    import onnx

    model = onnx.load(graph)
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 2 or node.input[1] not in constants:
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        shape = constants[node.input[1]]
        found.append(Layer(node.name, node.op_type, shape, 1 < groups == shape[0]))
    return found


def answers_to(model: Path, rows: Batch) -> dict[str, np.ndarray]:
    """What an ONNX file answers, a few rows at a time."""
    return predict_in_chunks(open_model("onnxruntime", model, 1), rows, _ROWS_PER_CALL)


def distance(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> Distance:
    """Of two sets of answers to the same rows."""
    name = next(iter(wanted))
    differing = got[name].argmax(axis=-1) != wanted[name].argmax(axis=-1)
    return Distance(float(differing.mean()), signal_db(wanted[name], got[name]))


def signal_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """Signal to quantization noise in decibels; 200 where there is no noise."""
    noise = float(np.linalg.norm(wanted.astype(np.float64) - got))
    signal = float(np.linalg.norm(wanted.astype(np.float64)))
    return 200.0 if noise == 0 else 20 * float(np.log10(max(signal, 1e-30) / noise))


def damage_alone(
    ranges: Ranges,
    layers: Sequence[Layer],
    rows: Batch,
    scratch: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Per layer the signal to noise (dB) of the answers when only it is quantized.

    The lower, the more that layer hurts. ``rows`` are what the network is asked each time.
    """
    wanted = answers_to(ranges.graph, rows)
    alone = scratch / "alone.onnx"
    found = {}
    for number, layer in enumerate(layers, 1):
        progress(f"layer {number} of {len(layers)}")
        ranges.quantize(alone, only=[layer.name])
        found[layer.name] = distance(answers_to(alone, rows), wanted).signal_db
    alone.unlink(missing_ok=True)
    return found
