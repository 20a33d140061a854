"""Records of the planner: what is demanded, what it costs, what is recommended."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from loadtests.arrivals import MaybeMix, Mix
from loadtests.histogram import Histogram
from loadtests.objective import Slo
from planner.advice import AutoscalingAdvice, AutoscalingRefusal
from planner.constraint import Change
from planner.daily import Daily
from planner.reach import CpuReach
from planner.shared_core import SharedCore
from serving.records import SCHEMA_VERSION, InstanceType, Length, Quality, Record, Variant

HOURS_PER_MONTH = 730.0

MOST_REPLICAS = 10_000


class Interval(Record):
    """A predicted figure with the range it may be in; ``low == high`` is a measured one."""

    low: float
    mid: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.mid <= self.high:
            raise ValueError(f"not an interval: {self.low} <= {self.mid} <= {self.high}")
        return self


class Demand(Record):
    """One profile of use: how many requests of how many rows, how fast they must be.

    ``slo`` is the principal objective, ``more_slos`` have to hold as well, each at another
    quantile. A request without a good answer is late for each of them, so that the share
    1 - quantile may fail already. An ``error_budget`` allows fewer to: it is about requests
    that get no good answer at all, however fast. A plan refuses nothing at a constant rate,
    so what it bounds there is what bounded queues refuse while replicas are added, see
    :mod:`planner.autoscaling`; in a confirmation, the share of answers other than a good one.
    """

    name: str
    title: str
    batch: int = Field(ge=1, description="of a mix the largest")
    batch_range: tuple[int, int] = Field(description="the profile's batch sizes, for the reader")
    length: Length = None
    mix: Mix | None = Field(default=None, description="null: every request has 'batch' rows")
    rate_rps: float = Field(gt=0)
    slo: Slo
    more_slos: tuple[Slo, ...] = ()
    max_replicas: int = Field(ge=1, le=MOST_REPLICAS, default=16)
    spare_replicas: int = Field(ge=0, le=16, default=0, description="1 is N+1")
    in_process_limit_ms: float | None = Field(
        default=None, description="a limit on the bare model call, shown apart (seed: < 1 ms)"
    )
    daily: Daily | None = Field(default=None, description="its course over a day, if stated")
    error_budget: float | None = Field(
        gt=0,
        lt=1,
        default=None,
        description="share of requests that may be refused or fail; null: as many as may be late",
    )
    min_quality: dict[str, float] = Field(
        default={}, description="by measure of Quality: what a variant has to have on the test set"
    )
    max_replica_memory_gib: float | None = Field(
        gt=0, default=None, description="that one replica may need, headroom included"
    )
    region: str | None = Field(default=None, description="whose prices count; null: all prices")

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        quantiles = [slo.quantile for slo in self.slos]
        if len(set(quantiles)) < len(quantiles):
            raise ValueError("two objectives on one quantile; keep one")
        if self.mix is not None:
            batches = self.mix.batches
            if len(set(batches)) < len(batches) or self.mix.inputs is not None:
                raise ValueError("a mix names each batch size once, and no inputs")
            if self.batch != max(batches):
                raise ValueError(
                    f"batch = {self.batch} is not the largest of the mix, {max(batches)}; "
                    "leave batch out"
                )
        for measure in self.min_quality:
            if measure not in Quality.measures():
                raise ValueError(
                    f"min_quality: unknown measure '{measure}'; "
                    f"known are {', '.join(Quality.measures())}"
                )
        return self

    @property
    def slos(self) -> tuple[Slo, ...]:
        """All latency objectives, the principal one first."""
        return (self.slo, *self.more_slos)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that have to be measured."""
        return (self.batch,) if self.mix is None else self.mix.batches

    @property
    def request(self) -> tuple[int, int | None]:
        """Rows of a request, and how long they are."""
        return self.batch, self.length

    @property
    def mean_batch(self) -> float:
        """Rows of a request on average."""
        return float(self.batch) if self.mix is None else self.mix.mean_batch

    @property
    def objectives(self) -> tuple[Slo, ...]:
        """All that a confirmation judges: the latency objectives, then the error budget."""
        budget = self.error_budget
        return self.slos if budget is None else (*self.slos, Slo.answered(budget))


class CpuFactor(Record):
    """Speed of one vCPU of ``target_family`` relative to one vCPU of this host.

    Without one, no price attaches to a figure measured here.
    """

    target_family: str
    low: float = Field(gt=0)
    mid: float = Field(gt=0)
    high: float = Field(gt=0)
    basis: str = Field(description="measured, same family, or assumed; and why")


class ServiceProfile(Record):
    """What one deployment size does with one batch size of rows of one length, as measured.

    ``service`` is the in-replica time of paced requests, and of others that took as long;
    ``overhead_ms`` is what the round trip adds to it. ``capacity_rps`` is what one replica
    carries of traffic that arrives at random, ``saturated_rps`` the best valid closed-loop
    rung. ``beyond`` is by how much paced round trips, from due to done, are longer than their
    service. None and 0 where a record is older than the figure.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    variant: Variant
    instance: InstanceType
    threads: int
    batch: int
    length: Length = None
    service: Histogram
    overhead_ms: float
    cpu_ms: float = Field(description="replica CPU-milliseconds per request, at load")
    capacity_rps: float
    capacity_interval: Interval
    ingress_cpu_ms: float
    peak_memory_bytes: int
    startup_s: float | None
    measured_points: tuple[MeasuredPoint, ...] = ()
    measurement_ids: tuple[str, ...]
    saturated_rps: float | None = None
    first_cpu_ms: float | None = Field(
        default=None, description="replica CPU-milliseconds of a paced request, background apart"
    )
    idle_cores: float = Field(default=0.0, description="CPUs that a replica nobody asks uses")
    beyond: Histogram | None = None
    platform: tuple[MeasuredPoint, ...] = Field(
        default=(),
        exclude_if=lambda points: not points,
        description="ms that no-ops of the batch size waited beyond paced ones, by rate in all",
    )
    sharing: SharedCore | None = Field(
        default=None,
        exclude_if=lambda found: found is None,
        description="null: what sharing a core costs was not measured",
    )

    @property
    def saturated(self) -> float:
        """Requests per second of a replica that always has some waiting."""
        return self.saturated_rps or self.capacity_rps


class PredictedProfile(ServiceProfile):
    """The profile of a size, batch size or length never measured, by a law from those that were.

    ``nearest`` is the measured profile next to it, ``service_scale`` by how much
    a service time is longer than there; its low end goes with the capacity's high end. See
    :mod:`planner.scaling` and :mod:`planner.request_sizes`.
    """

    nearest: ServiceProfile
    service_scale: Interval
    unmeasured: Literal["size", "batch size", "length"]
    measured_at: tuple[str, ...] = Field(description="the sizes, batch sizes or lengths that were")
    left_out_error: float | None = Field(
        ge=0,
        description="worst relative error when one measured is left out; null: nothing tests it",
    )


class MeasuredPoint(Record):
    """One valid open-loop run: offered rate against the latency it gave."""

    rate_rps: float
    utilisation: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    n: int


class CurvePoint(Record):
    """Predicted latency of ``replicas`` replicas at one rate."""

    rate_rps: float
    utilisation: float
    p50_ms: Interval
    p95_ms: Interval
    p99_ms: Interval


class Curve(Record):
    """Predicted latency against rate, and the range that was measured."""

    variant: str
    instance: str
    threads: int
    batch: int
    mix: MaybeMix = None
    length: Length = None
    replicas: int
    points: tuple[CurvePoint, ...]
    measured_from_rps: float
    measured_to_rps: float


class Bottleneck(StrEnum):
    """What a rejected candidate fails on."""

    QUALITY = "quality"
    UNMEASURED = "unmeasured"
    INVALID = "invalid"
    MEMORY = "memory"
    CAPACITY = "capacity"
    LATENCY = "latency"
    COST = "cost"


class Candidate(Record):
    """One configuration that might serve a demand.

    ``size`` is the measured replica size; ``instance`` what is bought. For the host's
    own sizes both are the same; on a cloud shape several replicas share an instance. With
    ``max_batch`` above 1 a free replica answers all that waits for it, up to so many requests,
    in one call.
    """

    variant: str
    size: str
    threads: int
    instance: str
    replicas_per_instance: int = Field(ge=1)
    max_batch: int = Field(ge=1, default=1, description="requests that one call may answer")


class Plan(Record):
    """A candidate that holds, sized. All totals are over all instances."""

    candidate: Candidate
    replicas: int
    instances: int
    vcpus: float
    memory_gib: float
    replica_memory_gib: float = Field(description="measured peak plus headroom, per replica")
    model_file: str
    p50_ms: Interval
    p99_ms: Interval
    capacity_rps: float = Field(description="at the utilisation cap, all replicas, lower bound")
    rows_per_s: float = Field(description="demanded rate times batch")
    utilisation: float
    latency_basis: Literal["measured", "predicted"]
    usd_per_month: float | None
    usd_per_million: float | None = Field(description="per million rows predicted, at the rate")
    price_basis: str
    margin: str = Field(description="how far the SLO is from the interval's upper bound")
    staffing: str = Field(
        default="", description="of very many replicas: the law that stands in for a simulation"
    )
    predicted_size: str = Field(
        default="", description="of a size never measured: from which it is predicted, how well"
    )
    predicted_batch: str = Field(
        default="", description="of a batch size never measured there: the same"
    )
    predicted_length: str = Field(
        default="",
        exclude_if=lambda said: not said,
        description="of a length never measured there: the same",
    )
    quality_loss: float | None = Field(
        default=None, description="against the baseline, as a fraction of one"
    )
    ingress: str = Field(default="", description="CPU that the ingress needs, and where it is")
    kept: str = Field(
        default="", description="of each bought instance for the kubelet, and by whose figure"
    )
    pareto: bool = Field(
        default=False, description="no other plan listed is at least as good in every respect"
    )

    @property
    def predicted(self) -> Literal["", "size", "batch size", "length"]:
        """What of it was never measured, in words; "" where the replica was measured as it is."""
        if self.predicted_size:
            return "size"
        if self.predicted_batch:
            return "batch size"
        return "length" if self.predicted_length else ""

    def unmeasured_on(self, size: str, demand: Demand) -> str:
        """The replica of it that was never measured, on ``size``: "batch 8 on sim-1"."""
        if self.predicted_batch:
            return f"batch {demand.batch:,} on {size}"
        return f"{demand.length:,} tokens on {size}" if self.predicted_length else size


class Rejection(Record):
    """A candidate that does not hold or is not the cheapest way, and why."""

    candidate: Candidate
    bottleneck: Bottleneck
    reason: str


class Probe(Record):
    """A cell worth measuring next: what it may change, and how it is measured."""

    variant: str
    size: str
    threads: int
    batch: int
    seconds: float = Field(gt=0)
    saving_usd_per_month: float | None = Field(
        description="expected; None where any plan at all would be news"
    )
    why: str
    command: str


class BatchChoice(Record):
    """Dynamic batching of the best plan, and what the cheapest one without it needs. Predicted."""

    max_batch: int = Field(ge=2, description="requests that one call may answer")
    batch_wait_ms: float = Field(ge=0)
    replicas: int = Field(ge=1)
    instances: int = Field(ge=1)
    instead_of: int | None = Field(
        ge=1, description="replicas of the cheapest plan without batching; null: none holds"
    )
    latency_ms: Interval = Field(description="the demanded quantile, spare replicas gone")
    residual: float = Field(ge=0, description="of the law across batch sizes, a share")
    measured_batches: tuple[int, ...]
    usd_per_month: float | None


class Nearest(Change):
    """A demand near one that nothing holds: what is changed of it, and the ``plan`` that holds it.

    ``besides`` is a second figure that has to give way with the first, where none is enough alone.
    """

    plan: Plan
    besides: Change | None = Field(default=None, exclude_if=lambda change: change is None)


class Recommendation(Record):
    """The answer for one demand: the cheapest plan, the others, and every rejection."""

    schema_version: Literal[1] = SCHEMA_VERSION
    demand: Demand
    best: Plan | None
    alternatives: tuple[Plan, ...]
    rejections: tuple[Rejection, ...]
    note: str = ""
    probes: tuple[Probe, ...] = Field(default=(), description="what to measure next, best first")
    autoscaling: AutoscalingAdvice | AutoscalingRefusal | None = Field(
        default=None, description="of the best plan; null where the demand has no course"
    )
    cpu_reaches: tuple[CpuReach, ...] = Field(
        default=(), description="how far CPUs reach, for the GPU verdict"
    )
    batching: BatchChoice | None = Field(
        default=None, description="of the best plan; null where it answers one request a call"
    )
    nearest: tuple[Nearest, ...] | None = Field(
        default=None,
        description="where nothing holds: what would, one figure changed or else two; null: not "
        "searched",
    )

    @property
    def pareto(self) -> tuple[Plan, ...]:
        """The plans that no other one dominates, in the planner's order."""
        best = (self.best,) if self.best else ()
        return tuple(plan for plan in (*best, *self.alternatives) if plan.pareto)


ServiceProfile.model_rebuild()
PredictedProfile.model_rebuild()
