"""Judging a confirmation: from the runs of several redeployments to one claim."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from loadtests.arrivals import alike
from loadtests.objective import Slo, SloVerdict, Verdict
from loadtests.records import FaultCode, Measurement
from planner.claim import LAPSE_AFTER_DAYS, Beside, Claim, Judged
from planner.pooled import (
    CONFIDENCE,
    confidence_of_look,
    confidence_of_objective,
    judged,
    missing,
    most_missing,
    unbelievable,
    verdicts_on,
    with_beside,
)
from planner.proving import DEPLOYMENTS, killed_rate
from planner.records import Demand, Interval, Plan
from serving.errors import BadInput, InvalidMeasurement
from serving.records import Deployment, Environment

_RATE_TOLERANCE = 0.001

KILLED = frozenset({FaultCode.REPLICA_CHANGED, FaultCode.FALLBACK_PROXY})
"""What killing a replica does to a run without anything being wrong with the run."""

NOT_KILLED = "no replica ended in the run that is about losing one"


def judge_confirmation(
    measurements: Sequence[Measurement],
    demand: Demand,
    plan: Plan,
    environment: Environment,
    *,
    config_hash: str,
    confirmed_on: date,
    killed: Sequence[Measurement] = (),
    not_killed: str = "",
    verdicts: Sequence[SloVerdict] = (),
    predicted: Interval | None = None,
    confidence: float = CONFIDENCE,
    look: int = 0,
    discarded: int = 0,
    differs: Sequence[str] = (),
) -> Claim:
    """Judge a plan by open-loop runs, one for each redeployment of the share that was held.

    Late requests are those beyond the limit, failed and unsent ones included, and of whatever batch
    size where the demand mixes several; those of all deployments are pooled and judged by the
    binomial rule. The claim holds when the pool does, no deployment fails by itself, there are at
    least three, and, where the demand has spare replicas and more than one is held, the runs with a
    ``killed`` one hold, too. It fails when the pool, a deployment or those runs fail. Give the
    ``verdicts`` of :func:`loadtests.slo.judge_slo` on the raw latencies, one for each run and
    without a replay, so that correlation between requests counts; without them requests are taken
    as independent. Those with a ``killed`` one are judged by their own, all of them together: what
    is late after a loss is late together.
    ``look`` counts, from 1, how often a confirmation that goes on was judged, see
    :func:`planner.pooled.confidence_of_look`; looks at ``discarded`` attempts, whose runs were
    thrown away, count as well. Further objectives and the error budget of the demand are judged
    by the same requests and, where there are ``verdicts``, by those of the runs; each at a
    share of the doubt that is allowed. So are the ``killed`` runs, all of them together.
    ``differs`` is added to what is known to
    differ from where the plan recommends to run it.

    InvalidMeasurement for a run that cannot be believed (one whose backlog grew can, and
    fails); BadInput for runs of unlike deployments or environments, at less than the rate
    they have to carry, or of another plan.
    """
    if not measurements:
        raise BadInput("no confirmation run; at least one is needed, and three to prove anything")
    if verdicts and len(verdicts) != len(measurements):
        raise BadInput(f"{len(verdicts)} verdicts for {len(measurements)} runs; give one for each")
    for run in killed if verdicts else ():
        if lacking := set(demand.objectives) - {v.slo for v in run.verdicts}:
            raise BadInput(
                f"run {run.id} has no verdict on {min(map(str, lacking))}, and those beside it "
                "have; give it one"
            )
    runs = [*measurements, *killed]
    deployment = _same_deployment(runs, plan)
    _same_environment(runs, environment)
    held_rps = demand.rate_rps * deployment.replicas / plan.replicas
    killed_rps = killed_rate(plan, demand.rate_rps, deployment.replicas)
    for run in measurements:
        _check_load(run, demand, held_rps)
        _check_valid(run, unbelievable(run))
    for run in killed:
        _check_load(run, demand, killed_rps or held_rps)
        _check_valid(run, unbelievable_loss(run))
    slo, number = demand.slo, len(demand.objectives)
    sure = confidence_of_objective(confidence_of_look(confidence, look), number)
    # Attempts had one look each at least, and each run more is another.
    sure_of_loss = confidence_of_look(confidence, discarded + len(killed)) if look else confidence
    sure_of_loss = confidence_of_objective(sure_of_loss, number)
    # So many looks: together they are as likely to be wrong as one (Bonferroni).
    stricter = 1 - (1 - sure) / len(measurements)
    each = tuple(
        judged([run], verdicts[i : i + 1], slo, stricter) for i, run in enumerate(measurements)
    )
    pool = judged(measurements, verdicts, slo, sure)
    beside = tuple(
        _beside(measurements, bool(verdicts), other, sure, stricter)
        for other in demand.objectives[1:]
    )
    lost = [(one, _after_loss(killed, one, sure_of_loss)) for one in demand.objectives if killed]
    spare = demand.spare_replicas if deployment.replicas > 1 else 0
    after_kill = lost[0][1] if lost else None
    killed_beside = tuple(Beside(slo=one, judged=found) for one, found in lost[1:])
    verdict, reason = _verdict(pool, each, after_kill, spare)
    if verdict != Verdict.FAILS:
        verdict, reason = with_beside(beside, verdict, reason)
    if verdict != Verdict.FAILS and spare:
        verdict, reason = with_beside(killed_beside, verdict, reason, "with a replica killed, ")
    next_look = confidence_of_look(confidence, look + 1) if look else confidence
    next_look = confidence_of_objective(next_look, number)
    undecided = [
        missing(one, objective, next_look)
        for objective, one in ((slo, pool), *((b.slo, b.judged) for b in beside))
        if one.verdict == "undecided"
    ]
    next_loss = confidence_of_look(confidence, discarded + len(killed) + 1) if look else confidence
    next_loss = confidence_of_objective(next_loss, number)
    open_losses = [
        missing(found, one, next_loss)
        for one, found in lost
        if spare and found.verdict == "undecided"
    ]
    return Claim.of(
        profile=demand.name,
        model_name=deployment.variant.model_name,
        verdict=verdict.value,
        reason=reason,
        slo=slo,
        batch=demand.batch,
        mix=demand.mix,
        length=demand.length,
        rate_rps=demand.rate_rps,
        held_rps=held_rps,
        replicas=plan.replicas,
        held_replicas=deployment.replicas,
        spare_replicas=demand.spare_replicas,
        candidate=plan.candidate,
        instance=deployment.instance,
        confidence=confidence,
        looks=look,
        deployments=len(measurements),
        discarded=discarded,
        judged=pool,
        each=each,
        beside=beside,
        killed=after_kill,
        killed_beside=killed_beside,
        losses=len(killed),
        killed_rps=killed[0].run.rate_rps if killed else None,
        not_killed="" if killed else not_killed,
        more_requests=most_missing(undecided),
        more_lost_requests=most_missing(open_losses),
        predicted=predicted,
        floor_p99_ms=_floor_p99_ms(measurements),
        model_sha256=deployment.variant.model_sha256,
        config_hash=config_hash,
        environment=environment,
        measurement_ids=tuple(run.id for run in runs),
        confirmed_on=confirmed_on,
        lapses_after_days=LAPSE_AFTER_DAYS,
        differs=(*_differences(demand, plan, deployment, environment, predicted), *differs),
    )


def unbelievable_loss(killed: Measurement) -> str | None:
    """Why the run in which a replica was killed proves nothing; None for one that does."""
    if not any(fault.code == FaultCode.REPLICA_CHANGED for fault in killed.faults):
        return NOT_KILLED
    return unbelievable(killed, KILLED)


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
    if first.max_batch != c.max_batch:
        raise BadInput(
            f"calls of up to {first.max_batch} requests were run, the plan has {c.max_batch}; "
            "deploy that"
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
    if not alike(run.run.mix, demand.mix):
        had, asked = (one or "one batch size alone" for one in (run.run.mix, demand.mix))
        raise BadInput(f"run {run.id} has {had}, the demand {asked}; drive what is demanded")
    if run.run.length != demand.length:
        raise BadInput(f"run {run.id} has length {run.run.length}, the demand {demand.length}")
    if run.run.rate_rps < held_rps * (1 - _RATE_TOLERANCE):
        raise BadInput(
            f"run {run.id} was driven at {run.run.rate_rps:g} req/s, its share of the demand is "
            f"{held_rps:g}; drive it at that"
        )


def _check_valid(run: Measurement, why: str | None) -> None:
    if why is not None:
        raise InvalidMeasurement(f"run {run.id} cannot be believed: {why}; repeat it")


def _verdict(
    pool: Judged,
    each: Sequence[Judged],
    killed: Judged | None,
    spare_replicas: int,
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
    if spare_replicas and killed is not None and killed.verdict == "undecided":
        return Verdict.UNDECIDED, (
            "with a replica killed the requests are too few, or too near the limit"
        )
    return Verdict.HOLDS, (
        "binomial rule over all deployments; none fails by itself; how surely is said of these "
        "deployments, not of the next one"
    )


def _beside(
    runs: Sequence[Measurement], judge: bool, slo: Slo, sure: float, stricter: float
) -> Beside:
    """Judge an objective beside the principal one; with ``judge`` by the runs' verdicts on it."""
    verdicts = verdicts_on(runs, slo) if judge else []
    alone = (judged([run], verdicts[i : i + 1], slo, stricter) for i, run in enumerate(runs))
    return Beside(
        slo=slo,
        judged=judged(runs, verdicts, slo, sure),
        failed_alone=sum(one.verdict == "fails" for one in alone),
    )


def _after_loss(killed: Sequence[Measurement], slo: Slo, sure: float) -> Judged:
    """Judge the runs that lost a replica, by their own verdicts on an objective if any."""
    verdicts = [v for run in killed for v in run.verdicts if v.slo == slo]
    found = judged(killed, verdicts, slo, sure)
    if not verdicts:
        return found
    # The histogram is of the whole run.
    worst = max((v.quantile_ms for v in verdicts if v.quantile_ms is not None), default=None)
    return found.model_copy(update={"measured_ms": worst})


def _floor_p99_ms(runs: Sequence[Measurement]) -> float | None:
    """The platform's floor in ms, where the p99 of every run is near it."""
    floors = [run.floor_p99_s for run in runs]
    known = [floor for floor in floors if floor is not None]
    return 1e3 * max(known) if known and len(known) == len(floors) else None


def _differences(
    demand: Demand,
    plan: Plan,
    deployment: Deployment,
    environment: Environment,
    predicted: Interval | None,
) -> tuple[str, ...]:
    """What was confirmed against what is recommended, in words."""
    found = []
    if deployment.replicas < plan.replicas:
        found.append(
            f"{deployment.replicas} of {plan.replicas} replicas were held, at their share of the "
            "rate; the router and the network of the whole were not loaded"
        )
        if predicted is not None and predicted.high > demand.slo.limit_ms:
            found.append(
                f"so few replicas queue more than {plan.replicas} do: the share is predicted to "
                f"take up to {predicted.high:.3g} ms, over the limit of {demand.slo.limit_ms:g} "
                "ms; where it fails, the whole may hold"
            )
    if demand.spare_replicas and deployment.replicas == 1:
        found.append(
            f"of the {plan.replicas} replicas {demand.spare_replicas} are to spare; one alone "
            "shows nothing of what happens when another is lost"
        )
    if plan.candidate.instance != plan.candidate.size:
        found.append(
            f"confirmed on {environment.cpu_model}, recommended on {plan.instances} x "
            f"{plan.candidate.instance}; {plan.price_basis}"
        )
    if plan.staffing:
        found.append("so many replicas are planned by a staffing law, and a share shows none of it")
    return tuple(found)
