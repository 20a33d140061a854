"""int8 with the layers that it hurts most left in float: mixed precision by sensitivity."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from serving.compressors import checks
from serving.compressors.int8_claims import weights_are_scaled
from serving.compressors.onnx_int8 import has_int8_weights
from serving.compressors.onnx_layers import layers_of, neighbours_of, quantized_on_loading
from serving.compressors.onnx_ranges import Ranges, batches_of, observe, prepare
from serving.compressors.sensitivity import Distance, answers_to, damage_alone, distance
from serving.steps import Making, Step, StepFailed

FLOAT_LAYERS = "float_layers"


@dataclass(frozen=True)
class MixedInt8(Step):
    """Static int8 per channel, calibrated, with as few layers in float as decisions allow.

    Of ``methods`` to choose ranges the one is taken that keeps the answers closest. Then layers
    are left in float, those first that do most damage when quantized alone, until at most
    ``tolerance`` of ``judged_rows`` rows are decided otherwise than by the original, or the
    file would no longer be ``smaller`` times smaller. All rows are of the training split: the
    test set has no say in what is chosen. What was trained on them decides them with more margin
    than new ones, so ``tolerance`` promises nothing of these. Which layers stayed in float is
    written into the file.
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

        def judge(ranges: Ranges, left_out: list[str]) -> Distance:
            _write(ranges, target, left_out)
            return distance(answers_to(target, judged), wanted)

        tried: list[tuple[Ranges, Distance]] = []
        for method in self.methods:
            making.progress(f"observing ranges, {method}")
            found = observe(graph, batches_of(making, calibration), method, making.scratch)
            tried.append((found, judge(found, [])))
        ranges, best = max(tried, key=lambda pair: pair[1].signal_db)
        making.progress(f"{ranges.method}: {best.differing:.1%} decided otherwise")
        left_out: list[str] = []
        if best.differing > self.tolerance:
            asked = {name: values[: self.sensitivity_rows] for name, values in judged.items()}
            layers = layers_of(graph)
            damage = damage_alone(ranges, layers, asked, making.scratch, making.progress)

            def spoiled(names: list[str]) -> list[str]:
                _write(ranges, target, names)
                return quantized_on_loading(target, names)

            for candidate in candidates(damage, neighbours_of(graph, layers), spoiled):
                now = judge(ranges, candidate)
                if checks.size_of(target) * self.smaller >= checks.size_of(source):
                    break
                making.progress(f"{len(candidate)} layers in float: {now.differing:.1%}")
                if now.differing < best.differing:
                    best, left_out = now, candidate
                if best.differing <= self.tolerance:
                    break
        _write(ranges, target, left_out)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Weights are int8 as claimed, those noted are float and stay so, the file is small."""
        has_int8_weights(target)
        weights_are_scaled(target, self.title, per_channel=True, seven_bits=True)
        noted = float_layers(target)
        there = {layer.name for layer in layers_of(target)}
        if absent := [name for name in noted if name not in there]:
            raise StepFailed(f"{self.title}: {absent[0]} is said to be in float, and is not")
        if lost := quantized_on_loading(target, noted):
            raise StepFailed(f"{self.title}: {lost[0]} does not stay in float in onnxruntime")
        checks.is_smaller(source, target, self.title, at_most=1 / self.smaller)


def float_layers(path: Path) -> list[str]:
    """The layers that :class:`MixedInt8` left in float in this file."""
    import onnx

    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return list(json.loads(notes.get(FLOAT_LAYERS, "[]")))


def candidates(
    damage: Mapping[str, float],
    neighbours: Mapping[str, set[str]],
    spoiled: Callable[[list[str]], list[str]],
) -> Iterator[list[str]]:
    """Growing sets of layers to leave in float, worst first, each in company if it needs some.

    ``damage`` is signal to noise: the lower, the worse. ``spoiled`` names those of a set that
    would be quantized on loading after all, because all around them is int8. The neighbour
    that is hurt most then comes along, which also spares the tensor between the two. A layer
    whose neighbours do not help is passed over.
    """
    chosen: list[str] = []
    for name in sorted(damage, key=damage.__getitem__):
        if name in chosen:
            continue
        larger = [*chosen, name]
        while (lost := spoiled(larger)) and (near := neighbours[name] - set(larger)):
            larger.append(min(near, key=damage.__getitem__))
        if not lost:
            chosen = larger
            yield list(chosen)


def _write(ranges: Ranges, target: Path, left_out: list[str]) -> None:
    """Quantize all but ``left_out``, and note in the file what that is."""
    import onnx

    ranges.quantize(target, leave_out=left_out)
    model = onnx.load(target)
    notes = {FLOAT_LAYERS: json.dumps(left_out), "ranges": ranges.method}
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, target)
