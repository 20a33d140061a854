"""Latency surfaces: what one profile's queue does at each utilisation, simulated.

A surface spans bootstrap replicates (B. Efron, 1979): each resamples the service histogram,
takes another capacity from the measured interval, and has arrivals of its own. It does not
depend on any demand, which is why a run keeps its surfaces: a what-if simulates nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from planner.occupancy import Occupancy, occupancy
from planner.ranges import Range
from planner.records import PredictedProfile, ServiceProfile
from planner.sharing import capacity, crowding, draws
from planner.simulate import draw, sojourns
from serving.records import Record

HIGHEST_UTILISATION = 0.85
"""Beyond it a latency is mostly luck: no run is long enough to be stationary."""

SIMULATED_REPLICAS = (1, 2, 3, 4, 8)
"""Other numbers are taken as the next lower one: at one utilisation more replicas only queue
less, so that is on the safe side."""

_GRID = np.array([0.1, 0.3, 0.5, 0.65, 0.75, HIGHEST_UTILISATION])
# In 1 / (1 - u) the waiting time of a queue is close to a straight line (Pollaczek-Khinchine).
_PLACES = (1 / (1 - _GRID)).tolist()
_REPLICATES = 8
_LANES = 8
_WARM_UP = 300
_REQUESTS = 700


class Surface(Record):
    """Latencies in ms by quantile and, within, over the grid of utilisations.

    What it was simulated from identifies it: ``profile`` is the profile's hash, ``code``
    that of the modules that simulate.
    """

    profile: str
    code: str
    seed: int
    replicas: int
    quantiles: tuple[float, ...]
    low: tuple[tuple[float, ...], ...]
    mid: tuple[tuple[float, ...], ...]
    high: tuple[tuple[float, ...], ...]

    def at(self, utilisation: float, quantile: float) -> Range:
        """Interpolated latencies of one of its quantiles; beyond the grid those of its ends."""
        row = self.quantiles.index(quantile)
        x = 1 / (1 - min(utilisation, HIGHEST_UTILISATION))
        after = min(bisect_right(_PLACES, x), len(_PLACES) - 1)
        before = max(after - 1, 0)
        width = _PLACES[after] - _PLACES[before]
        share = min(max((x - _PLACES[before]) / width, 0.0), 1.0) if width else 0.0
        low, mid, high = (
            part[row][before] + share * (part[row][after] - part[row][before])
            for part in (self.low, self.mid, self.high)
        )
        mid = max(low, mid)
        return Range(low, mid, max(mid, high))


def simulated_as(replicas: int) -> int:
    """The number of replicas that stands in for ``replicas`` in a simulation."""
    return max(k for k in SIMULATED_REPLICAS if k <= replicas)


def simulate_surface(
    profile: ServiceProfile, replicas: int, seed: int, quantiles: Sequence[float]
) -> Surface:
    """Simulate every replicate at every utilisation of the grid, all in one pass.

    The same random numbers serve all utilisations, so that curves are smooth, and all
    profiles, so that two of them differ by their service times and not by luck.
    """
    rng = np.random.default_rng(seed)
    length = _WARM_UP + _REQUESTS
    gaps = rng.exponential(size=(_REPLICATES, _LANES, length))
    places = rng.random((_REPLICATES, _LANES, length))
    occupancies = replicates(profile, rng)
    slower = draws(crowding(profile, replicas), _REPLICATES, rng)
    busy, first = _drawn(occupancies, places, slower)
    rates = _GRID * capacity(profile, replicas).mid * replicas
    arrivals = np.cumsum(gaps, axis=-1) / rates[:, None, None, None]
    times = sojourns(
        arrivals.reshape(-1, length).T,
        busy.T,
        first=None if first is None else first.T,
        replicas=replicas,
        quota=occupancies[0].quota,
    )
    kept = times[_WARM_UP:].T.reshape(len(_GRID), _REPLICATES, -1)
    # [quantiles, utilisations, replicates]
    latency = 1e3 * np.quantile(kept + _beyond(occupancies, rng), quantiles, axis=2)
    # More load is never faster; where it seems so, it is noise or a warm cache.
    rising = np.maximum.accumulate(latency, axis=1)
    return Surface(
        profile=profile.content_hash(),
        code=code_hash(),
        seed=seed,
        replicas=replicas,
        quantiles=tuple(quantiles),
        low=rising.min(axis=2).tolist(),
        mid=np.median(rising, axis=2).tolist(),
        high=rising.max(axis=2).tolist(),
    )


@cache
def code_hash() -> str:
    """Identifies the code that a surface comes from: an old one is never taken for a new one."""
    # By name: where all surfaces are known, nothing that is compiled need be loaded.
    modules = ("surface.py", "steps.py", "simulate.py", "occupancy.py", "sharing.py")
    here = Path(__file__).parent
    return sha256(b"".join((here / name).read_bytes() for name in modules)).hexdigest()[:12]


def replicates(profile: ServiceProfile, rng: np.random.Generator) -> list[Occupancy]:
    """One occupancy per replicate: resampled counts, a capacity from its interval.

    A deployment that carries less is slower at every request, also at those that meet no other:
    service times are scaled by as much. Of a predicted size they have an interval of their own:
    where the capacity is at its low end, they are at their high one.
    """
    values, counts = profile.service.values()
    interval = profile.capacity_interval
    places = np.linspace(0, 1, _REPLICATES)
    capacities = np.interp(places, (0, 0.5, 1), (interval.low, interval.mid, interval.high))
    scales = interval.mid / capacities
    if isinstance(profile, PredictedProfile):
        low, mid, high = (getattr(profile.service_scale, end) for end in ("low", "mid", "high"))
        scales = np.interp(places, (0, 0.5, 1), (high / mid, 1.0, low / mid))
    resampled = rng.multinomial(int(counts.sum()), counts / counts.sum(), size=_REPLICATES)
    return [
        occupancy(profile, values * scale, chosen, float(capacity), rng)
        for chosen, capacity, scale in zip(resampled, capacities, scales, strict=True)
    ]


def _beyond(occupancies: Sequence[Occupancy], rng: np.random.Generator) -> np.ndarray:
    """What the round trip adds to each request, shape [1, replicates, requests]."""
    luck = rng.random((len(occupancies), _REQUESTS * _LANES))
    return np.stack([o.beyond_at(one) for o, one in zip(occupancies, luck, strict=True)])[None]


def _drawn(
    occupancies: Sequence[Occupancy], places: np.ndarray, slower: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Occupancies at the quantiles ``places`` [replicates, lanes, n], repeated over the grid.

    Each replicate's times are ``slower`` times as long. Of requests that follow another, and of
    those that find their replica idle (None where they are no others), each of shape
    [utilisations * replicates * lanes, n].
    """
    at = [
        draw(np.arange(len(o.counts)), o.counts, luck)
        for o, luck in zip(occupancies, places, strict=True)
    ]

    def over_grid(values_s: Iterable[np.ndarray]) -> np.ndarray:
        one_rate = np.stack([values[chosen] for values, chosen in zip(values_s, at, strict=True)])
        return np.tile(one_rate.reshape(-1, places.shape[-1]), (len(_GRID), 1))

    pairs = list(zip(slower, occupancies, strict=True))
    busy = over_grid(times * o.busy_s for times, o in pairs)
    cold = any(o.first_s is not o.busy_s for o in occupancies)
    return busy, over_grid(times * o.first_s for times, o in pairs) if cold else None
