"""Predicted latency against rate, with an interval, from a service profile.

A prediction is a simulation of the measured service times through the real topology. Its
interval spans bootstrap replicates (B. Efron, 1979): each resamples the service histogram,
takes another capacity from the measured interval, and has arrivals of its own. Latencies are
computed on a grid of utilisations, made monotone along it, and interpolated in 1 / (1 - u),
in which the waiting time of a queue is close to a straight line (Pollaczek-Khinchine).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from planner.occupancy import Occupancy, occupancy
from planner.records import Curve, CurvePoint, Interval, MeasuredPoint, ServiceProfile
from planner.simulate import draw, sojourns
from serving.errors import BadInput

UTILISATIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85)
HIGHEST_UTILISATION = 0.85
"""Beyond it a latency is mostly luck: no run is long enough to be stationary."""

QUANTILES = (0.5, 0.95, 0.99)

_GRID = np.array([0.1, 0.3, 0.5, 0.65, 0.75, 0.85])
_REPLICATES = 8
_LANES = 8
_WARM_UP = 300
_REQUESTS = 700
_SIMULATED_REPLICAS = (1, 2, 3, 4, 8)


class _Surface(NamedTuple):
    """Latencies in ms over the grid, each of shape [utilisations, quantiles]."""

    low: np.ndarray
    mid: np.ndarray
    high: np.ndarray


def predict(profile: ServiceProfile, replicas: int, rate_rps: float, seed: int) -> CurvePoint:
    """Latency of ``replicas`` replicas at ``rate_rps`` in all; BadInput beyond 0.85 of capacity."""
    p50, p95, p99 = (predict_quantile(profile, replicas, rate_rps, q, seed) for q in QUANTILES)
    return CurvePoint(
        rate_rps=rate_rps,
        utilisation=rate_rps / (replicas * profile.capacity_rps),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
    )


def predict_quantile(
    profile: ServiceProfile, replicas: int, rate_rps: float, quantile: float, seed: int
) -> Interval:
    """One latency quantile in ms.

    The middle and the upper end follow what was measured: by how much open-loop runs of the
    profile were slower than predicted, interpolated over the utilisation, is added. It is
    added in ms, also for several replicas, because what a queue cannot explain is mostly
    stalls of the platform that come whatever the load.

    Never falls as the rate rises. BadInput beyond 0.85 of the capacity.
    """
    utilisation = rate_rps / (replicas * profile.capacity_rps)
    if utilisation > HIGHEST_UTILISATION * (1 + 1e-9):
        raise BadInput(
            f"{profile.variant.name} on {profile.instance.label}: {rate_rps:g} req/s is "
            f"{utilisation:.0%} of the capacity of {replicas} replicas, and nothing is "
            f"predicted beyond {HIGHEST_UTILISATION:.0%}; ask for more replicas or a lower rate"
        )
    simulated = _simulated_interval(profile, replicas, utilisation, quantile, seed)
    shortfall = _shortfall_ms(profile, utilisation, quantile, seed)
    return Interval(
        low=simulated.low, mid=simulated.mid + shortfall, high=simulated.high + shortfall
    )


def curve(
    profile: ServiceProfile,
    replicas: int,
    seed: int,
    utilisations: Sequence[float] = UTILISATIONS,
) -> Curve:
    """Latency at each of ``utilisations`` (at most 0.85) of ``replicas`` replicas.

    The measured range is that of the open-loop runs, which had one replica, at the same
    utilisation; 0 to 0 when there were none.
    """
    capacity = replicas * profile.capacity_rps
    measured = [replicas * point.rate_rps for point in profile.measured_points]
    return Curve(
        variant=profile.variant.name,
        instance=profile.instance.label,
        threads=profile.threads,
        batch=profile.batch,
        replicas=replicas,
        points=tuple(predict(profile, replicas, u * capacity, seed) for u in utilisations),
        measured_from_rps=min(measured, default=0.0),
        measured_to_rps=max(measured, default=0.0),
    )


def unloaded_ms(profile: ServiceProfile, quantile: float) -> float:
    """Latency in ms of a request that meets no other one: overhead and occupancy alone."""
    values, counts = profile.service.values()
    alone = occupancy(profile, values, counts, profile.capacity_rps)
    # The bucket that holds the quantile; a quota's stalls come on top.
    index = int(np.searchsorted(np.cumsum(counts), quantile * counts.sum()))
    return 1e3 * (float(alone.first_s[min(index, len(values) - 1)]) + alone.beyond_s)


def _simulated_interval(
    profile: ServiceProfile, replicas: int, utilisation: float, quantile: float, seed: int
) -> Interval:
    # At one utilisation more replicas only queue less, so rounding down is on the safe side.
    simulated = max(k for k in _SIMULATED_REPLICAS if k <= replicas)
    quantiles = tuple(sorted({*QUANTILES, quantile}))
    surface = _surface(profile, simulated, seed, quantiles)
    column = quantiles.index(quantile)
    x = 1 / (1 - min(utilisation, HIGHEST_UTILISATION))
    low, mid, high = (float(np.interp(x, 1 / (1 - _GRID), part[:, column])) for part in surface)
    return Interval(low=low, mid=max(low, mid), high=max(low, mid, high))


def _shortfall_ms(profile: ServiceProfile, utilisation: float, quantile: float, seed: int) -> float:
    """By how much measured runs exceeded the prediction: interpolated, rising with the load.

    Between two runs the rise is taken as linear. A quota's throttling sets in somewhere
    between a run that met none and one that did, and a plan must not bet on where.
    """
    recorded = max((q for q in QUANTILES if q <= quantile), default=QUANTILES[0])
    places, shortfalls = [0.0], [0.0]
    for point in sorted(profile.measured_points, key=lambda p: p.utilisation):
        place = min(point.utilisation, HIGHEST_UTILISATION)
        expected = _simulated_interval(profile, 1, place, recorded, seed)
        places.append(place)
        shortfalls.append(max(shortfalls[-1], _measured_ms(point, recorded) - expected.high))
    return float(np.interp(utilisation, places, shortfalls))


def _measured_ms(point: MeasuredPoint, quantile: float) -> float:
    return dict(zip(QUANTILES, (point.p50_ms, point.p95_ms, point.p99_ms), strict=True))[quantile]


@lru_cache(maxsize=1024)
def _surface(
    profile: ServiceProfile, replicas: int, seed: int, quantiles: tuple[float, ...]
) -> _Surface:
    """Simulate every replicate at every utilisation of the grid, all in one pass.

    The same random numbers serve all utilisations, so that curves are smooth, and all
    profiles, so that two of them differ by their service times and not by luck.
    """
    rng = np.random.default_rng(seed)
    length = _WARM_UP + _REQUESTS
    values, counts = profile.service.values()
    gaps = rng.exponential(size=(length, 1, _REPLICATES, _LANES))
    places = rng.random((length, _REPLICATES, _LANES))
    occupancies = _replicates(profile, values, counts, rng)
    busy = _drawn(occupancies, places, first=False)
    cold = any(o.first_s is not o.busy_s for o in occupancies)
    first = _drawn(occupancies, places, first=True) if cold else busy
    rates = _GRID * profile.capacity_rps * replicas
    arrivals = np.cumsum(gaps, axis=0) / rates[:, None, None]
    times = sojourns(
        arrivals.reshape(length, -1),
        busy,
        first=first,
        replicas=replicas,
        quota=occupancies[0].quota,
    )
    kept = times[_WARM_UP:].reshape(_REQUESTS, len(_GRID), _REPLICATES, _LANES)
    pooled = kept.transpose(1, 2, 0, 3).reshape(len(_GRID), _REPLICATES, -1)
    beyond = np.array([o.beyond_s for o in occupancies])
    latency = 1e3 * (np.moveaxis(np.quantile(pooled, quantiles, axis=2), 0, -1) + beyond[:, None])
    # More load is never faster; where it seems so, it is noise or a warm cache.
    rising = np.maximum.accumulate(latency, axis=0)
    return _Surface(rising.min(axis=1), np.median(rising, axis=1), rising.max(axis=1))


def _replicates(
    profile: ServiceProfile, values: np.ndarray, counts: np.ndarray, rng: np.random.Generator
) -> list[Occupancy]:
    """One occupancy per replicate: resampled counts, a capacity from its interval."""
    interval = profile.capacity_interval
    capacities = np.interp(
        np.linspace(0, 1, _REPLICATES), (0, 0.5, 1), (interval.low, interval.mid, interval.high)
    )
    resampled = rng.multinomial(int(counts.sum()), counts / counts.sum(), size=_REPLICATES)
    return [
        occupancy(profile, values, chosen, float(capacity))
        for chosen, capacity in zip(resampled, capacities, strict=True)
    ]


def _drawn(occupancies: Sequence[Occupancy], places: np.ndarray, *, first: bool) -> np.ndarray:
    """Occupancies at the quantiles ``places`` [n, replicates, lanes], repeated over the grid."""
    one_rate = np.stack(
        [
            draw(o.first_s if first else o.busy_s, o.counts, places[:, r])
            for r, o in enumerate(occupancies)
        ],
        axis=1,
    )
    tiled = np.broadcast_to(one_rate[:, None], (len(places), len(_GRID), *one_rate.shape[1:]))
    return np.ascontiguousarray(tiled).reshape(len(places), -1)
