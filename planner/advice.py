"""Records of autoscaling: what Ray Serve is told, what a burst did under it, what is advised."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from serving.records import SCHEMA_VERSION, Record


class ScalingSettings(Record):
    """Ray Serve's ``autoscaling_config``, as far as its default policy reads it."""

    min_replicas: int = Field(ge=1)
    max_replicas: int = Field(ge=1)
    target_ongoing_requests: float = Field(gt=0)
    look_back_period_s: float = Field(gt=0, default=30.0)
    metrics_interval_s: float = Field(gt=0, default=10.0)
    upscale_delay_s: float = Field(ge=0, default=30.0)
    downscale_delay_s: float = Field(ge=0, default=600.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas = {self.min_replicas} is above max_replicas = {self.max_replicas}"
            )
        return self


class BurstReplay(Record):
    """A rise in load, simulated with the autoscaler acting on it; ``n`` counts refused ones.

    ``over`` were later than the objective's limit or refused. Of several schedules the one
    with the largest share over is kept.
    """

    from_rps: float = Field(ge=0)
    to_rps: float = Field(ge=0)
    rise_s: float = Field(ge=0)
    n: int = Field(ge=1)
    over: int = Field(ge=0)
    refused: int = Field(ge=0)
    quantile_ms: float | None = Field(
        description="the objective's quantile; null when so many were refused that there is none"
    )
    replicas_before: int = Field(ge=1)
    most_replicas: int = Field(ge=1)
    holds: bool
    missed: str = Field(
        default="", description="what else of the demand does not hold, where the objective does"
    )

    @property
    def share_over(self) -> float:
        """Share of all requests that were late or refused."""
        return self.over / self.n


class AutoscalingAdvice(Record):
    """How one plan follows its demand over the day, and what that saves. All predicted."""

    schema_version: Literal[1] = SCHEMA_VERSION
    settings: ScalingSettings
    max_ongoing_requests: int = Field(ge=1)
    max_queued_requests: int = Field(ge=1)
    startup_s: float = Field(ge=0, description="of a replica, as measured")
    machine_start_s: float = Field(ge=0, description="stated: until a new machine is there")
    replicas: tuple[int, ...] = Field(description="in each part of the day, the first at midnight")
    static_replicas: int = Field(ge=1)
    mean_replicas: float = Field(gt=0, description="over the day, with the delay of going down")
    mean_machines: float = Field(gt=0, description="that hold them; the plan's instances")
    usd_per_month: float | None
    static_usd_per_month: float | None
    burst: BurstReplay


class AutoscalingRefusal(Record):
    """Why the number of replicas had better stay what it is."""

    schema_version: Literal[1] = SCHEMA_VERSION
    reason: str
    static_replicas: int = Field(ge=1)
    burst: BurstReplay | None = Field(default=None, description="the best try, if any")
