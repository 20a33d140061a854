"""Weight clustering: every large tensor of an ONNX file keeps a few values only.

Stored are a code book and an index of four or eight bits per weight; nodes in the graph look
the weights up again. onnxruntime does that once, when it loads the file, so the model runs as
fast as before; what shrinks is the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from serving.compressors import checks
from serving.compressors.quiet import quiet
from serving.steps import Making, Step, StepFailed

_SMALLEST = 1024  # weights; below it the code book costs more than it saves
_ROUNDS = 20
_SAMPLE = 500_000  # weights of a tensor that the book is made from, at least


@dataclass(frozen=True)
class ClusterWeights(Step):
    """Replace the weights of each tensor by ``values`` values, found by k-means."""

    values: int = 16
    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "scipy")

    @property
    def title(self) -> str:
        """In words."""
        return f"weights clustered to {self.values} values"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Cluster tensor by tensor, starting from quantiles so that nothing is random."""
        import onnx

        model = onnx.load(source)
        graph = model.graph
        lookups = []
        for tensor in list(graph.initializer):
            weights = onnx.numpy_helper.to_array(tensor)
            if weights.dtype == np.float32 and weights.size >= _SMALLEST:
                book, codes = _clustered(weights, self.values)
                graph.initializer.remove(tensor)
                stored, nodes = _lookup(tensor.name, book, codes, self.values)
                graph.initializer.extend(stored)
                lookups += nodes
        if not lookups:
            raise StepFailed(f"{self.title}: no tensor has {_SMALLEST:,} weights")
        kept = list(graph.node)
        del graph.node[:]
        graph.node.extend([*lookups, *kept])
        for item in model.opset_import:
            if item.domain in ("", "ai.onnx"):
                item.version = max(item.version, 21)  # from where on four bits are a type
        onnx.checker.check_model(model)
        onnx.save(model, target)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Each large tensor has few values, its indices few bits; the file shrank with them."""
        import onnx

        stored = {t.name: t for t in onnx.load(target).graph.initializer}
        for tensor in onnx.load(source).graph.initializer:
            if np.prod(tensor.dims) < _SMALLEST or tensor.data_type != onnx.TensorProto.FLOAT:
                continue
            book = stored.get(f"{tensor.name}.book")
            if book is None or tensor.name in stored or np.prod(book.dims) > self.values:
                raise StepFailed(f"{self.title}: {tensor.name} has more values than that")
        checks.is_smaller(source, target, self.title, at_most=0.35)


def _clustered(weights: np.ndarray, values: int) -> tuple[np.ndarray, np.ndarray]:
    """The code book, [values], and each weight's index into it, in the shape of the weights."""
    from scipy.cluster.vq import kmeans2

    flat = weights.reshape(-1).astype(np.float64)
    some = flat[:: max(1, len(flat) // _SAMPLE)].reshape(-1, 1)
    start = np.unique(np.quantile(some, (np.arange(values) + 0.5) / values)).reshape(-1, 1)
    with quiet():  # a value that no weight is nearest to is kept, and warned of
        found, _ = kmeans2(some, start, iter=_ROUNDS, minit="matrix", missing="warn")
    book = np.sort(found.reshape(-1))
    codes = np.searchsorted((book[1:] + book[:-1]) / 2, flat)  # of a sorted book the nearest
    return book.astype(np.float32), codes.reshape(weights.shape)


def _lookup(
    name: str, book: np.ndarray, codes: np.ndarray, values: int
) -> tuple[list[Any], list[Any]]:
    """What is stored for a tensor, and the nodes that make it again."""
    import ml_dtypes
    import onnx
    from onnx import TensorProto, helper

    bits = ml_dtypes.uint4 if values <= 16 else np.uint8
    stored = [
        onnx.numpy_helper.from_array(book, f"{name}.book"),
        onnx.numpy_helper.from_array(codes.astype(bits), f"{name}.codes"),
    ]
    nodes = [
        helper.make_node("Cast", [f"{name}.codes"], [f"{name}.index"], to=TensorProto.INT32),
        helper.make_node("Gather", [f"{name}.book", f"{name}.index"], [name], axis=0),
    ]
    return stored, nodes
