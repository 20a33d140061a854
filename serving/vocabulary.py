"""Look-ups that a model refused: which input held the number, and which numbers it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serving.generate import Hints
from serving.records import TensorSpec
from serving.rows import Rows

# onnxruntime's Gather and torch's indexing say the range; torch's embedding and onnxruntime's
# fused one do not.
_GATHER = re.compile(r"idx=(-?\d+) must be within the inclusive range \[-?\d+,(\d+)\]")
_INDEXED = re.compile(r"index (-?\d+) is out of bounds for dimension \d+ with size (\d+)")
_UNSAID = re.compile(r"index out of range in self|input index out of range")


@dataclass(frozen=True)
class RefusedIndex:
    """Input ``name`` holds ``index``; ``most`` is the largest it may, None where nobody says."""

    name: str
    index: int
    most: int | None


def refused_index(
    message: str, specs: Sequence[TensorSpec], rows: Rows, hints: Hints
) -> RefusedIndex | None:
    """What a runtime's ``message`` says of ``rows``; None when it is of something else.

    Of something else is a refused look-up as well when all inputs are known to be in range:
    positions, say, in a row that is too long.
    """
    whole = [s.name for s in specs if rows[s.name].dtype.kind in "iu" and rows[s.name].size]
    if found := _GATHER.search(message):
        return _told(int(found[1]), int(found[2]), whole or [specs[0].name], rows)
    if found := _INDEXED.search(message):
        return _told(int(found[1]), int(found[2]) - 1, whole or [specs[0].name], rows)
    if not _UNSAID.search(message):
        return None
    for name in (name for name in whole if name in hints.vocabulary):
        low, high, most = int(rows[name].min()), int(rows[name].max()), hints.vocabulary[name] - 1
        if low < 0 or high > most:
            return RefusedIndex(name, low if low < 0 else high, most)
    unknown = [name for name in whole if name not in hints.vocabulary]
    if not unknown:
        return None
    name = max(unknown, key=lambda one: int(rows[one].max()))
    return RefusedIndex(name, int(rows[name].max()), None)


def _told(index: int, most: int, whole: Sequence[str], rows: Rows) -> RefusedIndex:
    """The first input beyond the range; the first of all if arithmetic led there."""
    integers = [name for name in whole if rows[name].dtype.kind in "iu"]
    beyond = [n for n in integers if rows[n].max() > most or rows[n].min() < -most - 1]
    return RefusedIndex((beyond or list(whole))[0], index, most)
