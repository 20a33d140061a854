"""The planner's track record: what it predicted, against what confirming it measured."""

from __future__ import annotations

import statistics
from typing import Literal, Self

from pydantic import Field, field_validator

from loadtests.arrivals import MaybeMix
from planner.claim import Claim, VerdictName
from planner.records import Interval
from serving.records import SCHEMA_VERSION, Length, Record


class TrackPoint(Record):
    """One prediction against what confirming it measured.

    ``measured_ms`` is null when so many requests failed that the quantile has no value.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    confirmed_on: str
    workload: str
    variant: str
    instance: str
    threads: int
    batch: int
    mix: MaybeMix = None
    length: Length = None
    replicas: int
    rate_rps: float
    quantile: float
    limit_ms: float
    predicted: Interval
    measured_ms: float | None
    inside: bool = Field(description="whether the measured figure lies in the interval")
    error: float | None = Field(description="predicted middle over measured, minus one")
    verdict: VerdictName
    model_sha256: str
    environment: str
    attempt: int = Field(default=0, ge=0, description="attempts before, whose runs were discarded")

    @classmethod
    def of(cls, claim: Claim, workload: str) -> Self | None:
        """The point that a claim adds; None for one without a prediction.

        Undecided ones count: they are the predictions near the limit, and the quantile was
        measured.
        """
        predicted, measured = claim.predicted, claim.judged.measured_ms
        if predicted is None:
            return None
        return cls(
            confirmed_on=claim.confirmed_on.isoformat(),
            workload=workload,
            variant=claim.candidate.variant,
            instance=claim.instance.label,
            threads=claim.candidate.threads,
            batch=claim.batch,
            mix=claim.mix,
            length=claim.length,
            replicas=claim.held_replicas,
            rate_rps=claim.held_rps,
            quantile=claim.slo.quantile,
            limit_ms=claim.slo.limit_ms,
            predicted=predicted,
            measured_ms=measured,
            inside=measured is not None and predicted.low <= measured <= predicted.high,
            error=None if measured is None else predicted.mid / measured - 1,
            verdict=claim.verdict,
            model_sha256=claim.model_sha256,
            environment=claim.environment.content_hash(),
            attempt=claim.discarded,
        )

    @property
    def proven(self) -> str:
        """What was to be proven, apart from what came out."""
        came_out = {"confirmed_on", "measured_ms", "inside", "error", "verdict"}
        return self.model_dump_json(exclude=came_out)


class TrackRecord(Record):
    """All points together. A quantile that has no value, for failed requests, is a miss."""

    points: tuple[TrackPoint, ...]

    @field_validator("points")
    @classmethod
    def _once(cls, points: tuple[TrackPoint, ...]) -> tuple[TrackPoint, ...]:
        """Of a confirmation that was undecided and went on, the last state alone."""
        last = {point.proven: number for number, point in enumerate(points)}
        return tuple(
            point
            for number, point in enumerate(points)
            if point.verdict != "undecided" or last[point.proven] == number
        )

    @property
    def median_absolute_error(self) -> float | None:
        """Of the middle of the prediction, relative; None while nothing was measured."""
        errors = [abs(p.error) for p in self.points if p.error is not None]
        return statistics.median(errors) if errors else None

    @property
    def share_inside(self) -> float | None:
        """Share of the points whose interval held what was measured."""
        return sum(p.inside for p in self.points) / len(self.points) if self.points else None

    @property
    def misses(self) -> tuple[TrackPoint, ...]:
        """Every point outside of its interval."""
        return tuple(p for p in self.points if not p.inside)

    def lacks(self, point: TrackPoint) -> bool:
        """Whether ``point`` adds something: the same runs judged again do not."""
        return point not in self.points
