"""Wishes: what a user says of one input of a model.

    NAME=TYPE[DIMENSIONS]:VALUES        ids=int64[b,128]:0..30521

Type, dimensions and values may each be left out: ``ids=0..30521``, ``x=[b,3,48,320]``,
``sr=16000``, ``text=:yes|no``. A number fixes a dimension, ``b`` is the batch, other names
tie dimensions together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.errors import BadInput
from serving.records import TensorSpec
from serving.toml_config import near_matches
from serving.v2 import dtype_of

_TYPES = {
    "float": "FP32", "float32": "FP32", "double": "FP64", "float64": "FP64", "float16": "FP16",
    "int64": "INT64", "int32": "INT32", "int16": "INT16", "int8": "INT8", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "bool": "BOOL", "string": "BYTES",
}  # fmt: skip
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"


@dataclass(frozen=True)
class Wish:
    """What a user says about one input; None and empty where nothing is said."""

    name: str
    datatype: str | None = None
    dims: tuple[int | str, ...] | None = None
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()


def parse_wish(text: str) -> Wish:
    """One ``--input``; BadInput says how it is written."""
    name, equals, rest = text.partition("=")
    match = re.fullmatch(r"([A-Za-z]\w*)?(\[[^\]]*\])?(?::(.*))?", rest)
    if text.endswith((".npz", ".parquet")) and not set(text) & set(":|["):
        raise BadInput(f"--input {text!r}: rows of a file are given with --payload FILE")
    if not equals or not name.strip() or not rest:
        raise BadInput(f"--input {text!r}: write NAME=TYPE[DIMENSIONS]:LOW..HIGH, parts as needed")
    if match is None or (match[1] and match[1].lower() not in _TYPES and not match[2]):
        match = None  # neither type nor dimensions: it is all values
    datatype = _TYPES.get(match[1].lower()) if match and match[1] else None
    if match and match[1] and datatype is None:
        raise BadInput(f"--input {text!r}: type {match[1]!r}: {near_matches(match[1], _TYPES)}")
    dims = None
    if match and match[2]:
        parts = [part.strip() for part in match[2][1:-1].split(",") if part.strip()]
        dims = tuple(int(part) if part.isdigit() else part for part in parts)
    values = match[3] if match else rest
    low, high, words = _values(text, values)
    return Wish(name.strip(), datatype, dims, low, high, words)


def _values(text: str, values: str | None) -> tuple[float | None, float | None, tuple[str, ...]]:
    if values is None:
        return None, None, ()
    between = re.fullmatch(rf"({_NUMBER})\.\.({_NUMBER})", values)
    if between:
        low, high = float(between[1]), float(between[2])
        if low > high:
            raise BadInput(f"--input {text!r}: {between[1]} is above {between[2]}")
        return low, high, ()
    if re.fullmatch(_NUMBER, values):
        return float(values), float(values), (values,)
    if ".." in values or not values:
        raise BadInput(f"--input {text!r}: give values as LOW..HIGH, one number, or ONE|TWO|THREE")
    return None, None, tuple(values.split("|"))


def check_wishes(specs: Sequence[TensorSpec], wishes: Sequence[Wish]) -> None:
    """BadInput for a wish that the signature contradicts."""
    by_name = {spec.name: spec for spec in specs}
    for wish in wishes:
        spec = by_name.get(wish.name)
        if spec is None:
            raise BadInput(
                f"--input {wish.name}: the model has no such input; "
                f"{near_matches(wish.name, by_name)}"
            )
        if wish.datatype not in (None, spec.datatype):
            raise BadInput(f"--input {wish.name}: the model takes {spec.datatype} there")
        if wish.dims is not None and not _agree(wish.dims, spec.shape):
            raise BadInput(
                f"--input {wish.name}: dimensions {list(wish.dims)} do not fit {list(spec.shape)} "
                "of the model"
            )
        if wish.words and wish.low is None and spec.datatype != "BYTES":
            raise BadInput(f"--input {wish.name}: {'|'.join(wish.words)} is no {spec.datatype}")
        if wish.low is not None and not wish.words and spec.datatype == "BYTES":
            raise BadInput(f"--input {wish.name}: it takes text; give ONE|TWO|THREE")
        kind = dtype_of(spec.datatype)
        if wish.low is not None and kind.kind in "iu":
            limits = np.iinfo(kind)
            if wish.low < limits.min or (wish.high or 0) > limits.max:
                raise BadInput(f"--input {wish.name}: its range does not fit {spec.datatype}")


def _agree(dims: Sequence[int | str], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(
        isinstance(want, str) or got in (-1, want) for want, got in zip(dims, shape, strict=True)
    )
