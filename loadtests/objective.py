"""A latency objective, and what is known of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field

from serving.records import Record

ANY_TIME_MS = 1e9
"""A limit that every answer meets, and a request without a good one does not."""

CONFIDENCE = 0.99
"""Of a verdict, unless another is asked for."""


class Slo(Record):
    """A latency objective: the ``quantile`` of due-to-done is at most ``limit_ms``."""

    quantile: float = Field(gt=0, lt=1, default=0.99)
    limit_ms: float = Field(gt=0)

    @classmethod
    def answered(cls, error_budget: float) -> Self:
        """That at most the share ``error_budget`` has no good answer, however late."""
        return cls(quantile=1 - error_budget, limit_ms=ANY_TIME_MS)

    def __str__(self) -> str:
        if self.limit_ms >= ANY_TIME_MS:
            return f"at most {100 * (1 - self.quantile):.6g} % fail"
        return f"p{100 * self.quantile:g} <= {self.limit_ms:g} ms"


class Verdict(StrEnum):
    """What is known of an objective."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


class SloVerdict(Record):
    """A verdict with the figures behind it.

    ``share_over`` and ``quantile_ms`` are what was judged: those of this run, or, replayed,
    what is expected over all schedules. A quantile is null where it is a failed request's.
    """

    slo: Slo
    verdict: Verdict
    reason: str
    n: int = Field(ge=0)
    over: int = Field(ge=0, description="requests beyond the limit, failed ones included")
    share_over: float = Field(ge=0, le=1)
    quantile_ms: float | None = Field(ge=0)
    quantile_error: float | None = Field(ge=0, description="standard error, relative")
    effective_n: float = Field(ge=0, description="independent requests that would say as much")
    replayed: bool
    backlog_growing: bool
    confidence: float = Field(gt=0.5, lt=1)
    samples_missing: int | None = Field(
        default=None,
        ge=1,
        description="undecided: more requests to expect; null: too near the limit for any, "
        "or not steady",
    )
