"""Record of what it costs replicas to share a core, as it was measured."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from serving.records import Record


class SharedCore(Record):
    """How many times as much CPU time a request takes where ``replicas`` fill a core together.

    Against one such replica by itself that is asked as often; what replicas do unasked is in
    neither. The range holds it with 90 %.
    """

    replicas: int = Field(ge=2)
    low: float = Field(gt=0)
    mid: float = Field(gt=0)
    high: float = Field(gt=0)
    runs: tuple[tuple[str, str], ...] = Field(
        description="ids of the measurements: in company, and the one alone that it is held against"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.mid <= self.high:
            raise ValueError(f"not a range: {self.low} <= {self.mid} <= {self.high}")
        return self
