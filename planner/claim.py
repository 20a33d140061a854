"""Claims: what a confirmation proved of a plan, on what, and when that lapses."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from loadtests.arrivals import MaybeMix, alike
from loadtests.objective import Slo
from planner.records import Candidate, Demand, Interval, Plan
from serving.records import SCHEMA_VERSION, Environment, InstanceType, Length, Record, Variant

VerdictName = Literal["holds", "fails", "undecided"]

LAPSE_AFTER_DAYS = 180
"""Kernels, neighbours and data change without a version saying so."""


class Judged(Record):
    """Requests that were judged together: ``over`` of ``n`` were late, failed ones included.

    ``effective_n`` is how many independent requests would say as much, ``share_over`` the
    share in these runs, which is what was judged.
    """

    verdict: VerdictName
    n: int = Field(ge=0)
    over: int = Field(ge=0)
    effective_n: float = Field(ge=0)
    share_over: float = Field(ge=0, le=1)
    measured_ms: float | None = Field(
        description="the objective's quantile over all requests; null when it was not answered"
    )

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> Self:
        if self.over > self.n:
            raise ValueError(f"{self.over} of {self.n} requests cannot be over the limit")
        return self


class Beside(Record):
    """What was judged beside the principal objective, by the same requests.

    Another quantile, or the error budget, of which those without a good answer are ``over``.
    """

    slo: Slo
    judged: Judged
    failed_alone: int = Field(
        default=0, ge=0, description="deployments that fail it by themselves; 0 after a loss"
    )


class Claim(Record):
    """One claim, whole: the sentence, the figures behind it, and what it depends on.

    It is about ``held_replicas`` replicas at ``held_rps``; of a plan with more replicas
    that is the same share of both. ``killed`` is the run in which one of the replicas was
    killed half-way, judged by itself and from the kill on, ``killed_beside`` by the other
    objectives; ``not_killed`` why there was none. The verdict is on all objectives together.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    profile: str = Field(description="the profile of use that the plan is for")
    model_name: str = Field(description="as it was served")
    sentence: str
    verdict: VerdictName
    reason: str
    slo: Slo
    batch: int = Field(ge=1, description="of a mix the largest")
    mix: MaybeMix = None
    length: Length = None
    rate_rps: float = Field(gt=0, description="of the whole plan")
    held_rps: float = Field(gt=0)
    replicas: int = Field(ge=1, description="of the whole plan")
    held_replicas: int = Field(ge=1)
    spare_replicas: int = Field(ge=0)
    candidate: Candidate
    instance: InstanceType = Field(description="measured size of a replica")
    confidence: float = Field(gt=0.5, lt=1, description="of the verdict, all looks together")
    looks: int = Field(ge=0, description="how often it was judged while it went on; 0: once")
    deployments: int = Field(ge=1, description="redeployments, each one sample of that lottery")
    discarded: int = Field(
        default=0,
        ge=0,
        description="attempts before, whose runs were thrown away; looks has theirs",
    )
    judged: Judged
    each: tuple[Judged, ...] = Field(
        description="every deployment by itself, at a confidence that holds for all of them"
    )
    beside: tuple[Beside, ...] = ()
    killed: Judged | None
    killed_beside: tuple[Beside, ...] = ()
    losses: int = Field(default=1, ge=0, description="runs in which a replica was killed")
    killed_rps: float | None = Field(description="rate of the run in which a replica was killed")
    not_killed: str = ""
    more_requests: int | None = Field(description="undecided: about so many more are needed")
    more_lost_requests: int | None = Field(
        default=None, description="the same of requests behind the loss of a replica"
    )
    predicted: Interval | None = Field(description="of the same quantile, before measuring")
    floor_p99_ms: float | None = Field(
        default=None,
        exclude_if=lambda found: found is None,
        description="of a no-op at that rate, where the runs' p99 is near it",
    )
    model_sha256: str
    config_hash: str
    environment: Environment
    measurement_ids: tuple[str, ...]
    confirmed_on: date
    lapses_after_days: int = Field(ge=1)
    differs: tuple[str, ...] = Field(description="from where the plan recommends to run it")
    instead: str = Field(default="", description="of one that fails: what is recommended now")

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
    def objectives(self) -> tuple[Slo, ...]:
        """The principal objective, and those that were judged beside it."""
        return self.slo, *(one.slo for one in self.beside)

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
        c, of_plan = self.candidate, ""
        shared = f", up to {c.max_batch:,} requests a call" if c.max_batch > 1 else ""
        if self.held_replicas < self.replicas:
            of_plan = (
                f" ({self.held_replicas} of {self.replicas} replicas at "
                f"{self.held_replicas}/{self.replicas} of {self.rate_rps:,.6g} req/s)"
            )
        rows = f" of {self.mix}" if self.mix is not None else ""
        rows += f" of {self.length:,} tokens" if self.length is not None else ""
        return (
            f"{self.slo} at {self.held_rps:,.6g} "
            f"req/s{rows} on {self.held_replicas} x {size} with {c.variant}{shared}{of_plan}: "
            f"{self.verdict} at {100 * self.confidence:g} %, n = {judged.n:,}, {judged.over:,} "
            f"over, {deployments_in_words(self.deployments)}{self._discarded_in_words()}"
            f"{beside_in_words(self.beside)}{self._loss_in_words()}"
        )

    def _discarded_in_words(self) -> str:
        attempts = "attempt" if self.discarded == 1 else "attempts"
        return f" after {self.discarded} discarded {attempts}" if self.discarded else ""

    def _loss_in_words(self) -> str:
        if self.killed is None:
            return f"; no replica was killed: {self.not_killed}" if self.not_killed else ""
        k, at = self.killed, ""
        if self.killed_rps is not None and self.killed_rps < self.held_rps:
            at = f" at {self.killed_rps:,.6g} req/s"
        times = f" {self.losses} times" if self.losses > 1 else ""
        said = f"; with a replica killed{times}{at}: {k.verdict}, n = {k.n:,}, {k.over:,} over"
        return said + beside_in_words(self.killed_beside)


def beside_in_words(beside: Iterable[Beside]) -> str:
    """Further objectives, each behind a semicolon; "" where there are none."""
    told = (f"{b.slo}: {b.judged.verdict}, {b.judged.over:,} over" for b in beside)
    return "".join(f"; {one}" for one in told)


def deployments_in_words(number: int) -> str:
    """``3 deployments``."""
    return f"{number} {'deployment' if number == 1 else 'deployments'}"


def lapsed(claim: Claim, now: date, environment: Environment, variant: Variant) -> list[str]:
    """Why the claim no longer says anything about ``variant`` here and now; [] while it does."""
    return [
        *_of_another_model(claim, variant.model_sha256),
        *environment_changes(claim.environment, environment),
        *_too_old(claim, now),
    ]


def of_another_plan(claim: Claim, demand: Demand, plans: Iterable[Plan]) -> list[str]:
    """Why the claim is about none of ``plans``, recommended for ``demand``; [] where it is."""
    reasons = []
    claimed = (claim.objectives, claim.batch, claim.length, claim.rate_rps, claim.spare_replicas)
    asked = (demand.objectives, demand.batch, demand.length)
    same = claimed == (*asked, demand.rate_rps, demand.spare_replicas)
    if not (same and alike(claim.mix, demand.mix)):
        rows = str(demand.mix or f"batch {demand.batch:,}")
        tokens = "" if demand.length is None else f" of {demand.length:,} tokens"
        reasons.append(
            f"{', '.join(map(str, demand.objectives))} at {demand.rate_rps:,.6g} req/s of "
            f"{rows}{tokens}, {demand.spare_replicas} to spare, is demanded now"
        )
    if not any((p.candidate, p.replicas) == (claim.candidate, claim.replicas) for p in plans):
        reasons.append("another plan is recommended now")
    return reasons


def lapsed_from_outside(claim: Claim, now: date, sha256: str | None) -> list[str]:
    """The same, where nothing is known of a server but perhaps the hash of its model file."""
    return [*(_of_another_model(claim, sha256) if sha256 else []), *_too_old(claim, now)]


def environment_changes(was: Environment, now: Environment) -> list[str]:
    """What makes figures of one environment say nothing about another, a line each."""
    reasons = []
    versions = {**was.packages, "Python": was.python}
    current = {**now.packages, "Python": now.python}
    for name in sorted(versions.keys() | current.keys()):
        before, after = versions.get(name, "absent"), current.get(name, "absent")
        if before != after:
            reasons.append(f"{name} {before} became {after}")
    facts = {
        "CPU": (was.cpu_model, now.cpu_model),
        "instruction sets": (
            ", ".join(was.instruction_sets),
            ", ".join(now.instruction_sets),
        ),
        "hyper-threads a core": (str(was.threads_per_core), str(now.threads_per_core)),
        "enforcement": (was.enforcement, now.enforcement),
    }
    reasons += [f"{k}: {a} became {b}" for k, (a, b) in facts.items() if a != b]
    had, has = ({**env.settings, **env.deployed} for env in (was, now))
    for name in sorted(had.keys() | has.keys()):
        before, after = had.get(name, "unset"), has.get(name, "unset")
        if before != after:
            reasons.append(f"{name}={before} became {after}")
    return reasons


def _of_another_model(claim: Claim, sha256: str) -> list[str]:
    if sha256 == claim.model_sha256:
        return []
    return [
        f"the model file changed: sha256 {claim.model_sha256[:12]} was confirmed, "
        f"this is {sha256[:12]}"
    ]


def _too_old(claim: Claim, now: date) -> list[str]:
    age = (now - claim.confirmed_on).days
    if age <= claim.lapses_after_days:
        return []
    return [
        f"confirmed on {claim.confirmed_on}, {age} days ago, and good for {claim.lapses_after_days}"
    ]
