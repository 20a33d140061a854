"""ONNX files in onnxruntime, on the CPU unless other providers are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import BadInput
from serving.onnx_file import explain_load_error
from serving.records import TensorSpec

CPU = "CPUExecutionProvider"
_TYPES = {
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
    """An ONNX file in onnxruntime.

    ``threads`` is the intra-op pool; spinning is off because a spinning thread burns
    CPU that belongs to other replicas or, under a quota, to the next request.
    ``providers`` are execution providers in order of preference. onnxruntime falls back
    to the CPU without a word; here the first one must really be there, or it is BadInput.
    """

    def __init__(self, path: Path, threads: int, providers: Sequence[str] = (CPU,)) -> None:
        import onnxruntime

        here = onnxruntime.get_available_providers()
        if missing := [name for name in providers if name not in here]:
            raise BadInput(
                f"{path}: execution provider {missing[0]} is not available; "
                f"available here are {', '.join(here)}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # errors are raised as well, and said in our words
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=list(providers)
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            message = str(error) or type(error).__name__
            raise BadInput(explain_load_error(path, message)) from None
        if self._session.get_providers()[0] != providers[0]:
            raise BadInput(
                f"{path}: execution provider {providers[0]} did not start, onnxruntime fell back "
                f"to {self._session.get_providers()[0]}; check its driver and libraries"
            )
        self.inputs = tuple(_spec(path, t) for t in self._session.get_inputs())
        self.outputs = tuple(_spec(path, t) for t in self._session.get_outputs())
        self._names = [t.name for t in self.outputs]

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the session; outputs by name."""
        results = self._session.run(self._names, {k: _decoded(v) for k, v in inputs.items()})
        return dict(zip(self._names, results, strict=True))


def _decoded(values: np.ndarray) -> np.ndarray:
    """Strings as onnxruntime wants them: of bytes it would take the Python notation, "b'a'"."""
    if values.dtype.kind != "O":
        return values
    out = np.empty(values.shape, dtype=object)
    for place, item in np.ndenumerate(values):
        out[place] = item.decode(errors="replace") if isinstance(item, bytes) else item
    return out


def _spec(path: Path, tensor: Any) -> TensorSpec:
    datatype = _TYPES.get(tensor.type)
    if datatype is None:
        raise BadInput(
            f"{path}: {tensor.name} has type {tensor.type}, which V2 cannot carry"
            + (", convert with zipmap=False" if "map(" in tensor.type else "")
        )
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
