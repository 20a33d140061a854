"""What an ONNX file says of itself, read before any runtime touches it.

A file is refused here when it is no ONNX model, is cut short, or keeps weights in files
outside its own folder: a model must not make a server read what it was not given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from serving.errors import BadInput
from serving.generate import Hints
from serving.records import TensorSpec, sha256_of

# What dynamic quantization rewrites, and it needs weights that are in the file.
QUANTIZABLE = frozenset({"MatMul", "Gemm", "Conv", "LSTM", "Attention", "EmbedLayerNormalization"})
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
_FLOAT = 1  # TensorProto.FLOAT
# TensorProto's types of weights: what they are called, and bytes of a number.
_WIDTHS = {_FLOAT: ("fp32", 4), 10: ("fp16", 2), 11: ("fp64", 8), 2: ("int8", 1), 3: ("int8", 1)}
_FUSED_EMBEDDINGS = {"EmbedLayerNormalization", "QEmbedLayerNormalization"}
_KEEPS_VALUES = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}


def read_graph(path: Path) -> Any:
    """The model as ``onnx.ModelProto``, without external data.

    BadInput when it cannot be read, is not ONNX, or names external data that is absent or
    lies outside of the folder of ``path``.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check --model") from None
    except Exception:  # protobuf's DecodeError, of whichever implementation is in use
        raise BadInput(
            f"{path}: not an ONNX model, or cut short; export it again, or check --model"
        ) from None
    if not model.graph.node or not model.opset_import:
        raise BadInput(f"{path}: holds no ONNX graph: another kind of file, renamed or cut short")
    for tensor in _tensors(model.graph):
        if tensor.data_location == _EXTERNAL:
            _check_external(path, tensor)
    return model


def uses_external_data(model: Any) -> bool:
    """Whether weights lie beside the file."""
    return any(tensor.data_location == _EXTERNAL for tensor in _tensors(model.graph))


def content_sha256(path: Path, model: Any) -> str:
    """SHA-256 of all that the model is made of, as hex; ``model`` is what :func:`read_graph` gave.

    That of the file, unless weights lie beside it: a model that was trained again has the same
    graph, to the byte, and other weights in the files beside it.
    """
    own = sha256_of(path)
    beside = [(location, sha256_of(path.parent / location)) for location in _beside(model)]
    return hashlib.sha256(repr([own, *beside]).encode()).hexdigest() if beside else own


def content_bytes(path: Path, model: Any) -> int:
    """Bytes of the file and of those that its weights lie in beside it."""
    return sum((path.parent / name).stat().st_size for name in (path.name, *_beside(model)))


def hints(model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Hints:
    """Vocabulary sizes of integer inputs, and inputs that an output feeds back: the state."""
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    origin = {spec.name: spec.name for spec in inputs}
    vocabulary: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _KEEPS_VALUES and node.input and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        for table, index, axis in _lookups(node):
            if table in weights and index in origin:
                size, name = weights[table][axis], origin[index]
                vocabulary[name] = min(size, vocabulary.get(name, size))
    state = frozenset(
        spec.name
        for spec in inputs
        if len(inputs) > 1 and any(_feeds(output, spec) for output in outputs)
    )
    return Hints(vocabulary, state)


def precision(model: Any) -> str:
    """In which numbers most bytes of the weights are: ``fp32``, ``fp16``, ``int8``, ``fp64``."""
    sizes: dict[str, int] = {}
    for tensor in _tensors(model.graph):
        name, width = _WIDTHS.get(tensor.data_type, ("other", 0))
        sizes[name] = sizes.get(name, 0) + width * prod(tensor.dims)
    known = {name: size for name, size in sizes.items() if size}
    return max(known, key=lambda name: known[name], default="fp32")


def quantizable(model: Any) -> bool:
    """Whether any operation is one that dynamic quantization makes smaller."""
    weights = {t.name for t in model.graph.initializer if t.data_type == _FLOAT}
    weights |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return any(
        node.op_type in QUANTIZABLE and len(weights.intersection(node.input)) > 0
        for node in model.graph.node
    )


def forget_shapes_of_weights(path: Path) -> None:
    """Rewrite a file without the shapes that are noted beside the weights, which have their own."""
    import onnx

    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    for note in [n for n in model.graph.value_info if n.name in weights]:
        model.graph.value_info.remove(note)
    onnx.save(model, path)


def explain_load_error(path: Path, message: str) -> str:
    """Onnxruntime's reason for not loading a file, in one line that says what to do."""
    found = re.search(r"Opset (\d+) is under development.*?till opset (\d+)", message, re.DOTALL)
    if found:
        return (
            f"{path}: opset {found[1]}, and onnxruntime {version('onnxruntime')} goes up to "
            f"{found[2]}; export with a lower opset, or upgrade onnxruntime"
        )
    found = re.search(r"IR version: (\d+), max supported IR version: (\d+)", message)
    if found:
        return (
            f"{path}: IR version {found[1]}, and onnxruntime {version('onnxruntime')} goes up "
            f"to {found[2]}; export with an older onnx, or upgrade onnxruntime"
        )
    if external := re.search(r'xternal data.*?"([^"]+)"', message):
        return (
            f"{path}: onnxruntime cannot load this file (its external data, "
            f"{Path(external[1]).name}, must lie in the folder of the model; they are missing or "
            "lie elsewhere)"
        )
    first = (message.strip().splitlines() or ["no message"])[0][:300]
    return f"{path}: onnxruntime cannot load this file ({first})"


def _lookups(node: Any) -> Iterator[tuple[str, str, int]]:
    """Table, indices, and the table's axis of every look-up that a node does."""
    if node.op_type == "Gather":
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        yield node.input[0], node.input[1], axis
    elif node.op_type in _FUSED_EMBEDDINGS:  # ids, segments, and the tables of both
        yield node.input[2], node.input[0], 0
        if len(node.input) > 4:
            yield node.input[4], node.input[1], 0


def _feeds(output: TensorSpec, state: TensorSpec) -> bool:
    """Whether an output looks like the next value of ``state``, by name and by shape.

    ``h`` and ``hn``, ``state`` and ``stateN``, ``past.0.key`` and ``present.0.key``.
    """
    name = state.name.replace("past_key_values", "past").replace("past", "present", 1)
    named = output.name.startswith(state.name) or output.name.startswith(name)
    alike = len(output.shape) == len(state.shape) and all(
        -1 in (a, b) or a == b for a, b in zip(output.shape, state.shape, strict=True)
    )
    return named and alike and output.datatype == state.datatype and len(state.shape) > 1


def _tensors(graph: Any) -> Iterator[Any]:
    """All weights and constants, in branches and loop bodies, too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for branch in attribute.graphs:
                yield from _tensors(branch)


def _beside(model: Any) -> list[str]:
    """Names of the files that hold weights, relative to the folder of the model."""
    return sorted(
        {
            entry.value
            for tensor in _tensors(model.graph)
            if tensor.data_location == _EXTERNAL
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )


def _check_external(path: Path, tensor: Any) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    target = (folder / location).resolve()  # symbolic links and '..' are followed, then judged
    if not location or not target.is_relative_to(folder) or target == folder:
        raise BadInput(
            f"{path}: keeps weights in {location!r}, outside of its own folder; refused: save it "
            "with its data beside it or inside"
        )
    if not target.is_file():
        raise BadInput(
            f"{path}: its weights are in {location!r}, which is not beside it; copy that file, too"
        )
    size = target.stat().st_size
    needed = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
    if needed > size:
        raise BadInput(f"{target}: cut short: {size:,} bytes, {path.name} needs {needed:,}")
