"""What of a demand may bind, and by how much it would have to give way."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from serving.records import Record


class Constraint(StrEnum):
    """A figure of a demand that may be what nothing holds."""

    RATE = "rate"
    LIMIT = "limit"
    REPLICAS = "replicas"
    QUALITY = "quality"
    MEMORY = "memory"


class Change(Record):
    """One figure of a demand, as it was asked and as it would work.

    Both are in the demand's unit: requests per second, ms, replicas, a fraction of one, GiB.
    """

    constraint: Constraint
    of: str = Field(default="", description="of a limit its quantile, of quality its measure")
    asked: float
    works: float
