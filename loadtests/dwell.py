"""Dwells: how long each part of a cell takes, from how fast the model is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from loadtests.judge import MIN_SAMPLES
from loadtests.quantiles import fewest_n

_RUNG_SAMPLES = 40  # of one user: below it a gain of 5 % is not seen
_USUAL_RUNGS = 5
_SPARE = 1.2  # what a rung has more than the answers that it needs: the first call is a slow one
_SIGMAS = 2.0  # by which Poisson arrivals may be fewer than their mean


@dataclass(frozen=True, kw_only=True)
class Dwell:
    """How long each part of a cell takes, in seconds, and the shares of capacity to try.

    Open runs of a slow model are longer: as many requests as it takes at least to print
    ``open_quantile``, down to 44 req/s. Of a model so slow that even the longest runs would be
    refused for too few answers, they are as long as ``fewest`` answers take.
    """

    warmup_s: float = 0.4
    idle_s: float = 0.5
    paced_s: float = 1.5
    rung_s: float = 1.0
    longest_rung_s: float = 6.0
    open_s: float = 2.2
    open_quantile: float | None = 0.99
    longest_open_s: float = 10.0
    open_shares: tuple[float, ...] = (0.5, 0.7)
    most_users: int = 32
    fewest: int = MIN_SAMPLES

    def cell_s(self, alone_s: float = 0.0) -> float:
        """Duration of a cell with as many rungs as most ladders have, rounding included.

        ``alone_s`` is what a request takes that meets no other: slow models are given longer.
        """
        rungs = min(_USUAL_RUNGS, self.most_users.bit_length())
        runs = 2 + rungs + len(self.open_shares)
        opened_s = sum(open_for(self, share / max(alone_s, 1e-6)) for share in self.open_shares)
        return (
            self.warmup_s + self.idle_s + paced_for(self.paced_s, paced_rps(alone_s))
            + rungs * rung_for(self, alone_s) + opened_s + 0.12 * runs
        )  # fmt: skip

    @property
    def ladder_s(self) -> float:
        """Duration of a ladder alone; a no-op's takes four rungs."""
        return self.warmup_s + 4 * self.rung_s + 0.12 * 5

    def opened_s(self, alone_s: float = 0.0) -> float:
        """Duration of the open runs alone, of replicas that a request takes ``alone_s`` of."""
        rates = (share / max(alone_s, 1e-6) for share in self.open_shares)
        return self.warmup_s + sum(open_for(self, rate) + 0.12 for rate in rates) + 0.12

    @property
    def floor_s(self) -> float:
        """Duration of a no-op for the floor at four rates: two models, or one that is slower."""
        return self.warmup_s + self.paced_s + 4 * self.open_s + 0.12 * 6


FULL = Dwell()
QUICK = Dwell(
    warmup_s=0.2,
    paced_s=0.6,
    rung_s=0.4,
    open_s=0.8,
    open_quantile=None,
    open_shares=(0.5,),
    most_users=4,
    longest_rung_s=2.0,
)
# A no-op only has to show its latency: no ladder, and seconds enough for the requests that a
# cell's own p99 is told from. A second is ten periods of a quota.
FLOOR = Dwell(warmup_s=0.3, paced_s=1.0, open_s=1.0, longest_open_s=5.0, fewest=0)
# Of replicas that share a core only the mean of their CPU time is wanted, and no tail.
SHARING = Dwell(open_s=4.0, open_quantile=None, open_shares=(FULL.open_shares[-1],))


def paced_rps(alone_s: float) -> float:
    """So far apart that requests of ``alone_s`` do not meet."""
    return min(100.0, 0.25 / max(alone_s, 1e-6))


def paced_for(least_s: float, rate_rps: float) -> float:
    """Enough samples from slow models, too."""
    return max(least_s, 25 / rate_rps)


def rung_for(dwell: Dwell, alone_s: float) -> float:
    """How long a rung is: one user of a slow model shall get answers enough."""
    least_s = max(dwell.rung_s, _SPARE * dwell.fewest * alone_s)
    return max(least_s, min(_RUNG_SAMPLES * alone_s, dwell.longest_rung_s))


def open_for(dwell: Dwell, rate_rps: float) -> float:
    """How long an open run is: a slow model's tail needs samples more than seconds."""
    least_s = max(dwell.open_s, _surely(dwell.fewest) / rate_rps)
    if dwell.open_quantile is None:
        return least_s
    tail_s = _surely(fewest_n(dwell.open_quantile)) / rate_rps
    return max(least_s, min(tail_s, dwell.longest_open_s))


def _surely(samples: int) -> int:
    """So many arrivals to expect that there are hardly ever fewer than ``samples``."""
    return samples + math.ceil(_SIGMAS * math.sqrt(samples))
