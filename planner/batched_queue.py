"""Replicas that answer waiting requests together: their latencies against rate, with an interval.

The counterpart of :mod:`planner.curve` for dynamic batching without a wait: a free replica takes
all that waits for it, up to ``most`` requests. Nothing is measured batched. The time of a call is
a law across the batch sizes that were (:mod:`planner.batch_law`), and the queue is simulated
(:mod:`planner.batching`) once for a number of replicas, over a grid of loads: a law that is off by
a factor, or a CPU that is as much faster, is the same queue in another time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.batch_law import BatchLaw
from planner.batching import batched_sojourns
from planner.congestion import NONE, waits_ms
from planner.curve import QUANTILES, predictor
from planner.own_error import widened
from planner.ranges import Range
from planner.records import Interval, ServiceProfile
from planner.request_sizes import ROWS, peak_bytes
from planner.sharing import shares_core
from planner.sizing import UTILISATION_CAP
from serving.errors import BadInput

_REPLICAS = (1, 2, 4)
"""Other numbers are taken as the next lower one, which queues more at one load."""

_POINTS, _LANES, _REQUESTS = 8, 16, 500
_WARM_UP = 150
_CALLS_TO_WARM_UP = 4


class BatchedQueue:
    """Latencies in ms of replicas whose calls answer up to ``most`` requests each.

    ``cell`` are the measured profiles of one variant, size and threads, by rising batch size from
    that of a request on; ``law`` is theirs. ``profile`` is what a sizing takes for the profile: its
    capacity is that of full calls, its peak of memory that of the largest. The interval spans what
    the law misses, and the doubt about what a replica carries.
    """

    def __init__(self, cell: Sequence[ServiceProfile], law: BatchLaw, most: int, seed: int) -> None:
        self.most, self.law, self.simulations = most, law, 0
        self._cell, self._seed = cell, seed
        self._table = law.table(most)
        self._call_s = self._table.mean(axis=1)
        doubt = max(p.capacity_rps / p.capacity_interval.low for p in cell)
        self._fast, self._slow = 1 / (1 + law.residual), (1 + law.residual) * doubt
        full = most / float(self._call_s[most])
        self.profile = cell[0].model_copy(
            update={
                "capacity_rps": full,
                "capacity_interval": Interval(
                    low=full / self._slow, mid=full, high=full / self._fast
                ),
                "peak_memory_bytes": peak_bytes(ROWS, cell, most * law.rows),
                "measured_points": (),
            }
        )
        self._sojourns: dict[int, np.ndarray] = {}
        # Alone they fill a replica at that share of what full calls carry.
        single = float(self._call_s[most] / (most * self._call_s[1]))
        self._loads = np.geomspace(min(0.1, single / 4), UTILISATION_CAP, _POINTS)

    @property
    def staffable(self) -> bool:
        """The staffing law knows no shared calls."""
        return False

    def share_waiting(self, replicas: int, rate_rps: float) -> float:
        """As where the staffing law does not hold."""
        return 1.0

    def unloaded(self, quantile: float) -> float:
        """A request that meets no other one."""
        alone_s = float(np.quantile(self._table[1], quantile))
        return 1e3 * (alone_s + self.law.beyond_s)

    def latency(
        self, replicas: int, rate_rps: float, quantile: float, through_rps: float = 0.0
    ) -> Range:
        """One quantile with ``replicas`` replicas at ``rate_rps`` in all.

        What measured runs of these batch sizes exceeded their prediction by is added, as it is to
        every plan; or what ``through_rps`` wait for the ingress that they share, if that is more.
        BadInput beyond the load that a plan may have, at the slow end of the law.
        """
        load = rate_rps / (replicas * self.profile.capacity_rps)
        if load * self._slow > UTILISATION_CAP * (1 + 1e-6):
            raise BadInput(
                f"{rate_rps:g} req/s may be {load * self._slow:.0%} of what {replicas} replicas "
                f"carry in calls of {self.most}, and nothing is predicted beyond "
                f"{UTILISATION_CAP:.0%}; ask for more replicas or a lower rate"
            )
        low, mid, high = (
            1e3 * (scale * self._quantile_s(replicas, load * scale, quantile) + self.law.beyond_s)
            for scale in (self._fast, 1.0, self._slow)
        )
        over = self._shortfall_ms(load * self._slow, quantile)
        many = replicas > 1 and through_rps > 0
        waits = waits_ms(self.profile.platform, through_rps, quantile) if many else NONE
        found = Range(
            low, max(low, mid) + max(over, waits.mid), max(low, mid, high) + max(over, waits.high)
        )
        return widened(found, quantile, shared=shares_core(self.profile, replicas))

    def _quantile_s(self, replicas: int, load: float, quantile: float) -> float:
        found = np.quantile(self._simulated(replicas), quantile, axis=1)
        rising = np.maximum.accumulate(found)  # more load is never faster; where it seems so, noise
        return float(np.interp(np.log(load), np.log(self._loads), rising))

    def _simulated(self, replicas: int) -> np.ndarray:
        """Times in the system in seconds at each load of the grid, shape [loads, requests]."""
        count = max(k for k in _REPLICAS if k <= replicas)
        if count not in self._sojourns:
            self.simulations += 1
            rng = np.random.default_rng(self._seed)
            warm_up = max(_WARM_UP, _CALLS_TO_WARM_UP * self.most)
            shape = (warm_up + _REQUESTS, 1, _LANES)
            gaps, places = rng.exponential(size=shape), rng.random(shape)
            rates = self._loads * count * self.profile.capacity_rps
            arrivals = np.cumsum(gaps, axis=0) / rates[:, None]
            times = batched_sojourns(
                arrivals.reshape(len(arrivals), -1),
                np.broadcast_to(places, arrivals.shape).reshape(len(arrivals), -1),
                self._table,
                wait_s=0.0,
                replicas=count,
            )
            kept = times[warm_up:].reshape(_REQUESTS, _POINTS, _LANES)
            self._sojourns[count] = kept.transpose(1, 0, 2).reshape(_POINTS, -1)
        return self._sojourns[count]

    def _shortfall_ms(self, load: float, quantile: float) -> float:
        """By how much runs were slower than predicted, of the batches that a call may have."""
        quantiles = [q for q in QUANTILES if q <= quantile] or [quantile]
        return max(
            predictor(p, self._seed).shortfall(load, q)
            for p in self._cell
            if p.batch <= self.most * self.law.rows
            for q in quantiles
        )
