"""Inputs made to fit a model: from its signature, and from what a user says of an input.

    NAME=TYPE[DIMENSIONS]:VALUES        ids=int64[b,128]:0..30521

Type, dimensions and values may each be left out: ``ids=0..30521``, ``x=[b,3,48,320]``,
``sr=16000``, ``text=:yes|no``. A number fixes a dimension, ``b`` is the batch, other names
tie dimensions together. Random rows carry no meaning: they time a model, nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from serving.errors import BadInput
from serving.records import TensorSpec
from serving.rows import Rows
from serving.toml_config import near_matches
from serving.v2 import dtype_of

_TYPES = {
    "float": "FP32", "float32": "FP32", "double": "FP64", "float64": "FP64", "float16": "FP16",
    "int64": "INT64", "int32": "INT32", "int16": "INT16", "int8": "INT8", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "bool": "BOOL", "string": "BYTES",
}  # fmt: skip
_BATCH_NAMES = {"b", "n", "batch", "batch_size"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_MOST_TRIES = 48
# Sizes that networks accept: multiples of 32 for pictures, powers of two and whole windows
# of 16 kHz for sound. The first is what is meant when anything will do.
_PICTURE = (224, 320, 640, 32, 48, 96, 112, 256, 299, 512)
_SEQUENCE = (128, 64, 16, 512, 1)
_SIGNAL = (512, 16000, 576, 128, 80, 1, 1024, 4000)

Sizes = Mapping[str, int]
"""Size of each free dimension, by :func:`dimension`."""


@dataclass(frozen=True)
class Wish:
    """What a user says about one input; None and empty where nothing is said."""

    name: str
    datatype: str | None = None
    dims: tuple[int | str, ...] | None = None
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hints:
    """What is known of the inputs beside their signature.

    ``vocabulary`` is how many rows the table has that an integer input looks up;
    ``state`` names inputs that carry a state, which begins at zero.
    """

    vocabulary: Mapping[str, int] = field(default_factory=dict)
    state: frozenset[str] = frozenset()


def parse_wish(text: str) -> Wish:
    """One ``--input``; BadInput says how it is written."""
    name, equals, rest = text.partition("=")
    match = re.fullmatch(r"([A-Za-z]\w*)?(\[[^\]]*\])?(?::(.*))?", rest)
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


def dimension(spec: TensorSpec, axis: int) -> str:
    """Key of a free dimension: its name in the file, else input and axis."""
    return spec.symbol(axis) or f"{spec.name}.{axis}"


def possible_sizes(
    specs: Sequence[TensorSpec], wishes: Sequence[Wish], *, batched: bool
) -> list[dict[str, int]]:
    """Assignments of sizes to the free dimensions, the most likely first, a few dozen at most.

    The batch axis of a batched model is not among them. What a user said is kept.
    """
    wished = {wish.name: wish for wish in wishes}
    fixed: dict[str, int] = {}
    tied: dict[str, str] = {}
    candidates: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        for axis, size in enumerate(spec.shape):
            if size != -1 or (batched and axis == 0):
                continue
            key = dimension(spec, axis)
            said = wished[spec.name].dims if spec.name in wished else None
            if said is not None and isinstance(said[axis], int):
                fixed[key] = int(said[axis])
            elif said is not None and str(said[axis]).lower() in _BATCH_NAMES:
                fixed[key] = 1
            elif said is not None:
                tied[key] = str(said[axis])
            candidates.setdefault(key, _candidates(spec, axis))
    groups = {key: tied.get(key, key) for key in candidates if key not in fixed}
    options = {group: candidates[key] for key, group in reversed(groups.items())}
    ranked = product(*([(rank, size) for rank, size in enumerate(o)] for o in options.values()))
    tries = sorted(ranked, key=lambda chosen: sum(rank for rank, _ in chosen))[:_MOST_TRIES]
    made = []
    for chosen in tries:
        sizes = dict(zip(options, (size for _, size in chosen), strict=True))
        made.append({**fixed, **{key: sizes[group] for key, group in groups.items()}})
    return made


def _candidates(spec: TensorSpec, axis: int) -> tuple[int, ...]:
    name = (spec.symbol(axis) or "").lower()
    if name in _BATCH_NAMES or "batch" in name:
        return (1,)
    rank, kind = len(spec.shape), dtype_of(spec.datatype).kind
    if rank >= 4 and kind in "fu" and axis >= 1:
        return _PICTURE
    if axis == 0:
        return (1, *_SEQUENCE[:3])
    if kind == "f" and rank <= 3 and "seq" not in name:
        # A recurrent state has its batch in the middle; a signal comes last.
        return _SIGNAL if axis == rank - 1 else (1, *_SIGNAL)
    return _SEQUENCE


def generated_rows(
    specs: Sequence[TensorSpec],
    rows: int,
    seed: int,
    *,
    batched: bool = True,
    sizes: Sizes | None = None,
    wishes: Sequence[Wish] = (),
    hints: Hints | None = None,
) -> Rows:
    """Random rows that fit ``specs``: normal floats, integers in their range, short strings.

    BadInput names an input with a free dimension that ``sizes`` has nothing for.
    """
    draw = np.random.default_rng(seed)
    wished = {wish.name: wish for wish in wishes}
    made = {}
    for spec in specs:
        shape = (rows, *_shape(spec, sizes or {}, batched))
        wish = wished.get(spec.name, Wish(spec.name))
        made[spec.name] = _draw(draw, spec, shape, wish, hints or Hints())
    return made


def _shape(spec: TensorSpec, sizes: Sizes, batched: bool) -> tuple[int, ...]:
    shape = []
    for axis, size in enumerate(spec.shape):
        if batched and axis == 0:
            continue
        known = size if size != -1 else sizes.get(dimension(spec, axis))
        if known is None:
            raise BadInput(
                f"input {spec.name!r} has shape {list(spec.shape)}, whose free dimensions are "
                f"not ours to guess; say them with --input '{spec.name}=[...]' or give rows "
                "with --payload FILE.npz"
            )
        shape.append(known)
    return tuple(shape)


def _draw(
    draw: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], wish: Wish, hints: Hints
) -> np.ndarray:
    dtype = dtype_of(spec.datatype)
    if dtype.kind == "O":
        return _strings(draw, shape, wish)
    if wish.low is not None and wish.high is not None:
        if dtype.kind in "iu":
            return draw.integers(int(wish.low), int(wish.high), shape, dtype, endpoint=True)
        if dtype.kind == "b":
            return draw.integers(bool(wish.low), bool(wish.high), shape, endpoint=True) > 0
        return draw.uniform(wish.low, wish.high, shape).astype(dtype)
    if spec.name in hints.state:
        return np.zeros(shape, dtype)
    if "mask" in spec.name.lower():
        return np.ones(shape, dtype)
    if dtype.kind == "f":
        return draw.normal(size=shape).astype(dtype)
    if dtype.kind == "b":
        return draw.random(shape) < 0.5
    if dtype.itemsize == 1 and spec.name not in hints.vocabulary:  # a byte: pictures, tokens
        limits = np.iinfo(dtype)
        return draw.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return draw.integers(0, max(1, hints.vocabulary.get(spec.name, 2)), shape, dtype)


def _strings(draw: np.random.Generator, shape: tuple[int, ...], wish: Wish) -> np.ndarray:
    out: np.ndarray[Any, np.dtype[Any]] = np.empty(shape, dtype=object)
    chosen = draw.integers(0, len(wish.words) or 1000, shape)
    for place, index in np.ndenumerate(chosen):
        out[place] = (wish.words[index] if wish.words else f"text {index}").encode()
    return out
