"""The layers of an ONNX graph, that is its nodes with constant weights, and their neighbours."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Operators with weights; onnxruntime quantizes others only where these give reason to.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Those whose weights onnxruntime may quantize on loading.
_QUANTIZED_ON_LOADING = ("Conv", "ConvTranspose", "Gemm")
RECTIFIERS = ("Relu", "Clip")


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


def layers_of(graph: Path) -> list[Layer]:
    """The layers whose weights are constants of the graph, in its order.

    In a quantized file these are the layers that stayed in float: the weights of the others
    come out of a DequantizeLinear.
    """
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


def neighbours_of(graph: Path, layers: Sequence[Layer]) -> dict[str, set[str]]:
    """Per layer those that it shares a tensor with: one writes it, the other reads it.

    A rectifier belongs to the layer before it. Through a sum, a pool or anything else, which is
    quantized for itself, two layers share nothing.
    """
    import onnx

    names = {layer.name for layer in layers}
    found: dict[str, set[str]] = {name: set() for name in names}
    writers: dict[str, str] = {}
    for node in onnx.load(graph).graph.node:  # what writes a tensor comes before what reads it
        before = writers.get(node.input[0]) if node.input else None
        if node.name in names:
            writers[node.output[0]] = node.name
            if before:
                found[before].add(node.name)
                found[node.name].add(before)
        elif before and node.op_type in RECTIFIERS:
            writers[node.output[0]] = before
    return found


def quantized_on_loading(path: Path, left_out: Collection[str]) -> list[str]:
    """Of layers left in float those whose weights onnxruntime quantizes when it loads the file.

    Its optimizer WeightBiasQuantization does so, with one scale for all channels, where the
    input comes from a DequantizeLinear and the output goes to one QuantizeLinear, rectifiers
    between them or not (core/optimizer/qdq_transformer/weight_bias_quantization.cc).
    """
    import onnx

    nodes = onnx.load(path).graph.node
    writers: dict[str, str] = {name: node.op_type for node in nodes for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def ends_in_int8(node: Any) -> bool:
        read_by = readers.get(node.output[0], [])
        if len(read_by) != 1:
            return False
        if read_by[0].op_type in RECTIFIERS:
            return ends_in_int8(read_by[0])
        return bool(read_by[0].op_type == "QuantizeLinear")

    return [
        node.name
        for node in nodes
        if node.name in left_out
        and node.op_type in _QUANTIZED_ON_LOADING
        and writers.get(node.input[0]) == "DequantizeLinear"
        and ends_in_int8(node)
    ]
