"""Why int8 loses quality, layer by layer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.explain_process import Answer
from serving.compressors.mixed_int8 import float_layers
from serving.compressors.onnx_layers import layers_of
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


def which_layers_int8_hurts(variants: Mapping[str, Variant]) -> Answer:
    """The naive int8 file against the calibrated and the mixed one, layer by layer.

    Rows are of the training split; the damage alone is of each layer quantized by itself, once
    with one scale for all its weights and once with one per channel.
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
            careful: damage_alone(
                ranges, layers, rows, scratch, per_channel=careful, reduce_range=careful
            )
            for careful in (False, True)
        }
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
            _db(alone[False][layer.name]),
            _db(alone[True][layer.name]),
            *(_db(errors[kind][number].weight_db) for kind in ("naive", "static")),
            *(_db(errors[kind][number].output_db) for kind in errors),
            *(_cosine(errors[kind][number]) for kind in errors),
            "float" if layer.name in kept else "int8",
        ]
        for number, layer in enumerate(layers)
    ]
    order = sorted(range(len(layers)), key=lambda number: alone[False][layers[number].name])
    worst = [layers[number] for number in order[:_SHOWN]]
    depthwise = sum(layer.depthwise for layer in worst)
    gained = median(
        alone[True][layer.name] - alone[False][layer.name] for layer in worst if layer.depthwise
    )
    return {
        "question": "Why naive int8 loses so much, and what the mixed one does about it",
        "answer": (
            f"Of {len(rows['image'])} training pictures the naive file decides "
            f"{moved['naive']:.0%} otherwise than float, the calibrated one with a scale per "
            f"channel {moved['static']:.0%}, the mixed one {moved['mixed']:.0%}. {depthwise} of "
            f"the {_SHOWN} layers that do most damage when quantized alone are depthwise: folded "
            "normalisation makes the weights of their channels differ by orders of magnitude, "
            "and one scale for all leaves the small ones no levels. A scale per channel gains "
            f"{gained:.0f} dB there (median). What is left is the activations' own; the mixed file "
            f"keeps {len(kept)} of {len(layers)} layers in float for it. Decibels are signal to "
            "noise: alone, of the network's answers with only that layer in int8; output, of that "
            f"layer's answers with all in int8. Shown are the {_SHOWN} worst; bench.json has all."
        ),
        "header": [
            "layer",
            "kind",
            "weights",
            "alone dB, one scale",
            "alone dB, per channel",
            "weight dB, naive",
            "weight dB, static",
            *(f"output dB, {kind}" for kind in errors),
            *(f"output cosine, {kind}" for kind in errors),
            "mixed",
        ],
        "rows": [body[number] for number in order[:_SHOWN]],
        "all_rows": body,
    }


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _cosine(error: LayerError) -> str:
    return "-" if error.output_cosine is None else f"{error.output_cosine:.3f}"
