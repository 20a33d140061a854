"""Inputs made to fit a model: from its signature, and from what a user says of an input.

Random rows carry no meaning: they time a model, nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from serving.errors import BadInput
from serving.records import TensorSpec
from serving.rows import Rows
from serving.v2 import dtype_of
from serving.wishes import Wish

_BATCH_NAMES = {"b", "n", "batch", "batch_size"}
_MOST_TRIES = 48
# Sizes that networks accept: multiples of 32 for pictures, powers of two and whole windows
# of 16 kHz for sound. The first is what is meant when anything will do.
_PICTURE = (224, 320, 640, 32, 48, 96, 112, 256, 299, 512)
_SEQUENCE = (128, 64, 16, 512, 1)
_SIGNAL = (512, 16000, 576, 128, 80, 1, 1024, 4000)

Sizes = Mapping[str, int]
"""Size of each free dimension, by :func:`dimension`."""


@dataclass(frozen=True)
class Hints:
    """What is known of the inputs beside their signature.

    ``vocabulary`` is how many rows the table has that an integer input looks up;
    ``state`` names inputs that carry a state, which begins at zero.
    """

    vocabulary: Mapping[str, int] = field(default_factory=dict)
    state: frozenset[str] = frozenset()


def dimension(spec: TensorSpec, axis: int) -> str:
    """Key of a free dimension: its name in the file, else input and axis."""
    return spec.symbol(axis) or f"{spec.name}.{axis}"


def said_sizes(specs: Sequence[TensorSpec], wishes: Sequence[Wish]) -> dict[str, int]:
    """Sizes of the free dimensions that the user gives as numbers."""
    by_name = {spec.name: spec for spec in specs}
    return {
        dimension(by_name[wish.name], axis): size
        for wish in wishes
        for axis, size in enumerate(wish.dims or ())
        if isinstance(size, int) and by_name[wish.name].shape[axis] == -1
    }


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
