"""Latency histograms that keep three significant digits and merge exactly.

HDR histograms (G. Tene) in units of 100 ns, from 100 ns to 10 minutes. Locust rounds
its own percentiles to 1 ms and then to two digits, which is why we keep ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Self

import numpy as np
from hdrh.histogram import HdrHistogram
from pydantic import Field

from serving.records import Record

UNIT_S = 1e-7
_HIGHEST = int(600 / UNIT_S)
_DIGITS = 3


class Histogram(Record):
    """A frozen histogram of durations; build one with :class:`HistogramBuilder`.

    ``encoded`` is the compressed HDR form in base64, readable by any HDR tool.
    """

    count: int = Field(ge=0)
    encoded: str

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """Histogram of the given durations in seconds."""
        builder = HistogramBuilder()
        for value in seconds:
            builder.record(value)
        return cls(count=builder.count, encoded=builder.encode())

    @classmethod
    def counted(cls, seconds: np.ndarray, counts: np.ndarray) -> Self:
        """Histogram of durations that came several times each; both of shape [n]."""
        builder = HistogramBuilder()
        for value, times in zip(seconds.tolist(), counts.tolist(), strict=True):
            if times:
                builder.record(value, times)
        return cls(count=builder.count, encoded=builder.encode())

    @classmethod
    def merge(cls, parts: Iterable[Histogram]) -> Self:
        """Histogram of all samples of ``parts``; associative and commutative."""
        total = HdrHistogram(1, _HIGHEST, _DIGITS)
        for part in parts:
            total.add(part.decoded())
        return cls(count=total.get_total_count(), encoded=total.encode().decode())

    def decoded(self) -> HdrHistogram:
        """The library's object behind this record."""
        return HdrHistogram.decode(self.encoded)

    def quantile_s(self, q: float) -> float:
        """Sample of rank ceil(q n) in seconds (its bucket's upper edge); nan when empty."""
        return self.quantiles_s([q])[0]

    def quantiles_s(self, qs: Iterable[float]) -> list[float]:
        """Several quantiles; HDR's own rounds the rank, and may name the sample below."""
        _, highest, counts = _buckets(self)
        if not self.count:
            return [float("nan") for _ in qs]
        ends = np.cumsum(counts)
        ranks = [max(1, math.ceil(round(q * self.count, 9))) for q in qs]
        return [float(highest[np.searchsorted(ends, rank)]) for rank in ranks]

    def at_rank_s(self, rank: int) -> tuple[float, float]:
        """Edges in seconds of the bucket of the ``rank``-th smallest sample, counted from 1.

        ValueError for a rank that no sample has.
        """
        if not 1 <= rank <= self.count:
            raise ValueError(f"rank {rank} of {self.count} samples")
        lowest, highest, counts = _buckets(self)
        at = int(np.searchsorted(np.cumsum(counts), rank))
        return float(lowest[at]), float(highest[at])

    def mean_s(self) -> float:
        """Mean in seconds; nan when empty."""
        values, counts = self.values()
        return float(np.average(values, weights=counts)) if self.count else float("nan")

    def count_above(self, limit_s: float) -> int:
        """Samples beyond ``limit_s`` (by the middle of their bucket)."""
        values, counts = self.values()
        return int(counts[values > limit_s].sum())

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Bucket middles in seconds and their counts, both of shape [buckets in use]."""
        lowest, highest, counts = _buckets(self)
        return (lowest + highest) / 2, counts


@lru_cache(maxsize=512)
def _buckets(histogram: Histogram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower edge and upper edge in seconds, and count, of each bucket in use.

    Straight from the counts array: the library's iterators are slow, and give a bucket's
    range from the last one in use.
    """
    if not histogram.count:
        return np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)
    decoded = histogram.decoded()
    counts = np.asarray(decoded.counts, dtype=np.int64)
    used = np.flatnonzero(counts)
    lowest = [decoded.get_value_from_index(int(index)) for index in used]
    highest = [decoded.get_highest_equivalent_value(value) for value in lowest]
    return np.array(lowest) * UNIT_S, np.array(highest) * UNIT_S, counts[used]


class HistogramBuilder:
    """Mutable side: record durations one by one, then encode."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, _HIGHEST, _DIGITS)
        self.count = 0

    def record(self, seconds: float, times: int = 1) -> None:
        """Add a duration; negative ones count as the smallest, huge ones as the largest."""
        self._histogram.record_value(min(max(round(seconds / UNIT_S), 1), _HIGHEST), times)
        self.count += times

    def encode(self) -> str:
        """Compressed base64 form."""
        return str(self._histogram.encode().decode())
