"""Tiny ONNX models of every kind of signature, made with onnx.helper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def value(name: str, kind: int, shape: list[int | str | None]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    **options: Any,
) -> Path:
    initializers = [numpy_helper.from_array(v, name) for name, v in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    onnx.save(model, path, **options)
    return path


def linear(path: Path, features: int = 64, classes: int = 8, **options: Any) -> Path:
    """``y = x w``: float, one symbolic batch dimension, large enough to quantize."""
    weights = np.random.default_rng(0).normal(size=(features, classes)).astype(np.float32)
    return save(
        path,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", TensorProto.FLOAT, ["batch", features])],
        [value("y", TensorProto.FLOAT, ["batch", classes])],
        {"w": weights},
        **options,
    )


def two_layers(path: Path, features: int = 256) -> Path:
    """A large matrix and a small one behind it, their nodes called ``large`` and ``small``."""
    draw = np.random.default_rng(0)
    return save(
        path,
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="large"),
            helper.make_node("MatMul", ["h", "v"], ["y"], name="small"),
        ],
        [value("x", TensorProto.FLOAT, ["batch", features])],
        [value("y", TensorProto.FLOAT, ["batch", 32])],
        {
            "w": draw.normal(size=(features, features)).astype(np.float32),
            "v": draw.normal(size=(features, 32)).astype(np.float32),
        },
    )


def embedding(path: Path, words: int = 100, length: int | str = "length") -> Path:
    """Two inputs that share a length: ids to look up in a table, and a mask."""
    table = np.random.default_rng(0).normal(size=(words, 4)).astype(np.float32)
    return save(
        path,
        [
            helper.make_node("Gather", ["table", "ids"], ["e"]),
            helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["m", "axes"], ["mm"]),
            helper.make_node("Mul", ["e", "mm"], ["em"]),
            helper.make_node("ReduceMean", ["em"], ["y"], axes=[1], keepdims=0),
        ],
        [
            value("ids", TensorProto.INT64, ["batch", length]),
            value("mask", TensorProto.INT64, ["batch", length]),
        ],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
        {"table": table, "axes": np.array([2])},
    )


def hidden_embedding(path: Path, words: int = 50) -> Path:
    """A look-up behind arithmetic, so that the file does not give the vocabulary away."""
    table = np.random.default_rng(0).normal(size=(words, 4)).astype(np.float32)
    return save(
        path,
        [
            helper.make_node("Add", ["ids", "offset"], ["shifted"]),
            helper.make_node("Gather", ["table", "shifted"], ["y"]),
        ],
        [value("ids", TensorProto.INT64, ["batch", 3])],
        [value("y", TensorProto.FLOAT, ["batch", 3, 4])],
        {"table": table, "offset": np.array([0])},
    )


def fused_embedding(path: Path, words: int = 50) -> Path:
    """BERT's three look-ups and the layer norm behind them as onnxruntime's one node."""
    draw = np.random.default_rng(0)
    tables = {"words": words, "positions": 16, "kinds": 2}
    weights = {n: draw.normal(size=(rows, 8)).astype(np.float32) for n, rows in tables.items()}
    weights |= {"gamma": np.ones(8, np.float32), "beta": np.zeros(8, np.float32)}
    names = ["ids", "types", "words", "positions", "kinds", "gamma", "beta"]
    node = helper.make_node(
        "EmbedLayerNormalization", names, ["y", "rows"], domain="com.microsoft", epsilon=1e-5
    )
    save(
        path,
        [node],
        [value(name, TensorProto.INT32, ["batch", 4]) for name in ("ids", "types")],
        [value("y", TensorProto.FLOAT, ["batch", 4, 8])],
        weights,
    )
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    return path


def text(path: Path) -> Path:
    """Strings in, strings out."""
    return save(
        path,
        [helper.make_node("Identity", ["words"], ["same"])],
        [value("words", TensorProto.STRING, ["batch", 2])],
        [value("same", TensorProto.STRING, ["batch", 2])],
    )


def truth(path: Path) -> Path:
    """Truth values in and out, with an int32 beside them."""
    return save(
        path,
        [
            helper.make_node("Not", ["flag"], ["no"]),
            helper.make_node("Identity", ["number"], ["same"]),
        ],
        [
            value("flag", TensorProto.BOOL, [None, 3]),
            value("number", TensorProto.INT32, [None, 3]),
        ],
        [
            value("no", TensorProto.BOOL, [None, 3]),
            value("same", TensorProto.INT32, [None, 3]),
        ],
    )


def recurrent(path: Path) -> Path:
    """A state input with its batch in the middle, a scalar, and no batch axis in common."""
    return save(
        path,
        [
            helper.make_node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["sound"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["mean", "r"], ["y"]),
            helper.make_node("Add", ["state", "one"], ["stateN"]),
        ],
        [
            value("sound", TensorProto.FLOAT, ["batch", "samples"]),
            value("state", TensorProto.FLOAT, [2, "batch", 4]),
            value("rate", TensorProto.INT64, []),
        ],
        [
            value("y", TensorProto.FLOAT, ["batch", 1]),
            value("stateN", TensorProto.FLOAT, [2, "batch", 4]),
        ],
        {"one": np.ones(1, np.float32)},
    )


def picture(path: Path) -> Path:
    """NHWC with free height and width that must be even, as a stride of two has it."""
    weights = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    return save(
        path,
        [
            helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["nchw", "w"], ["c"], strides=[2, 2]),
            helper.make_node("ReduceMean", ["c"], ["y"], axes=[2, 3], keepdims=0),
        ],
        [value("image", TensorProto.FLOAT, ["n", "height", "width", 3])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        {"w": weights},
    )


def one_row(path: Path) -> Path:
    """A batch axis in its signature, and a reshape inside that holds for a single row."""
    return save(
        path,
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 2, 2])],
        {"shape": np.array([1, 2, 2])},
    )


def detections(path: Path) -> Path:
    """A free first dimension of the output that is no batch: as many rows as are found."""
    return save(
        path,
        [
            helper.make_node("NonZero", ["x"], ["found"]),
            helper.make_node("Transpose", ["found"], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.INT64, ["found", 2])],
    )
