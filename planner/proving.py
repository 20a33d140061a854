"""How a plan is proven: which share of it, by how many requests, and when to go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pydantic import Field

from loadtests.objective import Slo
from loadtests.records import Measurement
from planner.claim import Claim
from planner.pooled import (
    CONFIDENCE,
    confidence_of_look,
    confidence_of_objective,
    judged,
)
from planner.records import Candidate, Plan, Recommendation
from planner.reproof import Reproof
from serving.records import SCHEMA_VERSION, Record

DEPLOYMENTS = 3
"""Fewer redeployments prove one lucky deployment, not the plan."""

SHORTEST_S = 10.0
"""A run below it is over before anything rare has happened."""

SHORTEST_KILLED_S = 20.0
"""Starting a replica again takes some seconds; most of the run shall not be that."""

_LATE_IN_TAIL = 24
_MARGIN = 1.2  # the warm-up is cut off, and rates are random
_SHARE_OF_BUDGET = 0.8


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


def killed_rate(plan: Plan, rate_rps: float, held: int) -> float | None:
    """The rate at which one of ``held`` replicas is killed; None where there is one only.

    Those that are left get what each replica of the whole plan gets when it has lost one:
    at the share's full rate, one of two would stand for half of the plan.
    """
    return rate_rps * (held - 1) / (plan.replicas - 1) if held > 1 else None


class Protocol(Record):
    """What is run to prove a plan: redeployments of so many requests each, one loss."""

    deployments: int = Field(ge=DEPLOYMENTS)
    requests: int = Field(ge=1, description="of each deployment")
    held_rps: float = Field(gt=0)
    killed_rps: float | None = Field(description="null: no replica is killed")

    @classmethod
    def of(
        cls,
        slo: Slo,
        held: Held,
        killed_rps: float | None,
        *,
        deployments: int = DEPLOYMENTS,
        requests: int | None = None,
        budget_s: float = math.inf,
    ) -> Self:
        """Enough ``requests`` for a verdict, unless they are given, and within the budget.

        About twenty of a good plan's requests are then in the tail that decides.
        """
        if requests is None:
            enough = _LATE_IN_TAIL / (1 - slo.quantile)
            enough = max(enough, SHORTEST_S * held.rate_rps)
            runs = deployments + 2 * (killed_rps is not None)
            requests = math.ceil(
                min(enough, _SHARE_OF_BUDGET * budget_s * held.rate_rps / runs) - 1e-9
            )
        return cls(
            deployments=deployments,
            requests=max(requests, 1),
            held_rps=held.rate_rps,
            killed_rps=killed_rps,
        )

    @property
    def run_s(self) -> float:
        """How long one deployment is driven."""
        return self.requests / self.held_rps

    @property
    def killed_s(self) -> float:
        """How long the one that loses a replica is driven; 0 when none does.

        Twice as long: what comes before the loss is not judged.
        """
        return max(2 * self.run_s, SHORTEST_KILLED_S) if self.killed_rps else 0.0

    @property
    def duration_s(self) -> float:
        """All runs of the first look, without what deploying takes."""
        return self.deployments * self.run_s + self.killed_s

    def further(self, claim: Claim | Reproof, left_s: float) -> int | None:
        """Requests of one more redeployment that may decide the claim.

        None when it is decided, when no number of requests decides it, or when as many
        take longer than ``left_s``.
        """
        if claim.verdict != "undecided" or claim.more_requests is None:
            return None
        requests = max(math.ceil(_MARGIN * claim.more_requests), math.ceil(self._fewest))
        return requests if requests / self.held_rps <= left_s else None

    def further_loss(self, claim: Claim, left_s: float) -> int | None:
        """Requests of one more run that loses a replica; None as with :meth:`further`."""
        if claim.verdict != "undecided" or not (claim.more_lost_requests and self.killed_rps):
            return None
        behind = max(_MARGIN * claim.more_lost_requests, self.killed_s * self.killed_rps / 2)
        requests = math.ceil(2 * behind)  # what comes before the loss is not judged
        return requests if requests / self.killed_rps <= left_s else None

    @property
    def _fewest(self) -> float:
        return min(self.requests, SHORTEST_S * self.held_rps)


class ConfirmationRun(Record):
    """One run made to prove a plan, kept so that it is not repeated.

    ``key`` says what it proves: plan, demand, deployment, configuration and environment.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    kind: Literal["deployment", "killed"]
    measurement: Measurement


class Discarded(Record):
    """An attempt whose runs were thrown away: what it proved, and how often it was judged."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    looks: int = Field(ge=1)


def fails_alone(run: Measurement, slos: Sequence[Slo], deployments: int, look: int = 1) -> bool:
    """Whether one of so many deployments fails so clearly that no other makes up for it.

    By any of the objectives. ``look`` is the number of the one that follows after all of them.
    """
    sure = confidence_of_objective(confidence_of_look(CONFIDENCE, look), len(slos))
    stricter = 1 - (1 - sure) / deployments

    def fails(slo: Slo) -> bool:
        verdicts = [v for v in run.verdicts if v.slo == slo]
        return judged([run], verdicts[:1], slo, stricter).verdict == "fails"

    return any(fails(slo) for slo in slos)


def look_of(deployments: int) -> int:
    """Which look it is when so many are judged: the first after ``DEPLOYMENTS``.

    However many are planned: a plan that is raised after each look would make every one the first.
    """
    return 1 + max(0, deployments - DEPLOYMENTS)


def recommend_instead(
    recommendation: Recommendation, failed: Candidate, replicas: int
) -> Plan | None:
    """The next plan that the failure of ``replicas`` does not contradict; None without one.

    No more replicas of the same variant, size, threads and batching cannot do what these could not.
    """
    best = [recommendation.best] if recommendation.best else []
    return next(
        (
            p
            for p in (*best, *recommendation.alternatives)
            if _made_of(p.candidate) != _made_of(failed) or p.replicas > replicas
        ),
        None,
    )


def _made_of(c: Candidate) -> tuple[str, str, int, int]:
    return c.variant, c.size, c.threads, c.max_batch
