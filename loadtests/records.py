"""Records of the load room. ``Measurement`` is the waist of Tonnage.

Left of a Measurement, code touches processes, clocks and networks; right of it
everything is pure and works from a file of these.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from loadtests.arrivals import Arrivals, Constant, Mix, Poisson, Recorded
from loadtests.histogram import Histogram
from loadtests.objective import SloVerdict
from loadtests.quantiles import QuantileInterval
from loadtests.steady import Steady
from serving.records import SCHEMA_VERSION, Deployment, Environment, Grant, Length, Record

Mode = Literal["paced", "closed", "open"]

ROUND_TRIP = "round trip"
"""How a server that is not ours infers: nobody knows, and round trips stand in."""


class LoadRun(Record):
    """What traffic was asked for.

    paced: one request at a time, evenly spaced at ``rate_rps`` (no queue can form).
    closed: ``users`` clients, each sending its next request when the last is answered.
    open: requests fall due on a seeded schedule, whatever the server does.
    """

    mode: Mode
    batch: int = Field(ge=1, description="rows in a request")
    length: Length = None
    duration_s: float = Field(gt=0)
    seed: int = 0
    workers: int = Field(ge=1, default=1)
    users: int | None = Field(default=None, ge=1)
    rate_rps: float | None = Field(
        default=None, gt=0, description="of other arrivals than Poisson's: their mean"
    )
    arrivals: Arrivals | None = Field(default=None, description="open; null: Poisson at rate_rps")
    mix: Mix | None = Field(default=None, description="null: every request has 'batch' rows")
    timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _one_way_to_say_how_much(self) -> Self:
        if (self.mode == "closed") == (self.users is None):
            raise ValueError("'users' belongs to closed-loop runs, and only to them")
        if (self.mode == "closed") == (self.rate_rps is not None):
            raise ValueError("'rate_rps' belongs to paced and open runs, and only to them")
        if self.arrivals is not None and self.mode != "open":
            raise ValueError("'arrivals' belong to open runs, and only to them")
        return self

    @property
    def mean_batch(self) -> float:
        """Rows of a request on average."""
        if isinstance(self.arrivals, Recorded) and self.arrivals.mean_batch is not None:
            return self.arrivals.mean_batch
        return self.mix.mean_batch if self.mix else float(self.batch)

    @property
    def poisson(self) -> bool:
        """Whether requests fall due as a Poisson process of constant rate."""
        return self.mode == "open" and (self.arrivals is None or isinstance(self.arrivals, Poisson))

    @property
    def stationary(self) -> bool:
        """Whether the traffic is the same from beginning to end, but for chance."""
        return self.arrivals is None or isinstance(self.arrivals, Constant | Poisson)


class FaultCode(StrEnum):
    """Why a measurement must not be believed. A closed list."""

    GENERATOR_AT_LIMIT = "generator_at_limit"
    DISPATCH_LAG = "dispatch_lag"
    WORKER_LOST = "worker_lost"
    RATE_NOT_MET = "rate_not_met"
    BACKLOG_GROWING = "backlog_growing"
    STALLED = "stalled"
    OVER_GRANT = "over_grant"
    THROTTLED = "throttled"
    CORES_SHARED = "cores_shared"
    NOISY_HOST = "noisy_host"
    DRIFT = "drift"
    CLOCK = "clock"
    TOO_FEW_SAMPLES = "too_few_samples"
    REPLICA_CHANGED = "replica_changed"
    WRONG_CELL = "wrong_cell"
    FALLBACK_PROXY = "fallback_proxy"
    WRONG_ANSWERS = "wrong_answers"
    ERRORS = "errors"
    NOT_ENFORCED = "not_enforced"


OVERLOAD = frozenset({FaultCode.BACKLOG_GROWING, FaultCode.RATE_NOT_MET})
"""The server fell behind: an answer, not a bad measurement. Its latencies are lower bounds."""

HOST_NOISE = frozenset({FaultCode.CORES_SHARED, FaultCode.NOISY_HOST, FaultCode.DISPATCH_LAG})
"""Somebody else was busy just then: the next try may be a good one."""


class LadderEnd(StrEnum):
    """Why a closed-loop ladder got no more users. A closed list."""

    GAIN_SMALL = "gain_small"  # the last doubling brought less than 5 %, for certain
    THROUGHPUT_FELL = "throughput_fell"  # it even cost some, for certain
    NO_ANSWERS = "no_answers"  # the server answered fewer users, and these not at all
    MOST_USERS = "most_users"  # as many as are tried: more might have brought more
    TIMEOUT = "timeout"  # twice as many would wait for longer than a request may take


class Fault(Record):
    """One reason against a measurement, with the figures behind it."""

    code: FaultCode
    detail: str


class CpuUse(Record):
    """CPU-seconds spent during the run, by whom."""

    replica_s: float = Field(ge=0)
    ingress_s: float = Field(ge=0)
    generator_s: float = Field(ge=0)
    others_on_replica_cores: float | None = Field(
        default=None, description="fraction of the replica's cores (its container) others used"
    )
    platform_busy: float | None = Field(
        default=None, description="fraction of generator's and ingress' cores that was used"
    )
    others_on_platform_cores: float | None = Field(
        default=None, description="fraction of generator's and ingress' cores that strangers used"
    )
    steal: float | None = Field(
        default=None, description="fraction the hypervisor took of those CPUs"
    )
    load_average: float | None = Field(default=None, description="of the host, over one minute")


class Throttling(Record):
    """CFS bandwidth control during the run (zero where there is no quota)."""

    periods: int = Field(ge=0)
    throttled_periods: int = Field(ge=0)
    throttled_s: float = Field(ge=0)


class Measurement(Record):
    """One load run against one deployment, with everything needed to judge it later.

    ``due_to_done`` is the latency a user would have seen: from when the request was
    due, not from when the generator got round to sending it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str
    role: Literal["cell", "sharing", "reference", "floor", "ceiling"] = "cell"
    sequence: int = Field(ge=0, description="place in the study's order; drift shows along it")
    started_at: str
    deployment: Deployment
    grant: Grant
    inference: str = Field(
        description="inline or thread, as the replica reported; 'round trip' where 'service' is "
        "the whole round trip of a server that does not report"
    )
    run: LoadRun
    elapsed_s: float = Field(gt=0)
    offered: int = Field(ge=0)
    ok: int = Field(ge=0)
    errors: dict[str, int] = Field(default_factory=dict)
    unsent: int = Field(ge=0, default=0, description="due, but not sent within their timeout")
    checked: int = Field(ge=0, default=0, description="answers compared with the expected one")
    wrong: int = Field(ge=0, default=0)
    lost: int = Field(ge=0, default=0, description="due, and their load worker was lost")
    steady: Steady | None = Field(
        default=None, description="the histograms begin where this says; counts do not"
    )
    due_to_done: Histogram
    sent_to_done: Histogram
    dispatch_lag: Histogram
    read_lag_p99_s: float | None = Field(
        default=None,
        description="how long answers waited until the generator read them, which is no latency; "
        "null where the kernel did not tell, and latencies contain it",
    )
    queue: Histogram
    service: Histogram
    quantiles: tuple[QuantileInterval, ...] = Field(
        default=(), description="with their intervals; empty in records before it"
    )
    cpu: CpuUse
    throttling: Throttling
    peak_memory_bytes: int = Field(ge=0)
    idle_cores: float | None = Field(
        default=None, ge=0, description="CPUs that the replica used before, while nobody asked it"
    )
    startup_s: float | None = None
    worker_start_s: float | None = Field(
        default=None, description="of it, process start to the model's turn: Ray, imports"
    )
    model_load_s: float | None = Field(default=None, description="of it, loading and warm-up")
    environment: str = Field(description="hash of the Environment it was made in")
    broken_laws: tuple[str, ...] = Field(
        default=(), description="closed loop: operational laws that the figures break"
    )
    ladder_end: LadderEnd | None = Field(
        default=None, description="last rung of a ladder: why; null in records before it"
    )
    verdicts: tuple[SloVerdict, ...] = Field(
        default=(), description="open loop: what this run says of the objectives asked for"
    )
    carried_rps: float | None = Field(
        default=None,
        description="by generator and ingress at this batch, where no-ops told and this run was "
        "held against it; null in records before it",
    )
    floor_p99_s: float | None = Field(
        default=None, description="of a no-op at this rate, where it was measured and is near"
    )
    faults: tuple[Fault, ...] = ()

    @property
    def valid(self) -> bool:
        """A measurement is valid when nothing speaks against it."""
        return not self.faults

    @property
    def tells_service(self) -> bool:
        """Whether ``service`` is the replica's own report, not the round trip in its place."""
        return self.inference != ROUND_TRIP

    @property
    def completed_rps(self) -> float:
        """Correctly answered requests per second."""
        return self.ok / self.elapsed_s

    @property
    def rows_per_s(self) -> float:
        """Rows answered per second: completed requests times their mean batch."""
        return self.completed_rps * self.run.mean_batch

    @property
    def offered_rps(self) -> float:
        """Requests that fell due (open, paced) or were sent (closed), per second."""
        return self.offered / self.elapsed_s

    @property
    def replica_cpu_ms(self) -> float:
        """CPU-milliseconds of all replicas per answered request; nan without answers."""
        return 1e3 * self.cpu.replica_s / self.ok if self.ok else float("nan")

    @property
    def utilisation(self) -> float:
        """Used share of the CPU granted to all replicas."""
        granted = self.grant.vcpus * self.deployment.replicas
        return self.cpu.replica_s / self.elapsed_s / granted

    @property
    def key(self) -> tuple[str, str, int, int]:
        """(variant, instance label, threads, batch): what is being measured.

        At one ``run.length``: whoever compares keys compares that as well.
        """
        d = self.deployment
        return (d.variant.name, d.instance.label, d.threads, self.run.batch)


class EndpointMeasurement(Record):
    """One load run against a server that Tonnage does not manage.

    All that the generator sees, and nothing of what happens inside the server.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    url: str
    model_name: str
    run: LoadRun
    started_at: str
    elapsed_s: float = Field(gt=0)
    offered: int = Field(ge=0)
    ok: int = Field(ge=0)
    errors: dict[str, int] = Field(default_factory=dict)
    unsent: int = Field(ge=0, default=0)
    lost: int = Field(ge=0, default=0, description="due, and their load worker was lost")
    checked: int = Field(ge=0, default=0, description="answers read as V2, with the outputs named")
    wrong: int = Field(ge=0, default=0, description="of them, those that are none")
    steady: Steady
    due_to_done: Histogram
    sent_to_done: Histogram
    dispatch_lag: Histogram
    read_lag_p99_s: float | None = Field(
        default=None,
        description="how long answers waited until the generator read them, which is no latency; "
        "null where the kernel did not tell, and latencies contain it",
    )
    quantiles: tuple[QuantileInterval, ...] = Field(
        default=(), description="with their intervals; empty in records before it"
    )
    generator_cpu_s: float = Field(ge=0)
    environment: Environment | None = Field(
        default=None, description="the generator's, not the server's; null in records before it"
    )
    verdicts: tuple[SloVerdict, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def valid(self) -> bool:
        """Valid when nothing speaks against it."""
        return not self.faults

    @property
    def completed_rps(self) -> float:
        """Answered requests per second."""
        return self.ok / self.elapsed_s
