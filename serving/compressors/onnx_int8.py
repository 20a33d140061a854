"""int8 quantization of ONNX files by onnxruntime: dynamic, and static with calibration data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from serving.compressors import checks
from serving.steps import Making, Step, StepFailed


@dataclass(frozen=True)
class DynamicInt8(Step):
    """Weights of matrix products become int8 once, activations in every call.

    ``operators`` limits it to some operator types; onnxruntime's choice is all it knows.
    """

    operators: tuple[str, ...] | None = None
    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")

    @property
    def title(self) -> str:
        """In words."""
        return "int8 dynamic"

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
        """Some weights are int8, and the file is smaller."""
        has_int8_weights(target)
        checks.is_smaller(source, target, self.title)


def has_int8_weights(path: Path) -> None:
    """Raise StepFailed unless some tensor of the ONNX file is stored in eight bits."""
    import onnx

    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer if tensor.dims}
    if not kinds & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}:
        raise StepFailed(f"{path.name}: no weight is stored in eight bits")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence advice that onnxruntime's quantizer gives on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
