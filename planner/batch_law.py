"""How long an inference call takes across batch sizes: measured ones, and between them.

A call has a fixed part and one for each row, so between two measured batches every quantile
of the service time is taken as a straight line. How far that is off is measured, too: each
batch that has neighbours on both sides is predicted from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loadtests.histogram import Histogram
from planner.records import ServiceProfile
from planner.row_law import FEWEST, between, left_out_error
from serving.errors import BadInput

PRIOR_RESIDUAL = 0.25
"""Of a law that nothing tests: two batches make a line, and say nothing about it."""

_PLACES = (np.arange(512) + 0.5) / 512


class BatchLaw(NamedTuple):
    """Service times of batches that a replica puts together out of requests.

    A request has ``rows`` rows, the fewest that were measured. ``service_s`` has shape
    [batches, places], the quantiles of the service time at the measured ``batches``.
    ``request_s`` is what each request costs beside the call (HTTP, decoding), however many
    share one. ``residual`` is the largest relative error of a mean that was left out.
    """

    rows: int
    batches: np.ndarray
    service_s: np.ndarray
    request_s: float
    beyond_s: float
    residual: float

    @classmethod
    def of(cls, profiles: Sequence[ServiceProfile]) -> BatchLaw:
        """From profiles that differ in their batch alone, in any order.

        BadInput for profiles of unlike deployments, or at fewer than two batch sizes.
        """
        by_batch = {p.batch: p for p in profiles}
        keys = {(p.variant.name, p.instance.label, p.threads) for p in profiles}
        if len(keys) > 1:
            raise BadInput("a batch law is made from profiles that differ in their batch alone")
        if len(by_batch) < FEWEST:
            raise BadInput("a batch law needs two batch sizes; measure another one")
        batches = np.array(sorted(by_batch))
        service = np.array([quantiles_at(by_batch[n].service, _PLACES) for n in batches.tolist()])
        first = by_batch[int(batches[0])]
        # What the replica spends on a request beside the call, see planner.occupancy.
        request = max(0.0, 1 / first.capacity_rps - float(service[0].mean()))
        beyond = max(0.0, first.overhead_ms / 1e3 - request)
        error = left_out_error(batches.tolist(), service.mean(axis=1).tolist())
        residual = PRIOR_RESIDUAL if error is None else error
        return cls(int(batches[0]), batches, service, request, beyond, residual)

    @property
    def most(self) -> int:
        """Requests in the largest batch that the law speaks of."""
        return int(self.batches[-1]) // self.rows

    def table(self, most: int) -> np.ndarray:
        """Seconds that a batch of n requests takes, shape [most + 1, places]; n = 0 takes none.

        BadInput beyond the largest measured batch.
        """
        if not 1 <= most <= self.most:
            raise BadInput(
                f"batches of {most} requests of {self.rows} rows: measured were up to "
                f"{self.batches[-1]} rows; measure batch {most * self.rows}"
            )
        number = np.arange(most + 1)
        made = between(number * self.rows, self.batches, self.service_s)
        made += (number * self.request_s)[:, None]
        made[0] = 0
        return made


def quantiles_at(histogram: Histogram, places: np.ndarray) -> np.ndarray:
    """Its times in seconds at ``places`` in (0, 1), of their shape."""
    values, counts = histogram.values()
    cumulative = np.cumsum(counts) / counts.sum()
    found = np.searchsorted(cumulative, places, side="right")
    return np.asarray(values[np.minimum(found, len(values) - 1)])
