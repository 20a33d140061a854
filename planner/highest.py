"""The highest rate that something holds, found by bisection over the sizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from planner.candidates import HERE, Placement
from planner.curve import predictor
from planner.records import Demand, Plan
from planner.sizing import Shortage, Sizing
from planner.surface import HIGHEST_UTILISATION

_CLOSE = 1e-3
_RETREATS = (1.0, 0.98, 0.95, 0.9)
"""Of the highest rate: rounded down it may meet another number of replicas, and none hold it."""


def distinct(placements: Iterable[Placement]) -> list[Placement]:
    """One placement of all that are sized alike, whatever they cost."""
    options: dict[tuple[int, float, bool, int], Placement] = {}
    for p in placements:
        held = p.candidate.replicas_per_instance
        # By identity: hashing a profile takes longer than all else here.
        options[id(p.profile), p.factor.low, p.factor is HERE, held] = p
    return list(options.values())


def sizing_of(placement: Placement, demand: Demand, seed: int) -> Sizing:
    """The sizing of one placement against a demand."""
    held = placement.candidate.replicas_per_instance
    return Sizing(predictor(placement.profile, seed), placement.factor, held, demand)


def highest_rate(placements: Sequence[Placement], demand: Demand, seed: int) -> float:
    """The highest rate that one of the placements holds, rounded down; 0 when none does."""
    # Largest bound first, so that most need no search.
    found = 0.0
    for placement in sorted(distinct(placements), key=lambda p: -_bound(p, demand)):
        top = _bound(placement, demand)
        if top <= found:
            break
        found = max(found, _search(placement, demand, found, top, seed))
    if not found:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(found)) - 2)
    return float(f"{math.floor(found / unit + 1e-9) * unit:.6g}")


def highest_plan(
    demand: Demand, rate_rps: float, best_for: Callable[[Demand], Plan | None]
) -> tuple[float, Plan] | None:
    """The best plan at ``rate_rps``, or a little below it where rounding left none there."""
    for share in _RETREATS:
        rate = float(f"{share * rate_rps:.3g}")
        plan = best_for(demand.model_copy(update={"rate_rps": rate}))
        if plan is not None:
            return rate, plan
    return None


def _bound(placement: Placement, demand: Demand) -> float:
    """A rate that the placement cannot exceed, whatever its latency."""
    each = placement.profile.capacity_interval.low * placement.factor.low
    return HIGHEST_UTILISATION * each * _working(placement, demand)


def _working(placement: Placement, demand: Demand) -> int:
    held = placement.candidate.replicas_per_instance
    return max(0, demand.max_replicas // held * held - demand.spare_replicas)


def _search(placement: Placement, demand: Demand, low: float, high: float, seed: int) -> float:
    """The highest rate between ``low`` and ``high`` that holds; 0 when ``low`` does not."""

    def holds(rate: float) -> bool:
        asked = demand.model_copy(update={"rate_rps": rate})
        return not isinstance(sizing_of(placement, asked, seed).smallest, Shortage)

    if low and not holds(low):
        return 0.0
    low = low or _CLOSE * high
    if not holds(low):
        return 0.0
    while high - low > _CLOSE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
