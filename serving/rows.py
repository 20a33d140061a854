"""Rows: the inputs of many calls by name, one row of each along a common first axis.

A model with a batch axis takes several rows a call. One without takes a single row, whose
tensors are passed as they are: a row of rank zero is a scalar input.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import BadInput
from serving.records import TensorSpec
from serving.v2 import dtype_of, pack_bytes_tensor, unpack_bytes_tensor

Rows = Mapping[str, np.ndarray]

_STRING_BYTES = 32  # a guess at a string's length: an object array knows only its pointers


def count_rows(rows: Rows) -> int:
    """Number of rows; 0 where there is no input at all."""
    return min((len(values) for values in rows.values()), default=0)


def row_bytes(rows: Rows) -> int:
    """Size of one row in bytes."""
    return sum(
        values[:1].size * _STRING_BYTES if values.dtype.kind == "O" else values[:1].nbytes
        for values in rows.values()
    )


def take(
    rows: Rows, chosen: Sequence[int] | np.ndarray | range, *, batched: bool
) -> dict[str, np.ndarray]:
    """Inputs of one call: the rows ``chosen``, or the first of them without a batch axis."""
    # np.array, not ascontiguousarray, which gives a scalar a dimension.
    return {
        name: np.array(
            values[np.asarray(chosen)] if batched else values[chosen[0]], dtype=values.dtype
        )
        for name, values in rows.items()
    }


def save_rows(path: Path, rows: Rows) -> None:
    """Write rows as an ``.npz`` without pickle; strings travel as V2 packs them."""
    packed = {}
    for name, values in rows.items():
        if values.dtype.kind == "O":
            packed[f"text/{name}"] = np.frombuffer(pack_bytes_tensor(values), np.uint8)
            packed[f"shape/{name}"] = np.array(values.shape)
        else:
            packed[f"plain/{name}"] = values
    np.savez(path, **packed)  # type: ignore[arg-type] # numpy's stub misreads keywords


def load_rows(path: Path) -> Rows:
    """Read what :func:`save_rows` wrote."""
    rows: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as stored:
        for key in stored:
            kind, _, name = key.partition("/")
            if kind == "text":
                shape = tuple(stored[f"shape/{name}"])
                raw = memoryview(stored[key].tobytes())
                rows[name] = unpack_bytes_tensor(raw, int(np.prod(shape))).reshape(shape)
            elif kind == "plain":
                rows[name] = stored[key]
    return rows


def read_rows(path: Path, specs: Sequence[TensorSpec], *, batched: bool = True) -> Rows:
    """Rows of a file: ``.npz`` with an array per input, or ``.parquet`` with a column per input.

    BadInput when an input is missing, does not fit, or the file cannot be read. No pickle.
    """
    stored = _read_parquet(path, specs) if path.suffix == ".parquet" else _read_npz(path)
    rows = {}
    for spec in specs:
        if spec.name not in stored:
            raise BadInput(f"{path}: has no array {spec.name!r}; it holds {', '.join(stored)}")
        rows[spec.name] = _fitted(path, stored[spec.name], spec, batched)
    if len({len(values) for values in rows.values()}) > 1:
        raise BadInput(f"{path}: its arrays differ in their number of rows")
    return rows


def _fitted(path: Path, given: np.ndarray, spec: TensorSpec, batched: bool) -> np.ndarray:
    dtype = dtype_of(spec.datatype)
    try:
        # Strings come as U or S from a file without pickle; V2 carries them as objects.
        values = given.astype(object) if dtype.kind == "O" else given.astype(dtype)
    except (ValueError, TypeError):
        raise BadInput(
            f"{path}: {spec.name!r} is {given.dtype}, the model takes {spec.datatype}"
        ) from None
    wanted = spec.shape if batched else (-1, *spec.shape)
    fits = values.ndim == len(wanted) and all(
        want in (-1, got) for got, want in zip(values.shape[1:], wanted[1:], strict=True)
    )
    if not fits or not len(values):
        raise BadInput(
            f"{path}: {spec.name!r} has shape {list(values.shape)}, the model takes "
            f"{list(spec.shape)}" + ("" if batched else " in each row, rows along the first axis")
        )
    return np.asarray(values)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, since numpy leaves a file open that is no archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read as .npz ({error})") from None


def _read_parquet(path: Path, specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise BadInput(f"{path}: reading it needs pyarrow; pip install pyarrow") from None
    except Exception as error:  # pyarrow's own errors derive from a dozen bases
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: cannot be read as parquet ({first})") from None
    if len(specs) == 1 and specs[0].name not in table:
        # One input and columns of other names: the columns are its features, in order.
        return {specs[0].name: table.to_numpy()}
    return {name: _column(table[name]) for name in map(str, table.columns)}


def _column(column: Any) -> np.ndarray:
    """Values of a column; lists in it become further dimensions where they are equally long."""
    values = column.to_numpy()
    if len(values) and isinstance(values[0], np.ndarray | list):
        try:
            return np.array([np.array(list(value)) for value in values])
        except ValueError:
            return np.asarray(values)
    return np.asarray(values)
