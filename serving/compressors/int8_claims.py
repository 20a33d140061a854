"""What an int8 ONNX file claims of its weights, read from the file itself."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from serving.steps import StepFailed

# Of nodes that multiply by a matrix of weights, it is the second input.
_LINEAR = frozenset({"MatMul", "Gemm", "Attention"})
# What they become where they are quantized, with the matrix as an input of its own.
_INTEGER = frozenset({"MatMulInteger", "QAttention"})
_EIGHT_BITS = frozenset({2, 3})  # TensorProto.UINT8 and INT8
_SHRINKS = 3.5
_SEVEN_BITS = 64


def linear_weights_shrank(source: Path, target: Path, what: str) -> None:
    """Raise StepFailed unless the matrices of linear layers take 3.5 times fewer bytes.

    Four times would be all of them in eight bits. What counts is their bytes, not the file's,
    which may be mostly of another kind: a file shrinks a little by a single small matrix.
    """
    before = sum(_float_matrices(source))
    after = sum(_float_matrices(target)) + sum(_int8_matrices(target))
    if after * _SHRINKS > before:
        raise StepFailed(
            f"{what}: the matrices of linear layers take {after:,} bytes, {before:,} before; "
            f"they are claimed to shrink {_SHRINKS:g} times"
        )


def weights_are_scaled(path: Path, what: str, *, per_channel: bool, seven_bits: bool) -> None:
    """Raise StepFailed unless weights between pairs (QDQ) are stored as it is claimed.

    ``per_channel`` asks for as many scales as channels, else for one; ``seven_bits`` for none
    beyond 64 in size, which a CPU without VNNI adds up without an overflow.
    """
    from onnx import numpy_helper

    for weights, axis, scales in _scaled_weights(path):
        if per_channel and (axis is None or scales != weights.dims[axis]):
            raise StepFailed(f"{what}: {weights.name} does not have a scale for each channel")
        if not per_channel and scales > 1:
            raise StepFailed(f"{what}: {weights.name} has {scales} scales; one is claimed")
        largest = int(abs(numpy_helper.to_array(weights).astype(int)).max(initial=0))
        if seven_bits and largest > _SEVEN_BITS:
            raise StepFailed(f"{what}: {weights.name} holds {largest}, more than seven bits")


def _scaled_weights(path: Path) -> Iterator[tuple[Any, int | None, int]]:
    """Each matrix or kernel of int8, the axis of its scales, if any, and their number."""
    import onnx

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        weights = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weights is None or weights.data_type != onnx.TensorProto.INT8 or not _matrix(weights):
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), None)
        yield weights, axis, prod(stored[node.input[1]].dims)


def _float_matrices(path: Path) -> Iterator[int]:
    """Bytes of each matrix of floats that a linear layer multiplies by."""
    import onnx

    graph = onnx.load(path).graph
    used = {n.input[1] for n in graph.node if n.op_type in _LINEAR and len(n.input) > 1}
    for tensor in graph.initializer:
        if tensor.name in used and tensor.data_type == onnx.TensorProto.FLOAT and _matrix(tensor):
            yield 4 * prod(tensor.dims)


def _int8_matrices(path: Path) -> Iterator[int]:
    """Bytes of each matrix of eight bits that an integer product reads."""
    import onnx

    graph = onnx.load(path).graph
    used = {name for n in graph.node if n.op_type in _INTEGER for name in n.input}
    for tensor in graph.initializer:
        if tensor.name in used and tensor.data_type in _EIGHT_BITS and _matrix(tensor):
            yield prod(tensor.dims)


def _matrix(tensor: Any) -> bool:
    return len(tensor.dims) > 1
