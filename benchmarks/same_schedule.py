"""A quantile predicted on the very schedule of a measurement, with its predictive interval.

The p99 of one run is to a large part luck with its schedule, which is no error of a
prediction. So the due times of the measurement are the arrivals of the simulation; service
times come from the profile. Each replicate of the bootstrap (B. Efron, 1979) resamples the
service histogram, takes another capacity from the measured interval (and service times longer
by as much as it carries less), and draws the service time of every request anew: the interval is
one of what a run may show, not of a mean. The planner's own error is part of it, as of a plan's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loadtests.objective import Slo
from loadtests.slo import judge_slo
from planner.occupancy import Occupancy, occupancy
from planner.own_error import widened
from planner.ranges import Range
from planner.records import ServiceProfile
from planner.sharing import crowding, draws, shares_core
from planner.simulate import draw, sojourns

REPLICATES = 100
COVERED = 0.9
_AT_ONCE = 16_000_000  # requests times replicates: 128 MB an array


@dataclass(frozen=True)
class Window:
    """One open-loop run: due times and latencies in seconds, shape [n], in order of due time.

    Latencies of requests that failed are inf. What fell due before ``from_s`` is warm-up.
    ``seed`` is that of the schedule.
    """

    due_s: np.ndarray
    latency_s: np.ndarray
    from_s: float = 0.0
    seed: int = 0

    @property
    def steady(self) -> np.ndarray:
        """Which requests count, shape [n]."""
        return np.asarray(self.due_s >= self.from_s)


class Predicted(NamedTuple):
    """Middle and 90 % predictive interval of a quantile, in ms."""

    low: float
    mid: float
    high: float


def predicted_ms(
    profile: ServiceProfile,
    windows: Sequence[Window],
    *,
    replicas: int = 1,
    seed: int = 0,
    quantile: float = 0.99,
) -> Predicted:
    """The quantile over all ``windows`` together, of ``replicas`` replicas of ``profile``.

    ``latency_s`` of the windows is not looked at.
    """
    rng = np.random.default_rng(seed)
    occupancies = _replicates(profile, rng)
    slower = draws(crowding(profile, replicas), REPLICATES, rng)
    parts = [
        _latencies(occupancies, window.due_s, replicas, slower, rng)[window.steady]
        for window in windows
    ]
    found = 1e3 * np.quantile(np.concatenate(parts), quantile, axis=0, method="inverted_cdf")
    outside = (1 - COVERED) / 2
    low, mid, high = np.quantile(found, (outside, 0.5, 1 - outside))
    drawn = Range(float(low), float(mid), float(high))
    return Predicted(*widened(drawn, quantile, shared=shares_core(profile, replicas)))


def measured_ms(windows: Sequence[Window], quantile: float = 0.99) -> float:
    """The quantile that was measured over all ``windows``."""
    latencies = np.concatenate([window.latency_s[window.steady] for window in windows])
    return float(1e3 * np.quantile(latencies, quantile, method="inverted_cdf"))


def half_width(windows: Sequence[Window], quantile: float = 0.99) -> float:
    """Half of the measured quantile's own 95 % interval, relative; correlation counted.

    Infinite where too little is known, as with a quantile that is a failed request's.
    """
    latencies = np.concatenate([window.latency_s[window.steady] for window in windows])
    limit = measured_ms(windows, quantile)
    if not np.isfinite(limit) or limit <= 0:
        return float("inf")
    error = judge_slo(latencies, Slo(quantile=quantile, limit_ms=limit)).quantile_error
    return float("inf") if error is None else 1.96 * error


def _replicates(profile: ServiceProfile, rng: np.random.Generator) -> list[Occupancy]:
    values, counts = profile.service.values()
    n, interval = int(counts.sum()), profile.capacity_interval
    places = (interval.low, interval.mid, interval.high)
    capacities = np.interp(np.linspace(0, 1, REPLICATES), (0, 0.5, 1), places)
    resampled = rng.multinomial(n, counts / n, size=REPLICATES)
    return [
        occupancy(profile, values * (interval.mid / capacity), chosen, float(capacity), rng)
        for chosen, capacity in zip(resampled, capacities, strict=True)
    ]


def _latencies(
    occupancies: Sequence[Occupancy],
    due_s: np.ndarray,
    replicas: int,
    slower: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Latencies in seconds of every replicate, shape [n, replicates].

    Each replicate's occupancies are ``slower`` times as long.
    """
    each = max(1, _AT_ONCE // max(1, len(due_s)))
    found = []
    for begin in range(0, len(occupancies), each):
        some = occupancies[begin : begin + each]
        luck = rng.random((len(some), len(due_s)))
        lanes = list(zip(some, slower[begin : begin + each], luck, strict=True))
        busy = np.stack([draw(times * o.busy_s, o.counts, one) for o, times, one in lanes], axis=1)
        first = None
        if any(o.first_s is not o.busy_s for o in some):
            cold = [draw(times * o.first_s, o.counts, one) for o, times, one in lanes]
            first = np.stack(cold, axis=1)
        arrivals = np.repeat(due_s[:, None], len(some), axis=1)
        times = sojourns(arrivals, busy, first=first, replicas=replicas, quota=some[0].quota)
        beyond = [o.beyond_at(rng.random(len(due_s))) for o in some]
        found.append(times + np.stack(beyond, axis=1))
    return np.concatenate(found, axis=1)
