"""The Open Inference Protocol (V2) on the wire: tensors to bytes and back.

Both directions live here, so that server and load generator share one codec.
Binary tensors follow the "binary tensor data" extension: a JSON head whose length
stands in ``Inference-Header-Content-Length``, then raw little-endian tensors in order.
Specification: https://github.com/kserve/open-inference-protocol and the extension's
page in the Triton server repository.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from serving.records import TensorSpec

HEADER_LENGTH = "Inference-Header-Content-Length"

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_DIMS = 32


class V2Error(Exception):
    """A request that is answered with ``{"error": ...}`` and this HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request: tensors by name, and which outputs are wanted in which form.

    ``outputs`` maps a name to True for binary, False for JSON; empty means all
    outputs, in the form of ``binary_default``.
    """

    id: str | None
    inputs: dict[str, np.ndarray]
    outputs: dict[str, bool]
    binary_default: bool


def datatype_of(array: np.ndarray) -> str:
    """V2 name of an array's element type; BYTES for strings."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    try:
        return _NAMES[array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype]
    except KeyError:
        raise ValueError(f"no V2 data type for numpy {array.dtype}") from None


def dtype_of(datatype: str) -> np.dtype[Any]:
    """Numpy type of a V2 data type; BYTES is ``object``."""
    if datatype == "BYTES":
        return np.dtype(object)
    try:
        return _DTYPES[datatype]
    except KeyError:
        raise V2Error(400, f"unsupported datatype {datatype!r}") from None


def pack_bytes_tensor(array: np.ndarray) -> bytes:
    """BYTES tensor: each element as a 4-byte little-endian length and its bytes."""
    parts = []
    for item in array.reshape(-1):
        raw = item if isinstance(item, bytes) else str(item).encode()
        parts.append(struct.pack("<I", len(raw)))
        parts.append(raw)
    return b"".join(parts)


def unpack_bytes_tensor(raw: memoryview, count: int) -> np.ndarray:
    """Inverse of :func:`pack_bytes_tensor`; raises ValueError on a bad length."""
    out = np.empty(count, dtype=object)
    position = 0
    for i in range(count):
        if position + 4 > len(raw):
            raise ValueError("BYTES tensor is shorter than its shape")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if position + length > len(raw):
            raise ValueError("BYTES tensor is shorter than its shape")
        out[i] = bytes(raw[position : position + length])
        position += length
    if position != len(raw):
        raise ValueError("BYTES tensor is longer than its shape")
    return out


def _shape_of(item: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = item.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMS
        or not all(type(d) is int and 0 <= d < 2**40 for d in shape)
    ):
        raise V2Error(400, f"input {name!r}: 'shape' must be a list of non-negative integers")
    return tuple(shape)


def _check_shape(name: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
    if len(shape) != len(spec.shape) or any(
        want not in (-1, got) for got, want in zip(shape, spec.shape, strict=True)
    ):
        raise V2Error(
            400, f"input {name!r}: shape {list(shape)} does not fit {list(spec.shape)} of the model"
        )


def _check_limits(inputs: Mapping[str, np.ndarray], specs: Mapping[str, TensorSpec]) -> None:
    """Refuse values beyond a table, and sizes beyond one or unlike each other.

    Runtimes differ in what they do then: some fail, some read whatever memory is there.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in inputs.items():
        spec = specs[name]
        if spec.low is not None and spec.high is not None and array.size:
            least, most = array.min(), array.max()
            if least < spec.low or most > spec.high:
                raise V2Error(
                    400,
                    f"input {name!r}: holds {least if least < spec.low else most}; "
                    f"the model takes values from {spec.low:.0f} to {spec.high:.0f}",
                )
        for axis, size in enumerate(array.shape):
            if axis and spec.longest and spec.shape[axis] == -1 and size > spec.longest:
                raise V2Error(
                    400, f"input {name!r}: dimension {axis} is {size}, at most {spec.longest} fit"
                )
            if symbol := spec.symbol(axis):
                first, where = sizes.setdefault(symbol, (size, name))
                if size != first:
                    raise V2Error(
                        400,
                        f"input {name!r}: dimension {axis} is {size}, that of {where!r} is "
                        f"{first}; they must agree",
                    )


def _read_input(
    item: Any, raw: memoryview, position: int, specs: Mapping[str, TensorSpec]
) -> tuple[str, np.ndarray, int]:
    if not isinstance(item, dict) or not isinstance(name := item.get("name"), str):
        raise V2Error(400, "each input needs a 'name'")
    spec = specs.get(name)
    if spec is None:
        raise V2Error(400, f"unexpected input {name!r}; the model takes {', '.join(specs)}")
    if item.get("datatype") != spec.datatype:
        raise V2Error(
            400,
            f"input {name!r}: datatype {item.get('datatype')!r}, the model takes {spec.datatype}",
        )
    shape = _shape_of(item, name)
    _check_shape(name, shape, spec)
    dtype = dtype_of(spec.datatype)
    count = math.prod(shape)
    parameters = item.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        if "data" not in item:
            raise V2Error(400, f"input {name!r} has neither 'data' nor 'binary_data_size'")
        try:
            # FP16 has no JSON form (the protocol sends it in binary only).
            if spec.datatype == "FP16":
                raise V2Error(400, f"input {name!r}: FP16 travels as binary data only")
            array = np.asarray(item["data"], dtype=dtype)
            return name, array.reshape(shape), position
        except (ValueError, TypeError, OverflowError):
            raise V2Error(
                400, f"input {name!r}: 'data' does not fit {spec.datatype}{list(shape)}"
            ) from None
    if "data" in item:
        raise V2Error(400, f"input {name!r} has both 'data' and 'binary_data_size'")
    if type(size) is not int or size < 0 or position + size > len(raw):
        raise V2Error(400, f"input {name!r}: binary_data_size exceeds the body")
    chunk = raw[position : position + size]
    if dtype.kind == "O":
        try:
            array = unpack_bytes_tensor(chunk, count)
        except (ValueError, MemoryError) as error:
            raise V2Error(400, f"input {name!r}: {error}") from None
    else:
        if size != count * dtype.itemsize:
            raise V2Error(
                400,
                f"input {name!r}: {size} bytes for shape {list(shape)}, "
                f"{count * dtype.itemsize} expected",
            )
        array = np.frombuffer(chunk, dtype=dtype)
    return name, array.reshape(shape), position + size


def decode_request(
    body: bytes, header_length: int | None, specs: Mapping[str, TensorSpec]
) -> InferRequest:
    """Read an infer request.

    ``header_length`` is the value of ``Inference-Header-Content-Length``, None when
    the whole body is JSON. Raises :class:`V2Error` (400) saying what is wrong.
    """
    view = memoryview(body)
    if header_length is None:
        head, raw = view, view[:0]
    elif 0 < header_length <= len(view):
        head, raw = view[:header_length], view[header_length:]
    else:
        raise V2Error(400, f"{HEADER_LENGTH} {header_length} does not fit a body of {len(view)}")
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise V2Error(400, f"request is not valid JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise V2Error(400, "request needs an 'inputs' list")
    inputs: dict[str, np.ndarray] = {}
    position = 0
    for item in document["inputs"]:
        name, array, position = _read_input(item, raw, position, specs)
        if name in inputs:
            raise V2Error(400, f"input {name!r} is given twice")
        inputs[name] = array
    if position != len(raw):
        raise V2Error(400, f"{len(raw) - position} bytes after the last binary tensor")
    missing = [name for name in specs if name not in inputs]
    if missing:
        raise V2Error(400, f"missing input {', '.join(map(repr, missing))}")
    _check_limits(inputs, specs)
    parameters = document.get("parameters")
    binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    outputs: dict[str, bool] = {}
    for item in document.get("outputs") or ():
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise V2Error(400, "each output needs a 'name'")
        wanted = item.get("parameters")
        flag = wanted.get("binary_data") if isinstance(wanted, dict) else None
        outputs[item["name"]] = binary if flag is None else flag is True
    identifier = document.get("id")
    return InferRequest(
        id=identifier if isinstance(identifier, str) else None,
        inputs=inputs,
        outputs=outputs,
        binary_default=binary,
    )


def _json_data(array: np.ndarray) -> Any:
    if array.dtype.kind == "O":
        return [
            v.decode(errors="replace") if isinstance(v, bytes) else v for v in array.reshape(-1)
        ]
    return np.ascontiguousarray(array).reshape(-1)


def encode_tensors(
    head: dict[str, Any], key: str, tensors: Mapping[str, np.ndarray], binary: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """Write tensors under ``head[key]``; returns the body and the JSON head's length.

    The length is None when nothing is binary, and the body is plain JSON then.
    """
    chunks: list[bytes] = []
    items: list[dict[str, Any]] = []
    for name, array in tensors.items():
        datatype = datatype_of(array)
        item: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if binary[name] or datatype == "FP16":
            chunk = (
                pack_bytes_tensor(array)
                if datatype == "BYTES"
                else np.ascontiguousarray(array).tobytes()
            )
            item["parameters"] = {"binary_data_size": len(chunk)}
            chunks.append(chunk)
        else:
            item["data"] = _json_data(array)
        items.append(item)
    text = orjson.dumps({**head, key: items}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *chunks)), len(text)) if chunks else (text, None)


def encode_response(
    model: str, version: str, request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> tuple[bytes, int | None]:
    """Answer to ``request``: body, and head length where binary tensors follow it."""
    wanted = request.outputs or dict.fromkeys(outputs, request.binary_default)
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        raise V2Error(400, f"unknown output {unknown[0]!r}; the model gives {', '.join(outputs)}")
    head: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        head["id"] = request.id
    return encode_tensors(head, "outputs", {name: outputs[name] for name in wanted}, wanted)


def encode_request(
    inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = (), *, binary: bool = True
) -> tuple[bytes, int | None]:
    """Client side of :func:`decode_request`."""
    head: dict[str, Any] = {}
    if outputs:
        head["outputs"] = [{"name": n, "parameters": {"binary_data": binary}} for n in outputs]
    elif binary:
        head["parameters"] = {"binary_data_output": True}
    return encode_tensors(head, "inputs", inputs, dict.fromkeys(inputs, binary))


def decode_response(body: bytes, header_length: int | None) -> dict[str, np.ndarray]:
    """Client side of :func:`encode_response`; raises ValueError if it is not one."""
    head = body if header_length is None else body[:header_length]
    raw = memoryview(body)[len(head) :]
    document = orjson.loads(head)
    tensors: dict[str, np.ndarray] = {}
    position = 0
    for item in document["outputs"]:
        dtype = dtype_of(item["datatype"])
        shape = tuple(item["shape"])
        size = (item.get("parameters") or {}).get("binary_data_size")
        if size is None:
            array = np.asarray(item["data"], dtype=dtype)
        elif dtype.kind == "O":
            array = unpack_bytes_tensor(raw[position : position + size], math.prod(shape))
        else:
            array = np.frombuffer(raw[position : position + size], dtype=dtype)
        position += size or 0
        tensors[item["name"]] = array.reshape(shape)
    return tensors
