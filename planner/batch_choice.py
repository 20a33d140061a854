"""Dynamic batching as an option of a plan: whether fewer replicas would do, and with what.

Offered only where the plan's variant, size and threads were measured at two batch sizes or
more, the demanded one included, on whole CPUs: the law across batch sizes knows no stalls
of a quota. The law's residual is taken on the unfavourable side, what measured runs were slower
than predicted is added as it is to every plan, and the larger batch has to fit into memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from planner.batch_law import BatchLaw
from planner.batching import batched_sojourns
from planner.candidates import replica_memory_gib
from planner.curve import predictor
from planner.occupancy import quota_of
from planner.records import (
    HOURS_PER_MONTH,
    BatchChoice,
    CpuFactor,
    Demand,
    Interval,
    Plan,
    ServiceProfile,
)
from planner.sizing import UTILISATION_CAP
from serving.errors import BadInput

MOST_TRIES = 6
"""Simulations of a second fraction each, the fewest replicas first."""

MOST_A_CALL = 1024
"""As a deployment allows."""

_WAITS = (0.0, 0.1)
"""Of the limit: none, and as much as leaves nine tenths for the call and the queue."""

_LANES, _WARM_UP, _REQUESTS = 24, 200, 600


class _Option(NamedTuple):
    """What to try: ``replicas`` for up to ``most`` requests a call."""

    replicas: int
    most: int
    wait_ms: float


def choose_batching(
    demand: Demand,
    plan: Plan,
    profiles: Sequence[ServiceProfile],
    factor: CpuFactor,
    usd_per_hour: float | None,
    seed: int,
    *,
    room_gib: float,
) -> BatchChoice | None:
    """The fewest replicas that hold with batching; None when not fewer than the plan's.

    ``profiles`` are those of the plan's variant, size and threads, at any batch; ``room_gib`` is
    the memory that one replica may need, with headroom, where the plan puts it.
    """
    usable = [p for p in profiles if p.batch >= demand.batch]
    if demand.batch not in {p.batch for p in usable} or quota_of(usable[0]) is not None:
        return None
    try:
        law = BatchLaw.of(usable)
    except BadInput:  # a single batch size
        return None
    # Memory of a batch between two measured ones is that of the larger.
    fitting = [p.batch for p in usable if replica_memory_gib(p) <= room_gib]
    times = law.table(min(MOST_A_CALL, max(fitting, default=law.rows) // law.rows))
    # As cautious about what a replica carries as the plan is.
    doubt = max(p.capacity_rps / p.capacity_interval.low for p in usable)
    slow = times * ((1 + law.residual) * doubt / factor.low)
    for tried, option in enumerate(_options(demand, plan, slow)):
        if tried == MOST_TRIES:
            break
        overs = [_shortfall_ms(demand, option, slow, usable, s.quantile, seed) for s in demand.slos]
        uppers = _quantiles_ms(demand, option, slow, law.beyond_s / factor.low, seed)
        uppers = [upper + over / factor.low for upper, over in zip(uppers, overs, strict=True)]
        if any(upper > s.limit_ms for upper, s in zip(uppers, demand.slos, strict=True)):
            continue
        over, upper = overs[0], uppers[0]
        low, mid = (
            _quantiles_ms(demand, option, times * scale, law.beyond_s / factor.mid, seed)[0]
            for scale in ((1 - law.residual) / factor.high, 1 / factor.mid)
        )
        mid += over / factor.mid
        instances = -(-option.replicas // plan.candidate.replicas_per_instance)
        return BatchChoice(
            max_batch=option.most,
            batch_wait_ms=option.wait_ms,
            replicas=option.replicas,
            instances=instances,
            instead_of=plan.replicas,
            latency_ms=Interval(low=min(low, mid), mid=mid, high=max(mid, upper)),
            residual=law.residual,
            measured_batches=tuple(law.batches.tolist()),
            usd_per_month=None
            if usd_per_hour is None
            else instances * usd_per_hour * HOURS_PER_MONTH,
        )
    return None


def _options(demand: Demand, plan: Plan, slow: np.ndarray) -> Iterator[_Option]:
    """The fewest replicas first, then the smallest batches, then the shortest waits."""
    spare = demand.spare_replicas
    fewest: dict[int, int] = {}
    most = 2
    while most < len(slow):
        # A full batch after the other: all that a replica can do.
        each = most / float(slow[most].mean())
        fewest[most] = max(1, math.ceil(demand.rate_rps / (UTILISATION_CAP * each) - 1e-9)) + spare
        most *= 2
    for replicas in range(1 + spare, plan.replicas):
        for most, needed in fewest.items():
            if needed <= replicas:
                for share in _WAITS:
                    yield _Option(replicas, most, share * demand.slo.limit_ms)


def _shortfall_ms(
    demand: Demand,
    option: _Option,
    table: np.ndarray,
    profiles: Sequence[ServiceProfile],
    quantile: float,
    seed: int,
) -> float:
    """By how much runs were slower than predicted, of the batches that a call may have."""
    working = option.replicas - demand.spare_replicas
    busy = demand.rate_rps * float(table[option.most].mean()) / option.most / working
    most = option.most * demand.batch
    return max(predictor(p, seed).shortfall(busy, quantile) for p in profiles if p.batch <= most)


def _quantiles_ms(
    demand: Demand, option: _Option, table: np.ndarray, beyond_s: float, seed: int
) -> list[float]:
    """The quantiles of all objectives with the spare replicas gone, in milliseconds."""
    rng = np.random.default_rng(seed)
    shape = (_WARM_UP + _REQUESTS, _LANES)
    arrivals = np.cumsum(rng.exponential(1 / demand.rate_rps, shape), axis=0)
    times = batched_sojourns(
        arrivals,
        rng.random(shape),
        table[: option.most + 1],
        wait_s=option.wait_ms / 1e3,
        replicas=option.replicas - demand.spare_replicas,
    )
    found = np.quantile(times[_WARM_UP:], [slo.quantile for slo in demand.slos])
    return [1e3 * (value + beyond_s) for value in found.tolist()]
