"""Which layers of an ONNX graph bear int8, and which are hurt by it.

Each layer is quantized alone, all others left in float; how far the network's answers move is
that layer's damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.compressors.onnx_layers import Layer, layers_of
from serving.compressors.onnx_ranges import Batch, Ranges
from serving.compressors.quiet import quiet
from serving.runtimes import open_model
from serving.scoring import predict_in_chunks

_ROWS_PER_CALL = 16


@dataclass(frozen=True)
class Distance:
    """How far answers are from the original's: by decisions and by signal to noise."""

    differing: float
    """Share of rows decided for another class, by the first output."""
    signal_db: float
    """20 log10(norm of the original's answers / norm of the difference)."""


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
    *,
    per_channel: bool = True,
    reduce_range: bool = True,
) -> dict[str, float]:
    """Per layer the signal to noise (dB) of the answers when only it is quantized.

    The lower, the more that layer hurts. ``rows`` are what the network is asked each time.
    """
    wanted = answers_to(ranges.graph, rows)
    alone = scratch / "alone.onnx"
    found = {}
    for number, layer in enumerate(layers, 1):
        progress(f"layer {number} of {len(layers)}")
        ranges.quantize(
            alone, per_channel=per_channel, reduce_range=reduce_range, only=[layer.name]
        )
        found[layer.name] = distance(answers_to(alone, rows), wanted).signal_db
    alone.unlink(missing_ok=True)
    return found


@dataclass(frozen=True)
class LayerError:
    """How far a layer's weights and answers are from the float file's, in an int8 file.

    ``weight_db`` and ``output_db`` are signal to noise; ``output_cosine`` is that of the angle
    between the two outputs. None where the layer, or what it answers, is not quantized.
    """

    layer: Layer
    weight_db: float | None
    output_db: float | None
    output_cosine: float | None


def layer_errors(graph: Path, int8: Path, rows: Batch, scratch: Path) -> list[LayerError]:
    """Compare an int8 file with the prepared float graph that it was made from, layer by layer.

    Both answer ``rows``, and every inner tensor is kept: a few rows are enough and all that
    fits into memory. Unlike :func:`damage_alone` an output carries the errors of all before it.
    """
    import onnx
    from onnxruntime.quantization import qdq_loss_debug as debug

    with quiet():
        kept = []
        for number, file in enumerate((graph, int8)):
            augmented = scratch / f"all-tensors-{number}.onnx"
            debug.modify_model_output_intermediate_tensors(file, augmented)
            kept.append(debug.collect_activations(str(augmented), iter([dict(rows)])))
            augmented.unlink()
        weights = debug.compute_weight_error(
            debug.create_weight_matching(str(graph), str(int8)), signal_db
        )
        pairs = debug.create_activation_matching(kept[1], kept[0])
    nodes = {node.name: node for node in onnx.load(graph).graph.node}
    readers = {name: node for node in nodes.values() for name in node.input}
    found = []
    for layer in layers_of(graph):
        node = nodes[layer.name]
        output = node.output[0]
        if output not in pairs and output in readers:  # an activation that became part of it
            output = readers[output].output[0]
        db, cosine = None, None
        if "float" in (pair := pairs.get(output, {})):
            wanted, got = (
                np.concatenate([part.reshape(-1) for part in pair[key]])
                for key in ("float", "post_qdq")
            )
            db, cosine = signal_db(wanted, got), _cosine(wanted, got)
        found.append(LayerError(layer, weights.get(node.input[1]), db, cosine))
    return found


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a.astype(np.float64) @ b) / lengths if lengths else 0.0
