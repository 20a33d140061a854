"""Options: placements that may hold a demand, and how they are ranked by cost."""

from __future__ import annotations

from typing import NamedTuple

from planner.candidates import Placement
from planner.records import HOURS_PER_MONTH, PredictedProfile
from planner.sizing import Sizing

Cost = tuple[float, bool, float, float]
"""Monthly cost (0 without a price), whether it is predicted, vCPUs, memory."""


class Option(NamedTuple):
    """A placement that may hold, and a bound that its rank cannot fall below."""

    placement: Placement
    sizing: Sizing
    bound: Cost


def cost_of(placement: Placement, number: int) -> Cost:
    """Rank ``number`` instances of one kind."""
    instance, price = placement.instance, placement.price
    usd = 0.0 if price is None else number * price.usd_per_hour * HOURS_PER_MONTH
    predicted = isinstance(placement.profile, PredictedProfile)
    return usd, predicted, number * instance.vcpus, number * instance.memory_gib


def names_of(placement: Placement) -> tuple[str, str, int, str, int]:
    """What tells candidates apart, to order those of equal rank."""
    c = placement.candidate
    return c.variant, c.size, c.threads, c.instance, c.max_batch
