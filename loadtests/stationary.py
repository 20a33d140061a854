"""The long-run latencies of one server under Poisson arrivals, from measured service times.

The wait of M/G/1 is a geometric sum of residual service times (Pollaczek and Khinchine;
Asmussen, Applied Probability and Queues, VIII.5). On a lattice it is a power series,
(1 - rho) / (1 - rho r), which times s is the law of the latency; s and r are the series of
the service time and of its residual. Nothing is simulated: the only doubt that is left is
that of the service times, and how much each of them moves the result is known exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.integrate import cumulative_trapezoid
from scipy.optimize import brentq
from scipy.signal import fftconvolve, lfilter

_POINTS = 500  # of the lattice, from 0 to the limit; a share of 1 % is then right to 0.1 % of it
_BUSIEST = 0.98
_FAR = 4.0  # in logarithms: a factor of about fifty
_NEVER = 1e-15
_STEP = 0.1
_STRIDE = 0.05
_CLOSE = 2e-5


def share_late(service_s: np.ndarray, rate_rps: float, limit_s: float) -> float:
    """The share of requests over ``limit_s`` (above 0), for service times of shape [n].

    Raises ValueError for a server that cannot keep up: a share needs an idle moment.
    """
    found = _Lattice.of(service_s, rate_rps, limit_s)
    return 1 - found.idle * float(_up_to(found.sojourn)[-1])


def influence(service_s: np.ndarray, rate_rps: float, limit_s: float) -> np.ndarray:
    """How that share moves when a service time gains weight, shape [n], with mean 0.

    The variance of the share is that of the mean of such values (Hampel, The influence
    curve and its role in robust estimation, 1974). A service time acts as itself, as a
    residual behind which others wait, and by its part of the load.
    """
    found = _Lattice.of(service_s, rate_rps, limit_s)
    itself = _up_to(found.queue)[::-1]
    behind = _up_to(fftconvolve(found.sojourn, found.queue)[: _POINTS + 1])[::-1]
    behind = rate_rps * found.step_s * cumulative_trapezoid(behind, initial=0)
    gain = found.idle * np.append(itself + behind, behind[-1])
    below, share = _split(service_s / found.step_s)
    late = (1 - share) * gain[below] + share * gain[np.minimum(below + 1, _POINTS + 1)]
    late -= rate_rps * service_s * _up_to(found.sojourn)[-1]
    return np.asarray(late.mean() - late)


def headroom(
    service_s: np.ndarray, rate_rps: float, limit_s: float, share: float
) -> tuple[float, float]:
    """Logarithm of the factor on all service times at which ``share`` is over the limit.

    Bounded where the server would be 98 % busy, and at a fiftieth. The other figure is the
    slope of the share there, by that logarithm.
    """
    busy = rate_rps * float(service_s.mean())
    return _solved(
        lambda x: share_late(np.exp(x) * service_s, rate_rps, limit_s),
        share,
        (-_FAR, float(np.log(_BUSIEST / busy))),
        _STEP * (1 - busy),
    )


def quantile(
    service_s: np.ndarray, rate_rps: float, share: float, near_s: float
) -> tuple[float, float]:
    """Logarithm of the latency that ``share`` of the requests exceed, and the slope there.

    Looked for from ``near_s`` on, within a factor of fifty.
    """
    at, steep = _solved(
        lambda x: share_late(service_s, rate_rps, near_s / float(np.exp(x))),
        share,
        (-_FAR, _FAR),
        _STEP,
    )
    return float(np.log(near_s)) - at, -steep


def _solved(
    share_at: Callable[[float], float], share: float, bounds: tuple[float, float], step: float
) -> tuple[float, float]:
    """Where a rising function has the value ``share`` (or the nearer bound), and its slope.

    The root is mostly near 0, so the bracket grows from there. The slope is that over a
    stretch of ``step`` to both sides, in which shares change by about a third: service
    times are single points, and where no queue smooths them a derivative would see few.
    """

    def excess(x: float) -> float:
        return float(np.log(max(share_at(x), _NEVER) / share))

    low, high = bounds
    inner, outer, stride = 0.0, 0.0, -_STRIDE if excess(0.0) > 0 else _STRIDE
    while excess(outer) * stride < 0 and low < outer < high:
        inner, outer, stride = outer, float(np.clip(outer + stride, low, high)), 2 * stride
    at = outer
    if inner != outer and excess(outer) * stride > 0:
        at = float(brentq(excess, inner, outer, xtol=_CLOSE))
    rise = excess(min(at + step, high)) - excess(at - step)
    return at, share_at(at) * rise / (min(at + step, high) - at + step)


@dataclass(frozen=True)
class _Lattice:
    """Power series on the points 0, ``step_s``, ... up to the limit.

    ``queue`` is 1 / (1 - rho r), and ``sojourn`` that times s: ``idle`` is left out.
    """

    idle: float
    step_s: float
    queue: np.ndarray
    sojourn: np.ndarray

    @classmethod
    def of(cls, service_s: np.ndarray, rate_rps: float, limit_s: float) -> Self:
        idle = 1 - rate_rps * float(service_s.mean())
        if idle <= 0:
            raise ValueError(f"one server cannot be {1 - idle:.0%} busy for long")
        step = limit_s / _POINTS
        below, share = _split(service_s / step)
        size = _POINTS + 3
        counts = np.bincount(below, 1 - share, size) + np.bincount(below + 1, share, size)
        law = counts[: _POINTS + 1] / len(service_s)
        # rho r: the rate times the chance to outlast a point, averaged over a step.
        outlasting = 1 - np.cumsum(law)
        residual = rate_rps * step * (outlasting + np.append(0.0, outlasting[:-1])) / 2
        one = np.append(1.0, np.zeros(_POINTS))
        queue = lfilter([1.0], one - residual, one)
        return cls(idle, step, queue, fftconvolve(law, queue)[: _POINTS + 1])


def _split(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The point below, and the share that the next one gets, so that the mean is kept.

    All beyond the last point are put on one more.
    """
    inside = np.minimum(place, _POINTS + 1)
    below = inside.astype(int)
    return below, inside - below


def _up_to(series: np.ndarray) -> np.ndarray:
    """Sums up to each point, which counts by half: the lattice stands for a density."""
    return np.asarray(np.cumsum(series) - series / 2)
