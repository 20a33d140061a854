"""OpenVINO's IR (``.xml`` and the ``.bin`` beside it) and ONNX files, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import BadInput
from serving.records import TensorSpec

_TYPES = {
    "f32": "FP32",
    "f64": "FP64",
    "f16": "FP16",
    "i64": "INT64",
    "i32": "INT32",
    "i16": "INT16",
    "i8": "INT8",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "boolean": "BOOL",
}


class OpenVinoRuntime:
    """A model compiled by OpenVINO for one stream of ``threads`` threads.

    Arithmetic is kept in float32: on CPUs with AMX the default is bfloat16, which would
    make a variant less exact than its name says. Threads are not pinned, because the
    replica's instance already decides where they may run.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
            raise BadInput(f"{path}: its weights, {path.with_suffix('.bin').name}, are missing")
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            told = lines[-1][:200] if lines else type(error).__name__
            raise BadInput(f"{path}: OpenVINO cannot load this file ({told})") from None
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(path, port) for port in compiled.inputs)
        self.outputs = tuple(_spec(path, port) for port in compiled.outputs)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One request of the only stream; outputs by name, copied out of its buffers."""
        results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return {spec.name: results[index].copy() for index, spec in enumerate(self.outputs)}


def _spec(path: Path, port: Any) -> TensorSpec:
    kind = port.get_element_type().get_type_name()
    if kind not in _TYPES:
        raise BadInput(f"{path}: {port.any_name} has type {kind}, which V2 cannot carry")
    shape = tuple(-1 if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
    return TensorSpec(name=port.any_name, datatype=_TYPES[kind], shape=shape)
