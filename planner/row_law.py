"""How a time grows with a request: straight lines between the measured numbers of rows or tokens.

A call has a fixed part and one for each row, T(n) = a + b n (the affine batch service time of the
bulk queues, e.g. N. T. J. Bailey, 1954). Real kernels bend it: vectors fill, caches overflow.
So between two measured sizes the line through them holds, and with three or more it is
piecewise. Beyond the largest it is the line through it and the largest one that is at most half of
it, with a slope between 0 and T / n: a time does not fall, and a fixed part is not negative.
Tokens attend to one another, T(n) = a + b n + c n^2 (A. Vaswani et al., 2017), so with tokens
in the place of rows the slope may be up to 2 T / n, as it is where the square is all. A line
between two measured lengths is then too high, and one beyond them too low; leaving out one
between others shows how much. Measured times that fall as rows are added are pooled (M. Ayer et
al., 1955), and what they differ by is noise.

Uncertainty, in the logarithm of the time, by normal priors that the measured sizes correct:
redeployments differ by ``NOISE``, and the law may be wrong by ``DISCREPANCY`` for every doubling
away from the nearest measured size. Each size that has neighbours on both sides is left out and
predicted from the others: by what that misses, ``DISCREPANCY`` is made larger or smaller. Two
sizes are the least; nothing tests their line, so the prior is all that there is. Between two
measured sizes a time lies between theirs, but for noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from planner.records import Interval
from planner.scaling import NOISE, interval_width

DISCREPANCY = 0.1
"""Standard deviation of a log time that a line may be wrong by, for every doubling of the rows.

A time that grows as rows to the power 0.8 bends away from its line by this much."""

FEWEST = 2

_PRIOR_WEIGHT = 4  # ``NOISE`` and ``DISCREPANCY`` count as so many residuals each


class RowLaw:
    """The law of one time (seconds, or of any scale) at distinct ascending ``rows``.

    At least ``FEWEST`` of them, each with a time above 0; ``degree`` is the highest power of
    them that it grows with, 1 or 2.
    """

    def __init__(self, rows: Sequence[int], times: Sequence[float], degree: int = 1) -> None:
        self._degree = degree
        self._rows = np.asarray(rows, dtype=float)
        logs = np.log(np.asarray(times, dtype=float))
        pooled, groups = _never_falling(logs)
        self._times = np.exp(pooled)
        squares = float(((logs - pooled) ** 2).sum())
        degrees = _PRIOR_WEIGHT + len(rows) - groups
        self._noise = (_PRIOR_WEIGHT * NOISE**2 + squares) / degrees
        self._discrepancy = _discrepancy(self._rows, logs, self._noise)
        self._width = interval_width(degrees)

    def time(self, n: float) -> float:
        """Predicted time of ``n`` rows, from the fewest measured ones on; never falls with them."""
        last, most = float(self._times[-1]), float(self._rows[-1])
        if n <= most:
            return float(np.interp(n, self._rows, self._times))
        return last + self._slope_beyond * (n - most)

    def interval(self, n: float) -> Interval:
        """90 % interval of the time that one deployment will have at ``n`` rows."""
        mid = self.time(n)
        away = float(np.abs(np.log2(n / self._rows)).min())
        sd = math.sqrt(self._noise * (1 + self._carried(n)) + (self._discrepancy * away) ** 2)
        reach = math.exp(self._width * sd)
        # What a measured size may be off by itself.
        edge = math.exp(self._width * math.sqrt(2 * self._noise))
        low = max(mid / reach, float(self._times[self._rows <= n].max()) / edge)
        above = self._times[self._rows >= n]
        high = mid * reach
        if len(above):
            high = min(high, float(above.min()) * edge)
        elif self._degree == 2:
            high = max(high, self._bent_beyond(n))
        return Interval(low=min(low, mid), mid=mid, high=max(high, mid))

    @property
    def _before(self) -> int:
        """Index of the size that a line beyond the largest begins at."""
        half = np.flatnonzero(self._rows <= self._rows[-1] / 2)
        return int(half[-1]) if len(half) else 0

    @property
    def _slope_beyond(self) -> float:
        before, last = self._before, float(self._times[-1])
        rise = (last - float(self._times[before])) / float(self._rows[-1] - self._rows[before])
        return min(rise, self._degree * last / float(self._rows[-1]))

    def _bent_beyond(self, n: float) -> float:
        """The parabola through the three largest sizes at ``n``; 0 where there are fewer.

        Of a + b n + c n^2 it is the time itself (Newton's divided differences), and no more than
        a time that is all square.
        """
        if len(self._rows) < 3:
            return 0.0
        first, middle, last = map(float, self._rows[-3:])
        early, late = np.diff(self._times[-3:]) / np.diff(self._rows[-3:])
        bend = (late - early) / (last - first)
        bent = self._times[-1] + (n - last) * (late + bend * (n - middle))
        return float(min(bent, self._times[-1] * (n / last) ** 2))

    def _carried(self, n: float) -> float:
        """Noise of measured times that a predicted one has, in units of one's own.

        Between sizes no less than one's: two that agree may be wrong together. Beyond them
        a slope carries that of both its ends.
        """
        first, last = float(self._rows[self._before]), float(self._rows[-1])
        if n <= last:
            return 1.0
        share = (n - first) / (last - first)
        ends = share * self._times[-1], (share - 1) * self._times[self._before]
        return float((ends[0] ** 2 + ends[1] ** 2) / self.time(n) ** 2)


def between(at: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``values`` [rows, ...] at the numbers of rows ``at``, linear between those that are known.

    Outside of them those of the nearest.
    """
    after = np.clip(np.searchsorted(rows, at), 1, len(rows) - 1)
    low, high = rows[after - 1], rows[after]
    share = np.clip((at - low) / (high - low), 0, 1)[:, None]
    return np.asarray((1 - share) * values[after - 1] + share * values[after])


def left_out_error(rows: Sequence[int], times: Sequence[float]) -> float | None:
    """Worst relative error at a size that is left out and predicted from its neighbours.

    None where no size has neighbours on both sides: nothing tests the law then.
    """
    errors = [
        abs(float(np.interp(rows[i], _without(rows, i), _without(times, i))) / times[i] - 1)
        for i in range(1, len(rows) - 1)
    ]
    return max(errors, default=None)


def _without(values: Sequence[float] | np.ndarray, left_out: int) -> np.ndarray:
    return np.delete(np.asarray(values, dtype=float), left_out)


def _never_falling(values: np.ndarray) -> tuple[np.ndarray, int]:
    """The nearest sequence that never falls (pool adjacent violators), and its distinct groups."""
    groups: list[tuple[float, int]] = []
    for value in values.tolist():
        groups.append((value, 1))
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (one, n), (other, m) = groups[-2:]
            groups[-2:] = [((n * one + m * other) / (n + m), n + m)]
    made = [np.full(n, value) for value, n in groups]
    return np.concatenate(made), len(groups)


def _discrepancy(rows: np.ndarray, logs: np.ndarray, noise: float) -> float:
    """Standard deviation per doubling: the prior's, corrected by what leaving sizes out misses."""
    squares = []
    for i in range(1, len(rows) - 1):
        others, times = _without(rows, i), np.exp(_without(logs, i))
        missed = math.log(float(np.interp(rows[i], others, times))) - float(logs[i])
        # What one beside its neighbour is missed by is no slope, and says nothing of far ones.
        away = max(1.0, float(np.abs(np.log2(rows[i] / others)).min()))
        # Of it, the noise of the one left out and of those it is predicted from.
        squares.append(max(0.0, missed**2 - 2 * noise) / away**2)
    return math.sqrt(
        (_PRIOR_WEIGHT * DISCREPANCY**2 + sum(squares)) / (_PRIOR_WEIGHT + len(squares))
    )
