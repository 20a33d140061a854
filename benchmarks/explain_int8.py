"""Why int8 loses quality, layer by layer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.explain_process import Answer
from serving.compressors.mixed_int8 import float_layers
from serving.compressors.onnx_layers import Layer, layers_of
from serving.compressors.onnx_ranges import observe, prepare
from serving.compressors.sensitivity import (
    LayerError,
    answers_to,
    damage_alone,
    distance,
    layer_errors,
)
from serving.model_store import model_path
from serving.records import Variant
from serving.workloads import find_workload
from tonnage.config import load_study

_SHOWN = 15
_WAYS = {
    "one scale": (False, False),
    "one scale, 7 bits": (False, True),
    "per channel, 7 bits": (True, True),
}
"""How a layer is quantized alone: whether each channel has a scale, and whether to seven bits."""


def which_layers_int8_hurts(variants: Mapping[str, Variant]) -> Answer:
    """The naive int8 file against the calibrated and the mixed one, layer by layer.

    Rows are of the training split; the damage alone is of each layer quantized by itself: with
    one scale for all its weights, with seven bits instead of eight, and with a scale per channel
    as well, so that what overflows here and what has no levels are told apart.
    """
    study, _ = load_study("efficientnet_lite0")
    workload = find_workload(study.workload)
    data = workload.load(study.data.source, study.seed)
    rows = data.training_rows(slice(0, 64))
    few = {name: values[:16] for name, values in rows.items()}
    files = {name: model_path(variants[name]) for name in variants}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        graph = scratch / "prepared.onnx"
        prepare(files["onnx"], graph)
        errors = {
            kind: layer_errors(graph, files[f"onnx_int8_{kind}"], few, scratch)
            for kind in ("naive", "static", "mixed")
        }
        batches = [data.training_rows(slice(i, i + 16)) for i in range(64, 320, 16)]
        ranges = observe(graph, batches, "MinMax", scratch)
        layers = layers_of(graph)
        alone = {
            how: damage_alone(
                ranges, layers, rows, scratch, per_channel=per_channel, reduce_range=reduce_range
            )
            for how, (per_channel, reduce_range) in _WAYS.items()
        }
        spread = _channel_spread(graph, layers)
        wanted = answers_to(graph, rows)
        moved = {
            kind: distance(answers_to(files[f"onnx_int8_{kind}"], rows), wanted).differing
            for kind in errors
        }
    kept = set(float_layers(files["onnx_int8_mixed"]))
    body = [
        [
            layer.name,
            layer.kind,
            f"{int(np.prod(layer.shape)):,}",
            f"{spread[layer.name]:.3g}",
            *(_db(alone[how][layer.name]) for how in _WAYS),
            *(_db(errors[kind][number].weight_db) for kind in ("naive", "static")),
            *(_db(errors[kind][number].output_db) for kind in errors),
            *(_cosine(errors[kind][number]) for kind in errors),
            "float" if layer.name in kept else "int8",
        ]
        for number, layer in enumerate(layers)
    ]
    naive, fewer_bits, careful = (alone[how] for how in _WAYS)
    order = sorted(range(len(layers)), key=lambda number: naive[layers[number].name])
    worst = [layers[number] for number in order[:_SHOWN]]
    depthwise = [layer.name for layer in worst if layer.depthwise]
    others = [layer.name for layer in layers if not layer.depthwise]
    of_bits, of_scales = (
        _middle([after[name] - before[name] for name in depthwise])
        for before, after in ((naive, fewer_bits), (fewer_bits, careful))
    )
    apart = _middle([spread[name] for name in depthwise])
    return {
        "question": "Why naive int8 loses so much, and what the mixed one does about it",
        "answer": (
            f"Of {len(rows['image'])} training pictures the naive file decides "
            f"{moved['naive']:.0%} otherwise than float, the calibrated one with a scale per "
            f"channel {moved['static']:.0%}, the mixed one {moved['mixed']:.0%}. {len(depthwise)} "
            f"of the {_SHOWN} layers that do most damage when quantized alone are depthwise. In "
            f"those the largest weight of one channel is {apart:.3g} times that of another "
            f"(median; {_middle([spread[name] for name in others]):.3g} in the layers that are not "
            "depthwise), since normalisation is folded into them, and one scale leaves the small "
            f"channels few levels: a scale per channel changes their answers' signal to noise by "
            f"{of_scales:+.1f} dB (median). Seven bits of weights in place of eight, which cannot "
            f"overflow on CPUs without VNNI, change it by {of_bits:+.1f} dB on this one. What is "
            f"left is the activations' own; the mixed file keeps {len(kept)} of {len(layers)} "
            "layers in float for it. Decibels are signal to noise: alone, of the network's answers "
            "with only that layer in int8; output, of that layer's answers with all in int8. Shown "
            f"are the {_SHOWN} worst; bench.json has all."
        ),
        "header": [
            "layer",
            "kind",
            "weights",
            "channels' largest weights, most over least",
            *(f"alone dB, {how}" for how in _WAYS),
            "weight dB, naive",
            "weight dB, static",
            *(f"output dB, {kind}" for kind in errors),
            *(f"output cosine, {kind}" for kind in errors),
            "mixed",
        ],
        "rows": [body[number] for number in order[:_SHOWN]],
        "all_rows": body,
    }


def _channel_spread(graph: Path, layers: Sequence[Layer]) -> dict[str, float]:
    """Per layer the largest weight of one output channel over that of another, most over least.

    Channels whose weights are all zero are left out.
    """
    import onnx

    model = onnx.load(graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {node.name: node.input[1] for node in model.graph.node if len(node.input) > 1}
    found = {}
    for layer in layers:
        values = np.abs(onnx.numpy_helper.to_array(constants[weights[layer.name]]))
        channels = 1 if layer.operator == "MatMul" else 0
        largest = values.max(axis=tuple(i for i in range(values.ndim) if i != channels))
        largest = largest[largest > 0]
        found[layer.name] = float(largest.max() / largest.min())
    return found


def _middle(values: Sequence[float]) -> float:
    """Median; nan of none."""
    return median(values) if values else float("nan")


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _cosine(error: LayerError) -> str:
    return "-" if error.output_cosine is None else f"{error.output_cosine:.3f}"
