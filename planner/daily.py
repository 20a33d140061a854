"""The course of a demand over a day: rates hour by hour, or as a trace recorded them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from pydantic import Field

from loadtests.arrivals import RateOrZero, Trace
from loadtests.trace_file import read_trace
from serving.errors import BadInput
from serving.records import Record

HOURS = 24
RISE_S = 60.0
"""Hourly rates do not say how fast one becomes the next; in so many seconds, unless told."""

_PARTS = 288
_SHORTEST_TRACE_S = 600.0
_PEAK_S, _BEFORE_S, _AFTER_S = 60, 60, 240


class Burst(NamedTuple):
    """A rise in load, second by second; ``rise_s`` of them are the rise itself."""

    before_rps: float
    rates_rps: tuple[float, ...]
    rise_s: float

    @property
    def peak_rps(self) -> float:
        """The highest rate in it."""
        return max(self.rates_rps)


class Daily(Record):
    """Mean rates of equal parts of a day (or of a trace, which then stands for a day).

    ``burst_rps`` are the rates of a trace's steepest rise, second by second, the first
    ``_BEFORE_S`` of them before it; empty for hourly rates, each of which is taken
    to become the next in ``rise_s``.
    """

    rates_rps: tuple[RateOrZero, ...] = Field(min_length=2)
    part_s: float = Field(gt=0, description="length of a part")
    peak_rps: float = Field(gt=0, description="hourly: the highest; trace: its busiest minute")
    source: str
    rise_s: float = Field(gt=0, default=RISE_S)
    burst_rps: tuple[RateOrZero, ...] = ()
    machine_start_s: float = Field(ge=0, default=0.0)

    @classmethod
    def hourly(
        cls, rates_rps: Sequence[float], rise_s: float = RISE_S, machine_start_s: float = 0.0
    ) -> Self:
        """From 24 rates, the first from midnight; ValueError for another number, or all 0."""
        if len(rates_rps) != HOURS:
            raise ValueError(f"{len(rates_rps)} rates; a day has {HOURS} hours")
        if not max(rates_rps) > 0:
            raise ValueError("all rates are 0; give at least one above")
        return cls(
            rates_rps=tuple(rates_rps),
            part_s=3600.0,
            peak_rps=max(rates_rps),
            source="hourly rates",
            rise_s=rise_s,
            machine_start_s=machine_start_s,
        )

    @classmethod
    def recorded(cls, path: Path, machine_start_s: float = 0.0) -> Self:
        """From a trace file; BadInput when it cannot be read or is shorter than 10 minutes."""
        trace = read_trace(path)
        span = float(trace.due_s[-1])
        if span < _SHORTEST_TRACE_S:
            raise BadInput(
                f"{path}: {span:.0f} s of traffic; a trace that stands for a day needs at least "
                f"{_SHORTEST_TRACE_S:.0f} s"
            )
        counts = np.bincount(trace.due_s.astype(int), minlength=math.ceil(span))
        parts = np.histogram(trace.due_s, bins=_PARTS, range=(0, span))[0]
        return cls(
            part_s=span / _PARTS,
            rates_rps=tuple((parts / (span / _PARTS)).tolist()),
            peak_rps=float(_means(counts, _PEAK_S).max()),
            source=_named(trace),
            rise_s=float(_PEAK_S),
            burst_rps=tuple(map(float, _steepest(counts))),
            machine_start_s=machine_start_s,
        )

    def scaled(self, factor: float) -> Self:
        """The same course at ``factor`` times the rate."""
        return self.model_copy(
            update={
                "rates_rps": tuple(factor * r for r in self.rates_rps),
                "burst_rps": tuple(factor * r for r in self.burst_rps),
                "peak_rps": factor * self.peak_rps,
            }
        )

    def rises(self, hold_s: float) -> tuple[Burst, ...]:
        """Every rise of the day, its last rate held for at least ``hold_s`` more.

        One from each hour to the next that is no lower; of a trace its steepest alone.
        """
        held = math.ceil(hold_s)
        if self.burst_rps:
            before, rest = self.burst_rps[:_BEFORE_S], self.burst_rps[_BEFORE_S:]
            kept = (*rest, *(rest[-1:] * max(0, held + _PEAK_S - len(rest))))
            return (Burst(sum(before) / len(before), kept, self.rise_s),)
        # The day is followed by another one like it.
        pairs = zip((self.rates_rps[-1], *self.rates_rps), self.rates_rps, strict=False)
        return tuple(self._rise(low, high, held) for low, high in pairs if high >= low)

    def _rise(self, low: float, high: float, held: int) -> Burst:
        rising = max(1, round(self.rise_s))
        ramp = (low + (high - low) * (second + 0.5) / rising for second in range(rising))
        return Burst(low, (*ramp, *((high,) * held)), self.rise_s)


def _named(trace: Trace) -> str:
    return f"{trace.source.file} ({trace.source.requests:,} requests)"


def _means(counts: np.ndarray, seconds: int) -> np.ndarray:
    """Means over every ``seconds`` in a row."""
    sums = np.concatenate([[0], np.cumsum(counts)])
    return np.asarray((sums[seconds:] - sums[:-seconds]) / seconds)


def _steepest(counts: np.ndarray) -> np.ndarray:
    """Counts by the second around the largest rise from one minute's mean to the next's."""
    means = _means(counts, _PEAK_S)
    at = int(np.argmax(means[_PEAK_S:] - means[:-_PEAK_S])) + _PEAK_S
    return counts[at - _BEFORE_S : at + _AFTER_S]
