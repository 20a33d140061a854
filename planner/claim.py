"""Claims: what a confirmation proved of a plan, on what, and when that lapses."""

from __future__ import annotations

from datetime import date
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from loadtests.objective import Slo
from planner.records import Candidate, Interval, Plan, Recommendation
from serving.records import SCHEMA_VERSION, Environment, InstanceType, Record, Variant

VerdictName = Literal["holds", "fails", "undecided"]

LAPSE_AFTER_DAYS = 180
"""Kernels, neighbours and data change without a version saying so."""


class Judged(Record):
    """Requests that were judged together: ``over`` of ``n`` were late, failed ones included.

    ``effective_n`` is how many independent requests would say as much.
    """

    verdict: VerdictName
    n: int = Field(ge=0)
    over: int = Field(ge=0)
    effective_n: float = Field(ge=0)
    measured_ms: float | None = Field(
        description="the objective's quantile over all requests; null when it was not answered"
    )

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> Self:
        if self.over > self.n:
            raise ValueError(f"{self.over} of {self.n} requests cannot be over the limit")
        return self


class Claim(Record):
    """One claim, whole: the sentence, the figures behind it, and what it depends on.

    It is about ``held_replicas`` replicas at ``held_rps``; of a plan with more replicas
    that is the same share of both. ``killed`` is the run in which one of the replicas was
    killed half-way, judged by itself.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    sentence: str
    verdict: VerdictName
    reason: str
    slo: Slo
    batch: int = Field(ge=1)
    rate_rps: float = Field(gt=0, description="of the whole plan")
    held_rps: float = Field(gt=0)
    replicas: int = Field(ge=1, description="of the whole plan")
    held_replicas: int = Field(ge=1)
    spare_replicas: int = Field(ge=0)
    candidate: Candidate
    instance: InstanceType = Field(description="measured size of a replica")
    confidence: float = Field(gt=0.5, lt=1)
    deployments: int = Field(ge=1, description="redeployments, each one sample of that lottery")
    judged: Judged
    each: tuple[Judged, ...] = Field(
        description="every deployment by itself, at a confidence that holds for all of them"
    )
    killed: Judged | None
    more_requests: int | None = Field(description="undecided: about so many more are needed")
    predicted: Interval | None = Field(description="of the same quantile, before measuring")
    model_sha256: str
    config_hash: str
    environment: Environment
    measurement_ids: tuple[str, ...]
    confirmed_on: str = Field(description="ISO date")
    lapses_after_days: int = Field(ge=1)
    differs: tuple[str, ...] = Field(description="from where the plan recommends to run it")

    @model_validator(mode="after")
    def _says_what_it_is(self) -> Self:
        if self.held_replicas > self.replicas:
            raise ValueError("more replicas were held than the plan has")
        if self.sentence != (said := self._in_words()):
            raise ValueError(f"the sentence does not follow from the figures, which say: {said}")
        return self

    @classmethod
    def of(cls, **figures: object) -> Self:
        """A claim whose sentence is made from its figures."""
        draft = cls.model_construct(**figures)  # type: ignore[arg-type] # checked below
        return cls.model_validate({**figures, "sentence": draft._in_words()})

    @property
    def lapses(self) -> tuple[str, ...]:
        """What makes the claim lapse, in words."""
        packages = ", ".join(sorted(self.environment.packages))
        return (
            f"another model file than sha256 {self.model_sha256[:12]}",
            f"other versions of {packages}, or of Python",
            f"another CPU than {self.environment.cpu_model}, or another way to enforce sizes",
            "other settings of Ray Serve",
            f"{self.lapses_after_days} days from {self.confirmed_on}",
        )

    def _in_words(self) -> str:
        size, judged = self.instance.label, self.judged
        of_plan = ""
        if self.held_replicas < self.replicas:
            of_plan = (
                f" ({self.held_replicas} of {self.replicas} replicas at "
                f"{self.held_replicas}/{self.replicas} of {self.rate_rps:,.6g} req/s)"
            )
        killed = ""
        if self.killed is not None:
            k = self.killed
            killed = f"; with a replica killed: {k.verdict}, n = {k.n:,}, {k.over:,} over"
        many = "deployment" if self.deployments == 1 else "deployments"
        return (
            f"p{100 * self.slo.quantile:g} <= {self.slo.limit_ms:g} ms at {self.held_rps:,.6g} "
            f"req/s on {self.held_replicas} x {size} with {self.candidate.variant}{of_plan}: "
            f"{self.verdict} at {100 * self.confidence:g} %, n = {judged.n:,}, {judged.over:,} "
            f"over, {self.deployments} {many}{killed}"
        )


def lapsed(claim: Claim, now: date, environment: Environment, variant: Variant) -> list[str]:
    """Why the claim no longer says anything about ``variant`` here and now; [] while it does."""
    reasons = []
    if variant.sha256 != claim.model_sha256:
        reasons.append(
            f"the model file changed: sha256 {claim.model_sha256[:12]} was confirmed, "
            f"this is {variant.sha256[:12]}"
        )
    was = claim.environment
    versions = {**was.packages, "Python": was.python}
    current = {**environment.packages, "Python": environment.python}
    for name in sorted(versions.keys() | current.keys()):
        before, after = versions.get(name, "absent"), current.get(name, "absent")
        if before != after:
            reasons.append(f"{name} {before} became {after}")
    facts = {
        "CPU": (was.cpu_model, environment.cpu_model),
        "instruction sets": (
            ", ".join(was.instruction_sets),
            ", ".join(environment.instruction_sets),
        ),
        "hyper-threads a core": (str(was.threads_per_core), str(environment.threads_per_core)),
        "enforcement": (was.enforcement, environment.enforcement),
    }
    reasons += [f"{k}: {a} became {b}" for k, (a, b) in facts.items() if a != b]
    for name in sorted(was.settings.keys() | environment.settings.keys()):
        before, after = was.settings.get(name, "unset"), environment.settings.get(name, "unset")
        if before != after:
            reasons.append(f"{name}={before} became {after}")
    age = (now - date.fromisoformat(claim.confirmed_on)).days
    if age > claim.lapses_after_days:
        reasons.append(
            f"confirmed on {claim.confirmed_on}, {age} days ago, and good for "
            f"{claim.lapses_after_days}"
        )
    return reasons


class Held(NamedTuple):
    """The share of a plan that a host truthfully holds: some replicas, as much of the rate."""

    replicas: int
    rate_rps: float


def held_share(plan: Plan, rate_rps: float, most: int) -> Held:
    """At most ``most`` replicas of a plan, at their share k/N of its rate.

    A router with k replicas queues more than one with N at the same utilisation, so the
    share is no easier than the whole.
    """
    replicas = min(plan.replicas, most)
    return Held(replicas, rate_rps * replicas / plan.replicas)


def recommend_instead(recommendation: Recommendation, failed: Plan) -> Plan | None:
    """The next plan that does not rest on what has just failed; None when there is none.

    A claim that fails says that the profile of its variant, size and threads is wrong, so
    every plan made from that profile is as doubtful.
    """
    best = [recommendation.best] if recommendation.best else []
    return next(
        (p for p in (*best, *recommendation.alternatives) if _made_of(p) != _made_of(failed)), None
    )


def _made_of(plan: Plan) -> tuple[str, str, int]:
    return plan.candidate.variant, plan.candidate.size, plan.candidate.threads


class TrackPoint(Record):
    """One prediction against what confirming it measured: the planner's track record.

    ``measured_ms`` is null when so many requests failed that the quantile has no value.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    confirmed_on: str
    workload: str
    variant: str
    instance: str
    threads: int
    batch: int
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

    @classmethod
    def of(cls, claim: Claim, workload: str) -> Self | None:
        """The point that a claim adds; None for one without a prediction, or undecided."""
        predicted, measured = claim.predicted, claim.judged.measured_ms
        if predicted is None or claim.verdict == "undecided":
            return None
        return cls(
            confirmed_on=claim.confirmed_on,
            workload=workload,
            variant=claim.candidate.variant,
            instance=claim.instance.label,
            threads=claim.candidate.threads,
            batch=claim.batch,
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
        )
