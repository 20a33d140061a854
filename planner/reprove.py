"""Judging a claim again, by runs against a server of which only the answers are seen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from loadtests.arrivals import alike
from loadtests.objective import Verdict
from loadtests.records import EndpointMeasurement
from planner.claim import Beside, Claim
from planner.pooled import (
    confidence_of_look,
    confidence_of_objective,
    judged,
    missing,
    most_missing,
    unbelievable,
    verdicts_on,
    with_beside,
)
from planner.reproof import Reproof
from serving.errors import BadInput, InvalidMeasurement

_REASONS = {
    "holds": "binomial rule, correlation counted",
    "fails": "too many requests are late",
    "undecided": "the requests are too few, or too near the limit",
}


def judge_reproof(
    claim: Claim,
    runs: Sequence[EndpointMeasurement],
    *,
    rate_rps: float,
    sha256: str | None,
    proven_on: date,
) -> Reproof:
    """Judge ``runs`` at ``rate_rps`` against the claim's objectives, all of them together.

    Each run was followed by a look, so the confidence is that of as many, and every objective has
    its share of the doubt, as in :func:`planner.confirm.judge_confirmation`. ``sha256`` is the
    hash of its model, if the server tells it.

    InvalidMeasurement for a run that cannot be believed; BadInput without runs, and for
    runs of another batch, rate or server, or without a verdict on each of the claim's objectives.
    """
    if not runs:
        raise BadInput("no run against the endpoint; at least one is needed")
    first = runs[0]
    for run in runs:
        if (why := unbelievable(run)) is not None:
            raise InvalidMeasurement(f"{run.url}: a run cannot be believed: {why}; repeat it")
        same = (run.url, run.model_name) == (first.url, first.model_name)
        asked = run.run.batch == claim.batch and alike(run.run.mix, claim.mix)
        if not same or not asked or run.run.rate_rps != rate_rps:
            had, claimed = (one.mix or f"batch {one.batch}" for one in (run.run, claim))
            raise BadInput(
                f"{run.url}: a run of {had} at {run.run.rate_rps} req/s does not "
                f"belong to a claim about {claimed}, driven at {rate_rps:g} req/s"
            )
    looks, objectives = len(runs), claim.objectives
    sure, further = (
        confidence_of_objective(confidence_of_look(claim.confidence, look), len(objectives))
        for look in (looks, looks + 1)
    )
    found = [judged(runs, verdicts_on(runs, slo), slo, sure) for slo in objectives]
    beside = tuple(
        Beside(slo=slo, judged=one) for slo, one in zip(objectives[1:], found[1:], strict=True)
    )
    verdict, reason = Verdict(found[0].verdict), _REASONS[found[0].verdict]
    if verdict != Verdict.FAILS:
        verdict, reason = with_beside(beside, verdict, reason)
    undecided = [
        missing(one, slo, further)
        for slo, one in zip(objectives, found, strict=True)
        if one.verdict == "undecided"
    ]
    return Reproof.of(
        verdict=verdict.value,
        reason=reason,
        claim=claim.content_hash(),
        claimed=claim.sentence,
        url=first.url,
        model_name=first.model_name,
        slo=claim.slo,
        batch=claim.batch,
        mix=claim.mix,
        rate_rps=rate_rps,
        confidence=claim.confidence,
        looks=looks,
        judged=found[0],
        beside=beside,
        more_requests=most_missing(undecided) if verdict == Verdict.UNDECIDED else None,
        proven_on=proven_on.isoformat(),
        unchecked=_unchecked(claim, sha256),
    )


def _unchecked(claim: Claim, sha256: str | None) -> tuple[str, ...]:
    model: tuple[str, ...] = ()
    if sha256 is None:
        model = (f"the model file: the server does not tell its hash ({claim.model_sha256[:12]})",)
    many = claim.replicas
    rows: tuple[str, ...] = ()
    if claim.length is not None:
        rows = (f"that the rows it was asked have {claim.length:,} tokens, as those of the claim",)
    return (
        *model,
        *rows,
        f"that {many} replica{'' if many == 1 else 's'} of {claim.instance.label} answer, and "
        "that their sizes are enforced",
        f"versions of {', '.join(sorted(claim.environment.packages))}, and settings of Ray Serve",
        f"the CPU, which was {claim.environment.cpu_model}",
        "other deployments of the same: this one was tested as it stands",
    )
