"""Predicted latency against rate, with an interval, from a service profile.

A prediction is a simulation of the measured service times through the real topology, see
:mod:`planner.surface`, interpolated over the utilisation. Of very many replicas it is a
staffing law, see :mod:`planner.staffing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from planner.congestion import NONE, waits_ms
from planner.occupancy import Occupancy, occupancy, quota_of
from planner.own_error import widened
from planner.ranges import Range
from planner.records import (
    Curve,
    CurvePoint,
    Interval,
    MeasuredPoint,
    PredictedProfile,
    ServiceProfile,
)
from planner.sharing import capacity, shares_core
from planner.staffing import MANY, erlang_c, may_wait
from planner.surface import (
    HIGHEST_UTILISATION,
    Surface,
    code_hash,
    replicates,
    simulate_surface,
    simulated_as,
)
from serving.errors import BadInput

UTILISATIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85)
QUANTILES = (0.5, 0.95, 0.99)


class Predictor:
    """Latencies of one profile in ms. What does not depend on a demand is computed once."""

    def __init__(self, profile: ServiceProfile, seed: int) -> None:
        self.profile = profile
        self._seed = seed
        self._surfaces: dict[tuple[int, tuple[float, ...]], Surface] = {}
        self._shortfalls: dict[float, tuple[list[float], list[float]]] = {}
        self._alone: dict[float, float] = {}
        self._unqueued: dict[float, Range] = {}

    def latency(
        self, replicas: int, rate_rps: float, quantile: float, through_rps: float = 0.0
    ) -> Range:
        """One quantile with ``replicas`` replicas at ``rate_rps`` in all.

        The middle and the upper end follow what was measured: by how much open-loop runs of
        the profile were slower than predicted, interpolated over the utilisation, is added.
        It is added in ms, also for several replicas, because what a queue cannot explain is
        mostly stalls of the platform that come whatever the load.

        ``through_rps`` of all that pass one ingress, several replicas wait at least for what
        no-ops waited at that rate, see :mod:`planner.congestion`. A single replica's own runs were
        at its own rate already. The planner's own error is part of the interval, see
        :mod:`planner.own_error`.

        Never falls as the rate rises. BadInput beyond 0.85 of the capacity.
        """
        profile = self.profile
        utilisation = rate_rps / (replicas * capacity(profile, replicas).mid)
        if utilisation > HIGHEST_UTILISATION * (1 + 1e-9):
            raise BadInput(
                f"{profile.variant.name} on {profile.instance.label}: {rate_rps:g} req/s is "
                f"{utilisation:.0%} of the capacity of {replicas} replicas, and nothing is "
                f"predicted beyond {HIGHEST_UTILISATION:.0%}; ask for more replicas or a lower rate"
            )
        lower = [q for q in QUANTILES if q < quantile]
        share = self.share_waiting(replicas, rate_rps)
        through = through_rps if replicas > 1 else 0.0
        found = [self._one(replicas, utilisation, q, share, through) for q in (*lower, quantile)]
        # Measured medians may exceed their prediction by more than measured tails do theirs.
        highest = Range(*(max(parts) for parts in zip(*found, strict=True)))
        return widened(highest, quantile, shared=shares_core(profile, replicas))

    def unloaded(self, quantile: float) -> float:
        """A request that meets no other one: overhead and occupancy alone."""
        if quantile not in self._alone:
            self._alone[quantile] = 1e3 * self._measured_occupancy.alone_s(quantile)
        return self._alone[quantile]

    @property
    def staffable(self) -> bool:
        """Whether the staffing law holds for many replicas.

        A quota stalls a replica whether or not requests meet, and the law knows no stalls.
        """
        return quota_of(self.profile) is None

    def share_waiting(self, replicas: int, rate_rps: float) -> float:
        """Share of requests that wait at all by Erlang's C, capacity at its lower bound.

        1 where the staffing law does not hold.
        """
        if replicas < MANY or not self.staffable:
            return 1.0
        return erlang_c(replicas, rate_rps / self.profile.capacity_interval.low)

    @cached_property
    def _profile_hash(self) -> str:
        return self.profile.content_hash()

    @cached_property
    def _measured_occupancy(self) -> Occupancy:
        values, counts = self.profile.service.values()
        return occupancy(self.profile, values, counts, self.profile.capacity_rps)

    def _one(
        self, replicas: int, utilisation: float, quantile: float, share: float, through: float
    ) -> Range:
        low, mid, high = self._simulated(simulated_as(replicas), utilisation, quantile)
        if share <= may_wait(quantile):
            quick = self._without_queue(quantile)
            low, mid, high = min(low, quick.low), min(mid, quick.mid), min(high, quick.high)
        shortfall = self.shortfall(utilisation, quantile)
        waits = waits_ms(self.profile.platform, through, quantile) if through else NONE
        # Not their sum: what runs of one replica exceeded their prediction by has waits in it.
        return Range(low, mid + max(shortfall, waits.mid), high + max(shortfall, waits.high))

    def know(self, surface: Surface) -> None:
        """Use a surface that was simulated earlier, if it is one of this profile by this code."""
        made_from = (surface.profile, surface.code, surface.seed)
        if made_from == (self._profile_hash, code_hash(), self._seed):
            self._surfaces.setdefault((surface.replicas, surface.quantiles), surface)

    def surface(self, replicas: int, quantiles: tuple[float, ...] = QUANTILES) -> Surface:
        """Latencies of one of ``SIMULATED_REPLICAS``, simulated when it is not known."""
        key = (replicas, quantiles)
        if key not in self._surfaces:
            self._surfaces[key] = simulate_surface(self.profile, replicas, self._seed, quantiles)
        return self._surfaces[key]

    def _simulated(self, replicas: int, utilisation: float, quantile: float) -> Range:
        quantiles = QUANTILES if quantile in QUANTILES else tuple(sorted({*QUANTILES, quantile}))
        return self.surface(replicas, quantiles).at(utilisation, quantile)

    def _without_queue(self, quantile: float) -> Range:
        """The quantile when no more than ``may_wait`` of all requests wait.

        P(latency > t) is at most P(service > t) + P(waits), so the upper end is the service
        time at a quantile that much higher.
        """
        if quantile not in self._unqueued:
            found = replicates(self.profile, np.random.default_rng(self._seed))
            at = [1e3 * o.alone_s(quantile) for o in found]
            higher = quantile + may_wait(quantile)
            over = [1e3 * o.alone_s(higher) for o in found]
            self._unqueued[quantile] = Range(min(at), float(np.median(at)), max(over))
        return self._unqueued[quantile]

    def shortfall(self, utilisation: float, quantile: float) -> float:
        """By how much measured runs exceeded the prediction: interpolated, rising with the load.

        Between two runs the rise is taken as linear. A quota's throttling sets in somewhere
        between a run that met none and one that did, and a plan must not bet on where.
        """
        if isinstance(self.profile, PredictedProfile):
            # Stalls of the platform do not get shorter on a larger size.
            slower = max(1.0, self.profile.service_scale.mid)
            nearest = predictor(self.profile.nearest, self._seed)
            return slower * nearest.shortfall(utilisation, quantile)
        if not self.profile.measured_points:
            return 0.0
        if quantile not in self._shortfalls:
            recorded = max((q for q in QUANTILES if q <= quantile), default=QUANTILES[0])
            places, shortfalls = [0.0], [0.0]
            for point in sorted(self.profile.measured_points, key=lambda p: p.utilisation):
                place = min(point.utilisation, HIGHEST_UTILISATION)
                expected = self._simulated(1, place, recorded)
                places.append(place)
                shortfalls.append(max(shortfalls[-1], _measured_ms(point, recorded) - expected[2]))
            self._shortfalls[quantile] = (places, shortfalls)
        return float(np.interp(utilisation, *self._shortfalls[quantile]))


@lru_cache(maxsize=1024)
def predictor(profile: ServiceProfile, seed: int) -> Predictor:
    """The predictor of a profile; equal arguments share one, and all that it has simulated."""
    return Predictor(profile, seed)


def predict(profile: ServiceProfile, replicas: int, rate_rps: float, seed: int) -> CurvePoint:
    """Latency of ``replicas`` replicas at ``rate_rps`` in all; BadInput beyond 0.85 of capacity."""
    p50, p95, p99 = (predict_quantile(profile, replicas, rate_rps, q, seed) for q in QUANTILES)
    return CurvePoint(
        rate_rps=rate_rps,
        utilisation=rate_rps / (replicas * capacity(profile, replicas).mid),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
    )


def predict_quantile(
    profile: ServiceProfile, replicas: int, rate_rps: float, quantile: float, seed: int
) -> Interval:
    """One latency quantile in ms behind one ingress, see :meth:`Predictor.latency`."""
    low, mid, high = predictor(profile, seed).latency(replicas, rate_rps, quantile, rate_rps)
    return Interval(low=low, mid=mid, high=high)


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
    carried = replicas * capacity(profile, replicas).mid
    measured = [point.utilisation * carried for point in profile.measured_points]
    return Curve(
        variant=profile.variant.name,
        instance=profile.instance.label,
        threads=profile.threads,
        batch=profile.batch,
        length=profile.length,
        replicas=replicas,
        points=tuple(predict(profile, replicas, u * carried, seed) for u in utilisations),
        measured_from_rps=min(measured, default=0.0),
        measured_to_rps=max(measured, default=0.0),
    )


def _measured_ms(point: MeasuredPoint, quantile: float) -> float:
    return dict(zip(QUANTILES, (point.p50_ms, point.p95_ms, point.p99_ms), strict=True))[quantile]
