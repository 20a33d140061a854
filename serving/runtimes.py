"""Runtimes: the libraries that execute a model, behind one small protocol.

Each library is imported only when a model of its kind is loaded, so the base install
needs none but onnxruntime. Loading happens inside the replica, after the replica has
been put into its instance, so that threads and memory belong to the instance.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from serving.errors import BadInput
from serving.model_store import model_path
from serving.records import TensorSpec, Variant, sha256_of

Tensors = Mapping[str, np.ndarray]


@runtime_checkable
class Runtime(Protocol):
    """A loaded model. ``predict`` is called by one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def predict(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """Run one inference call; arrays in, arrays out, by tensor name."""
        ...


_ONNX_TYPES = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(int16)": "INT16",
    "tensor(int8)": "INT8",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}


class OnnxRuntime:
    """An ONNX file in onnxruntime on the CPU.

    ``threads`` is the intra-op pool; spinning is off because a spinning thread burns
    CPU that belongs to other replicas or, under a quota, to the next request.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            first = str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__
            raise BadInput(f"{path}: onnxruntime cannot load this file ({first})") from None
        self.inputs = tuple(self._spec(path, t) for t in self._session.get_inputs())
        self.outputs = tuple(self._spec(path, t) for t in self._session.get_outputs())
        self._names = [t.name for t in self.outputs]

    @staticmethod
    def _spec(path: Path, tensor: Any) -> TensorSpec:
        datatype = _ONNX_TYPES.get(tensor.type)
        if datatype is None:
            raise BadInput(f"{path}: {tensor.name} has type {tensor.type}, which V2 cannot carry")
        dims = tensor.shape or ()
        shape = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in dims)
        # "?" is how exporters write a dimension that they know nothing of: not a name.
        symbols = tuple(d if isinstance(d, str) and d.strip("? ") else None for d in dims)
        return TensorSpec(
            name=tensor.name,
            datatype=datatype,
            shape=shape,
            symbols=symbols if any(symbols) else (),
        )

    def predict(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """Run the session; outputs by name."""
        results = self._session.run(self._names, dict(inputs))
        return dict(zip(self._names, results, strict=True))


# State of a fitted network's optimiser: plain data, not on skops' own list.
_TRUSTED_SKLEARN = {
    f"sklearn.neural_network._stochastic_optimizers.{name}Optimizer" for name in ("Adam", "SGD")
}


def load_skops(path: Path) -> Any:
    """A scikit-learn estimator from a skops file; BadInput if it may run code or is damaged."""
    import skops.io

    try:
        untrusted = set(skops.io.get_untrusted_types(file=path)) - _TRUSTED_SKLEARN
        if untrusted:
            raise BadInput(
                f"{path}: holds types that may run code ({', '.join(sorted(untrusted))}); refused"
            )
        return skops.io.load(path, trusted=sorted(_TRUSTED_SKLEARN))
    except BadInput:
        raise
    except Exception as error:  # zip, json and numpy errors of a damaged file
        raise BadInput(f"{path}: skops cannot load this file ({error})") from None


class SklearnRuntime:
    """A scikit-learn classifier stored with skops (no pickle), answering probabilities.

    Inputs arrive as FP32 and are widened to float64, the type the estimator was
    fitted in; that conversion is part of what serving scikit-learn costs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        from threadpoolctl import threadpool_limits

        self._model = load_skops(path)
        self._limits = threadpool_limits(threads)
        features = int(self._model.n_features_in_)
        classes = len(self._model.classes_)
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="features", datatype="FP32", shape=(-1, features)),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="probabilities", datatype="FP32", shape=(-1, classes)),
        )

    def predict(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """Class probabilities, shape [batch, classes], FP32."""
        rows = inputs["features"].astype(np.float64)
        return {"probabilities": self._model.predict_proba(rows).astype(np.float32)}


_BLOCK = bytes(1 << 15)


class StubRuntime:
    """A model whose service time is known by construction; computes nothing else.

    The file is JSON: ``{"busy_ms": 5.0, "distribution": "constant"|"exponential",
    "features": 4, "seed": 0}``. It burns CPU (not sleeps), so quotas bite, and answers
    the row sums, so that answers can be checked. ``busy_ms`` 0 is the no-op server.
    """

    def __init__(self, path: Path, threads: int) -> None:
        del threads
        try:
            settings = json.loads(path.read_text())
            self._busy_s = float(settings.get("busy_ms", 0.0)) / 1e3
            self._exponential = {"constant": False, "exponential": True}[
                settings.get("distribution", "constant")
            ]
            features = int(settings.get("features", 4))
            self._draw = np.random.default_rng(int(settings.get("seed", 0)))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise BadInput(f"{path}: not a stub model file ({error!r})") from None
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="features", datatype="FP32", shape=(-1, features)),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="sums", datatype="FP32", shape=(-1, 1)),
        )

    def predict(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """Row sums, after burning the drawn service time on the CPU."""
        busy = self._draw.exponential(self._busy_s) if self._exponential else self._busy_s
        until = time.thread_time() + busy
        while time.thread_time() < until:
            hashlib.sha256(_BLOCK)  # as real runtimes do, it lets go of the interpreter lock
        return {"sums": inputs["features"].sum(axis=1, keepdims=True, dtype=np.float32)}


_LOADERS: dict[str, Callable[[Path, int], Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "sklearn": SklearnRuntime,
    "stub": StubRuntime,
}


def load_runtime(variant: Variant, threads: int) -> Runtime:
    """Load ``variant`` with ``threads`` compute threads, after checking its hash.

    Raises BadInput when the file is missing, changed since it was built, or damaged.
    """
    loader = _LOADERS.get(variant.runtime)
    if loader is None:
        raise BadInput(
            f"variant {variant.name}: unknown runtime {variant.runtime!r}; "
            f"known are {', '.join(_LOADERS)}"
        )
    path = model_path(variant)
    if not path.is_file():
        raise BadInput(f"{path}: model file of variant {variant.name} is missing; build it again")
    if sha256_of(path) != variant.sha256:
        raise BadInput(f"{path}: changed since it was built (sha256 differs); build it again")
    return loader(path, threads)
