"""Judging a confirmation: from the runs of several redeployments to one claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date

from loadtests.histogram import Histogram
from loadtests.objective import Slo, SloVerdict, Verdict
from loadtests.records import FaultCode, Measurement
from loadtests.slo import decide
from planner.claim import LAPSE_AFTER_DAYS, Claim, Judged
from planner.profile import fell_behind
from planner.records import Demand, Interval, Plan
from serving.errors import BadInput, InvalidMeasurement
from serving.records import Deployment, Environment

DEPLOYMENTS = 3
"""Fewer redeployments prove one lucky deployment, not the plan."""

CONFIDENCE = 0.99
_RATE_TOLERANCE = 0.001
_FOREVER = 1e8

# What killing a replica does to a run without anything being wrong with the run.
_KILLED = {
    FaultCode.REPLICA_CHANGED,
    FaultCode.ERRORS,
    FaultCode.BACKLOG_GROWING,
    FaultCode.RATE_NOT_MET,
}


def judge_confirmation(
    measurements: Sequence[Measurement],
    demand: Demand,
    plan: Plan,
    environment: Environment,
    *,
    config_hash: str,
    confirmed_on: date,
    killed: Measurement | None = None,
    verdicts: Sequence[SloVerdict] = (),
    predicted: Interval | None = None,
    confidence: float = CONFIDENCE,
) -> Claim:
    """Judge a plan by open-loop runs, one for each redeployment of the share that was held.

    Late requests are those beyond the limit, failed and unsent ones included; those of all
    deployments are pooled and judged by the binomial rule. The claim holds when the pool
    does, no deployment fails by itself, there are at least three, and, where the demand has
    spare replicas, the run with a ``killed`` one does not fail. It fails when the pool or a
    deployment fails. Give the ``verdicts`` of :func:`loadtests.slo.judge_slo` on the raw
    latencies, one for each run, so that correlation between requests counts; without them
    requests are taken as independent.

    InvalidMeasurement for a run that cannot be believed (one whose backlog grew can, and
    fails); BadInput for runs of unlike deployments or environments, at less than the rate
    they have to carry, or of another plan.
    """
    if not measurements:
        raise BadInput("no confirmation run; at least one is needed, and three to prove anything")
    if verdicts and len(verdicts) != len(measurements):
        raise BadInput(f"{len(verdicts)} verdicts for {len(measurements)} runs; give one for each")
    runs = [*measurements, *([killed] if killed else [])]
    deployment = _same_deployment(runs, plan)
    _same_environment(runs, environment)
    held_rps = demand.rate_rps * deployment.replicas / plan.replicas
    for run in runs:
        _check_load(run, demand, held_rps)
        _check_valid(run, _KILLED if run is killed else set())
    slo = demand.slo
    # So many looks: together they are as likely to be wrong as one (Bonferroni).
    stricter = 1 - (1 - confidence) / len(measurements)
    each = tuple(
        _judged([run], verdicts[i : i + 1], slo, stricter) for i, run in enumerate(measurements)
    )
    pool = _judged(measurements, verdicts, slo, confidence)
    after_kill = None if killed is None else _judged([killed], [], slo, confidence)
    verdict, reason = _verdict(pool, each, after_kill, demand.spare_replicas)
    return Claim.of(
        verdict=verdict.value,
        reason=reason,
        slo=slo,
        batch=demand.batch,
        rate_rps=demand.rate_rps,
        held_rps=held_rps,
        replicas=plan.replicas,
        held_replicas=deployment.replicas,
        spare_replicas=demand.spare_replicas,
        candidate=plan.candidate,
        instance=deployment.instance,
        confidence=confidence,
        deployments=len(measurements),
        judged=pool,
        each=each,
        killed=after_kill,
        more_requests=_missing(pool, slo, confidence) if pool.verdict == "undecided" else None,
        predicted=predicted,
        model_sha256=deployment.variant.sha256,
        config_hash=config_hash,
        environment=environment,
        measurement_ids=tuple(run.id for run in runs),
        confirmed_on=confirmed_on.isoformat(),
        lapses_after_days=LAPSE_AFTER_DAYS,
        differs=_differences(plan, deployment, environment),
    )


def _same_deployment(runs: Sequence[Measurement], plan: Plan) -> Deployment:
    first = runs[0].deployment
    if any(run.deployment != first for run in runs):
        raise BadInput(
            "the confirmation runs are of different deployments; redeploy the same one each time"
        )
    c = plan.candidate
    name, _, enforcement = c.size.partition(":")
    found = (first.variant.name, first.instance.name, first.threads)
    if found != (c.variant, name, c.threads) or enforcement not in ("", first.instance.enforcement):
        raise BadInput(
            f"{first.label} was run, and {c.variant} on {c.size} with {c.threads} threads is "
            "to be confirmed; deploy that"
        )
    if first.replicas > plan.replicas:
        raise BadInput(
            f"{first.replicas} replicas were run, the plan has {plan.replicas}; deploy no more"
        )
    return first


def _same_environment(runs: Sequence[Measurement], environment: Environment) -> None:
    found = {run.environment for run in runs}
    if found != {environment.content_hash()}:
        raise BadInput(
            f"the confirmation runs come from environments {', '.join(sorted(found))}, the claim "
            f"would be about {environment.content_hash()}; run all of them in one"
        )


def _check_load(run: Measurement, demand: Demand, held_rps: float) -> None:
    if run.run.mode != "open" or run.run.rate_rps is None:
        raise BadInput(
            f"run {run.id} is {run.run.mode}-loop; only open-loop traffic, which does not wait "
            "for slow answers, proves a latency"
        )
    if run.run.batch != demand.batch:
        raise BadInput(f"run {run.id} has batch {run.run.batch}, the demand {demand.batch}")
    if run.run.rate_rps < held_rps * (1 - _RATE_TOLERANCE):
        raise BadInput(
            f"run {run.id} was driven at {run.run.rate_rps:g} req/s, its share of the demand is "
            f"{held_rps:g}; drive it at that"
        )


def _check_valid(run: Measurement, allowed: set[FaultCode]) -> None:
    if fell_behind(run):  # the answer is that it does not hold
        return
    serious = [fault for fault in run.faults if fault.code not in allowed]
    if serious:
        raise InvalidMeasurement(
            f"run {run.id} cannot be believed: {serious[0].code}: {serious[0].detail}; repeat it"
        )


def _judged(
    runs: Sequence[Measurement], verdicts: Sequence[SloVerdict], slo: Slo, confidence: float
) -> Judged:
    """Requests of all ``runs`` together; their effective numbers add up."""
    if verdicts:
        n, over = sum(v.n for v in verdicts), sum(v.over for v in verdicts)
        effective = sum(v.effective_n for v in verdicts)
        share = sum(v.share_over * v.n for v in verdicts) / n if n else 0.0
    else:
        n = sum(m.offered for m in runs)
        over = sum(_over(m, slo) for m in runs)
        effective, share = float(n), over / n if n else 0.0
    verdict = decide(effective, share, slo.quantile, confidence) if n else Verdict.UNDECIDED
    if any(fell_behind(m) for m in runs) or any(v.backlog_growing for v in verdicts):
        verdict = Verdict.FAILS  # its latencies are lower bounds, however they look
    return Judged(
        verdict=verdict.value,
        n=n,
        over=over,
        effective_n=effective,
        measured_ms=_quantile_ms(runs, slo.quantile),
    )


def _over(run: Measurement, slo: Slo) -> int:
    """Late requests of a run; one that was never answered is late."""
    answered = run.due_to_done.count
    return run.due_to_done.count_above(slo.limit_ms / 1e3) + max(0, run.offered - answered)


def _quantile_ms(runs: Sequence[Measurement], quantile: float) -> float | None:
    """The quantile over all requests that fell due; None when that one was not answered."""
    merged = Histogram.merge(m.due_to_done for m in runs)
    rank = max(1, math.ceil(round(quantile * sum(m.offered for m in runs), 9)))
    if rank > merged.count:
        return None
    return 1e3 * merged.quantile_s(rank / merged.count)


def _verdict(
    pool: Judged, each: Sequence[Judged], killed: Judged | None, spare_replicas: int
) -> tuple[Verdict, str]:
    failed = sum(one.verdict == "fails" for one in each)
    if failed:
        return Verdict.FAILS, f"{failed} of {len(each)} deployments fail by themselves"
    if pool.verdict == "fails":
        return Verdict.FAILS, "too many requests are late over all deployments"
    if spare_replicas and killed is not None and killed.verdict == "fails":
        return Verdict.FAILS, "too many requests are late once a replica is killed"
    if pool.verdict == "undecided":
        return Verdict.UNDECIDED, "the requests are too few, or too near the limit"
    if len(each) < DEPLOYMENTS:
        return Verdict.UNDECIDED, f"{len(each)} of {DEPLOYMENTS} redeployments are made"
    if spare_replicas and killed is None:
        return Verdict.UNDECIDED, "the run with a killed replica is missing"
    return Verdict.HOLDS, "binomial rule over all deployments; none fails by itself"


def _missing(pool: Judged, slo: Slo, confidence: float) -> int | None:
    """About how many more requests decide it, if the share over the limit stays; None: none do."""
    share = pool.over / pool.n if pool.n else 0.0
    low = high = max(pool.effective_n, 1.0)
    while decide(high, share, slo.quantile, confidence) == Verdict.UNDECIDED:
        low, high = high, 2 * high
        if high > _FOREVER:
            return None
    while high - low > 1:
        middle = (low + high) / 2
        if decide(middle, share, slo.quantile, confidence) == Verdict.UNDECIDED:
            low = middle
        else:
            high = middle
    each = pool.n / pool.effective_n if pool.effective_n else 1.0
    return max(1, math.ceil(high * each) - pool.n)


def _differences(plan: Plan, deployment: Deployment, environment: Environment) -> tuple[str, ...]:
    """What was confirmed against what is recommended, in words."""
    found = []
    if deployment.replicas < plan.replicas:
        found.append(
            f"{deployment.replicas} of {plan.replicas} replicas were held, at their share of the "
            "rate; the router and the network of the whole were not loaded"
        )
    if plan.candidate.instance != plan.candidate.size:
        found.append(
            f"confirmed on {environment.cpu_model}, recommended on {plan.instances} x "
            f"{plan.candidate.instance}; {plan.price_basis}"
        )
    if plan.staffing:
        found.append("so many replicas are planned by a staffing law, and a share shows none of it")
    return tuple(found)
