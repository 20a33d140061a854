"""int8 quantization of ONNX files by onnxruntime: dynamic, and static with calibration data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from serving.compressors import checks
from serving.compressors.int8_claims import linear_weights_shrank, weights_are_scaled
from serving.compressors.onnx_ranges import Batch, batches_of, observe, prepare
from serving.compressors.quiet import quiet
from serving.steps import Making, Step, StepFailed


@dataclass(frozen=True)
class DynamicInt8(Step):
    """Weights become int8 once, activations in every call.

    ``operators`` limits it to some operator types; None means all that onnxruntime knows.
    """

    operators: tuple[str, ...] | None = None
    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")

    @property
    def title(self) -> str:
        """In words."""
        return "int8 dynamic" + (f" ({', '.join(self.operators)})" if self.operators else "")

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Quantize per channel, to signed weights."""
        from onnxruntime import quantization

        with quiet():
            quantization.quantize_dynamic(
                source,
                target,
                op_types_to_quantize=list(self.operators) if self.operators else None,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
            )

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Weights are int8, those of linear layers a quarter of the bytes, the file is smaller."""
        has_int8_weights(target)
        if self.operators is None or "MatMul" in self.operators:
            linear_weights_shrank(source, target, self.title)
        checks.is_smaller(source, target, self.title)


@dataclass(frozen=True)
class StaticInt8(Step):
    """Weights and activations become int8, scaled by what ``calibration_rows`` rows show.

    The rows come from the training split. Quantize/dequantize pairs (QDQ); ``per_channel`` says
    whether each channel's weights have a scale of their own. ``operators`` limits it to some
    operator types; None means all that onnxruntime knows. ``reduce_range`` keeps the products
    from overflowing on CPUs without VNNI, see :meth:`Ranges.quantize`.
    """

    calibration_rows: int = 512
    method: str = "MinMax"
    per_channel: bool = True
    reduce_range: bool = True
    operators: tuple[str, ...] | None = None
    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")
    memory_gib: ClassVar[float] = 1.0
    memory_factor: ClassVar[float] = 10.0  # the graph, prepared, observed and quantized

    @property
    def title(self) -> str:
        """In words."""
        return "int8 static"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Prepare the graph, watch its activations, quantize."""
        graph = making.scratch / source.name
        prepare(source, graph)
        batches = calibration_batches(making, self.calibration_rows)
        ranges = observe(graph, batches, self.method, making.scratch)
        ranges.quantize(
            target,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            operators=self.operators,
        )

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Weights are int8, within the bits and with the scales claimed; so are activations."""
        import onnx

        has_int8_weights(target)
        weights_are_scaled(
            target, self.title, per_channel=self.per_channel, seven_bits=self.reduce_range
        )
        operators = {node.op_type for node in onnx.load(target).graph.node}
        if "QuantizeLinear" not in operators:
            raise StepFailed(f"{self.title}: no activation is quantized")
        checks.is_smaller(source, target, self.title, at_most=0.7)


def calibration_batches(making: Making, rows: int) -> Iterator[Batch]:
    """Batches of ``rows`` training rows drawn by the seed, as a model is sent them."""
    total = len(making.data.train_labels)
    draw = np.random.default_rng(making.seed)
    return batches_of(making, np.sort(draw.permutation(total)[:rows]))


def has_int8_weights(path: Path) -> None:
    """Raise StepFailed unless some tensor of the ONNX file is stored in eight bits."""
    import onnx

    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer if tensor.dims}
    if not kinds & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}:
        raise StepFailed(f"{path.name}: no weight is stored in eight bits")
