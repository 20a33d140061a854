"""int8 with the layers that it hurts most left in float: mixed precision by sensitivity."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from serving.compressors import checks
from serving.compressors.onnx_int8 import has_int8_weights
from serving.compressors.onnx_ranges import Batch, Ranges, observe, prepare
from serving.compressors.sensitivity import (
    Distance,
    answers_to,
    damage_alone,
    distance,
    layers_of,
    readers_of,
)
from serving.steps import Making, Step

FLOAT_LAYERS = "float_layers"
_ROWS_PER_CALL = 16


@dataclass(frozen=True)
class MixedInt8(Step):
    """Static int8 per channel, calibrated, with as few layers in float as decisions allow.

    Of ``methods`` to choose ranges the one is taken that keeps the answers closest. Then layers
    are left in float, those first that do most damage when quantized alone, until at most
    ``tolerance`` of ``judged_rows`` rows are decided otherwise than by the original, or the
    file would no longer be ``smaller`` times smaller. All rows are of the training split: the
    test set has no say in what is chosen. Which layers stayed in float is written into the file.
    """

    tolerance: float = 0.02
    smaller: float = 3.0
    methods: tuple[str, ...] = ("MinMax", "Entropy", "Percentile")
    calibration_rows: int = 256
    judged_rows: int = 500
    sensitivity_rows: int = 64
    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")
    memory_gib: ClassVar[float] = 2.0

    @property
    def title(self) -> str:
        """In words."""
        return "int8 static, mixed"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Calibrate, choose the method, then the layers."""
        graph = making.scratch / "prepared.onnx"
        prepare(source, graph)
        order = np.random.default_rng(making.seed).permutation(len(making.data.train_labels))
        calibration, rest = np.split(order, [self.calibration_rows])
        judged = making.data.training_rows(rest[: self.judged_rows])
        wanted = answers_to(graph, judged)

        def judge(ranges: Ranges, leave_out: list[str]) -> Distance:
            ranges.quantize(target, leave_out=leave_out)
            return distance(answers_to(target, judged), wanted)

        tried: list[tuple[Ranges, Distance]] = []
        for method in self.methods:
            making.progress(f"observing ranges, {method}")
            ranges = observe(graph, _batches(making, calibration), method, making.scratch)
            tried.append((ranges, judge(ranges, [])))
        ranges, whole = max(tried, key=lambda pair: pair[1].signal_db)
        making.progress(f"{ranges.method}: {whole.differing:.1%} decided otherwise")
        best, left_out = whole, list[str]()
        if whole.differing > self.tolerance:
            asked = {k: v[: self.sensitivity_rows] for k, v in judged.items()}
            layers = layers_of(graph)
            damage = damage_alone(ranges, layers, asked, making.scratch, making.progress)
            for candidate in _candidates(damage, readers_of(graph, layers)):
                found = judge(ranges, candidate)
                if checks.size_of(target) * self.smaller > checks.size_of(source):
                    break
                making.progress(f"{len(candidate)} layers in float: {found.differing:.1%}")
                if found.differing < best.differing:
                    best, left_out = found, candidate
                if best.differing <= self.tolerance:
                    break
        ranges.quantize(target, leave_out=left_out)
        _note(target, {FLOAT_LAYERS: json.dumps(left_out), "ranges": ranges.method})

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Some weights are int8, and the file is as much smaller as is claimed."""
        has_int8_weights(target)
        checks.is_smaller(source, target, self.title, at_most=1 / self.smaller)


def float_layers(path: Path) -> list[str]:
    """The layers that :class:`MixedInt8` left in float in this file."""
    import onnx

    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return list(json.loads(notes.get(FLOAT_LAYERS, "[]")))


def _batches(making: Making, chosen: np.ndarray) -> Iterator[Batch]:
    for start in range(0, len(chosen), _ROWS_PER_CALL):
        yield making.data.training_rows(chosen[start : start + _ROWS_PER_CALL])


def _candidates(damage: dict[str, float], readers: dict[str, set[str]]) -> Iterator[list[str]]:
    """Growing sets of layers to leave in float, worst first, each in company.

    A layer whose input and output are int8 does not stay in float alone: onnxruntime quantizes
    its weights when it loads the file, and with one scale for all channels (its optimizer
    WeightBiasQuantization). So the neighbour that is hurt more comes along, which also spares
    the tensor between the two. The first layers and the last need no company.
    """
    before = {name: {o for o, read_by in readers.items() if name in read_by} for name in readers}
    chosen: list[str] = []
    for name in sorted(damage, key=damage.__getitem__):
        if name in chosen:
            continue
        chosen.append(name)
        near = before[name] | readers[name]
        if before[name] and readers[name] and not near & set(chosen):
            chosen.append(min(near, key=damage.__getitem__))
        yield list(chosen)


def _note(path: Path, notes: dict[str, str]) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, path)
