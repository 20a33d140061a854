"""A range of one figure, as light as a search wants it."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """Low, middle and high value of one figure."""

    low: float
    mid: float
    high: float
