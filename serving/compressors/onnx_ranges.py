"""An ONNX graph with the ranges of its tensors, from which it is quantized in part or whole.

The ranges are observed once and kept in a file, because trying out which layers bear
quantization makes dozens of quantized files from the same ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.compressors.onnx_layers import RECTIFIERS
from serving.compressors.quiet import quiet
from serving.steps import Making

Batch = Mapping[str, np.ndarray]
# Of inputs in a call: what a network keeps of them in between is hundreds of times as much.
_BYTES_PER_CALL = 2 << 20
_MOST_ROWS = 32


@dataclass(frozen=True)
class Ranges:
    """``graph`` is the file to quantize, ``kept`` its ranges, as ``method`` found them."""

    graph: Path
    kept: Path
    method: str

    def quantize(
        self,
        target: Path,
        *,
        per_channel: bool = True,
        reduce_range: bool = True,
        operators: Iterable[str] | None = None,
        only: Iterable[str] = (),
        leave_out: Iterable[str] = (),
    ) -> None:
        """Write the int8 file (quantize/dequantize pairs).

        ``operators`` limits it to some operator types, ``only`` to some nodes; ``leave_out``
        names nodes that stay in float. With ``reduce_range`` weights use 7 of their 8 bits: a
        CPU with AVX2 and no VNNI adds products of 8 by 8 bits in 16, which overflow silently.
        Nobody knows at build time which CPU a file will meet.
        """
        from onnxruntime import quantization

        with quiet():
            quantization.quantize_static(
                self.graph,
                target,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=per_channel,
                reduce_range=reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=list(operators) if operators else None,
                calibrate_method=quantization.CalibrationMethod[self.method],
                calibration_cache_path=self.kept,
                nodes_to_quantize=list(only),
                nodes_to_exclude=list(leave_out),
            )


def batches_of(making: Making, chosen: np.ndarray) -> Iterator[Batch]:
    """The training rows ``chosen``, as a model is sent them; the larger, the fewer at a time."""
    row = sum(values.nbytes for values in making.data.training_rows(chosen[:1]).values())
    size = max(1, min(_MOST_ROWS, _BYTES_PER_CALL // row))
    for start in range(0, len(chosen), size):
        yield making.data.training_rows(chosen[start : start + size])


def prepare(source: Path, target: Path) -> None:
    """Fold constants and infer shapes, as onnxruntime wants it before quantization."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet():
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)


def observe(graph: Path, batches: Iterable[Batch], method: str, scratch: Path) -> Ranges:
    """Run ``batches`` through a prepared graph and keep the ranges that ``method`` chooses.

    ``method`` is MinMax, Entropy or Percentile (``onnxruntime.quantization``). Batches are taken
    one by one, so that only one batch's activations are in memory.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

    kept = scratch / f"ranges-{method}.json"
    with quiet():
        calibrator = create_calibrator(
            graph,
            augmented_model_path=str(scratch / f"observed-{method}.onnx"),
            calibrate_method=quantization.CalibrationMethod[method],
        )
        for batch in batches:
            calibrator.collect_data(_one(batch))
        save_tensors_data(_narrowed(calibrator.compute_data(), graph), kept)
    return Ranges(graph, kept, method)


def _narrowed(ranges: Any, graph: Path) -> Any:
    """Give what a rectifier cuts off no levels: its input takes the range of its output.

    Between two int8 layers onnxruntime removes the rectifier, and the output's range does its
    work. Where the layer behind stays in float it would quantize the input instead, over values
    that are cut off next; saturating at the output's range is the same, with finer levels.
    """
    import onnx

    model = onnx.load(graph)
    read_by: dict[str, int] = {output.name: 1 for output in model.graph.output}
    for name in (name for node in model.graph.node for name in node.input):
        read_by[name] = read_by.get(name, 0) + 1
    for node in model.graph.node:
        if node.op_type not in RECTIFIERS or read_by[node.input[0]] > 1:
            continue
        if node.input[0] in ranges and node.output[0] in ranges:
            ranges[node.input[0]] = ranges[node.output[0]]
    return ranges


def _one(batch: Batch) -> Any:
    from onnxruntime import quantization

    class One(quantization.CalibrationDataReader):  # type: ignore[misc] # untyped library
        def __init__(self) -> None:
            self._left = [dict(batch)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self._left.pop() if self._left else None

    return One()
