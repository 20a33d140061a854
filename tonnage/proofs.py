"""What is to be proven of a run: which plan of each profile, and the share that fits here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from loadtests.ceiling import ceiling_of, ceilings
from planner.batch_choice import predicted_share
from planner.claim import environment_changes
from planner.curve import predict_quantile
from planner.mixture import mixed_of
from planner.proving import DEPLOYMENTS, Held, Protocol, held_share, killed_rate
from planner.recommend import best_on_host
from planner.records import Demand, Interval, Plan, Recommendation
from reports.bundle import Bundle
from serving.cgroups import enforces_quotas
from serving.errors import BadInput, InvalidMeasurement
from serving.instances import resolve
from serving.model_store import store_folder
from serving.placement import CannotBeMeasured, Placement, check_measurable
from serving.records import COMMAND, Deployment, Environment, InstanceType, sha256_of
from tonnage.cells import DEPLOY_S
from tonnage.load import CEILING_RPS_PER_WORKER
from tonnage.stage import Stage

_ONE_ONLY = "one replica only"
_NOT_ASKED = "--no-kill"
# By another rule a run that is kept would have another verdict.
_JUDGED = "by latencies alone, from a loss on"
_NO_GROUPS = "without control groups its successor cannot be told from a neighbour"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How much is run. ``requests`` of each deployment; None: as many as a verdict takes."""

    deployments: int = DEPLOYMENTS
    requests: int | None = None
    duration_s: float | None = None
    kill: bool = True
    budget_s: float = 600.0
    this_host: bool = False
    fresh: bool = False

    def requests_at(self, rate_rps: float) -> int | None:
        """Requests of each deployment, if they were said."""
        if self.duration_s is not None:
            return max(1, round(self.duration_s * rate_rps))
        return self.requests


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What is to be proven of one profile: the plan, and the share of it that is held."""

    answer: Recommendation
    plan: Plan
    deployment: Deployment
    protocol: Protocol
    not_killed: str
    predicted: Interval | None
    key: str

    @property
    def demand(self) -> Demand:
        """The profile of use."""
        return self.answer.demand

    @property
    def estimate_s(self) -> float:
        """Seconds until the first look."""
        runs = self.protocol.deployments + (self.protocol.killed_rps is not None)
        return self.protocol.duration_s + runs * DEPLOY_S


def chosen(bundle: Bundle, profile: str | None) -> list[Recommendation]:
    """The profiles to prove: the one that is named, else all that have a plan.

    BadInput without a recommendation, for an unknown profile, and where nothing holds.
    """
    answers = {answer.demand.name: answer for answer in bundle.recommendations}
    if not answers or bundle.environment is None:
        raise BadInput("the run holds no recommendation; let 'tonnage run' finish, then confirm")
    if profile is not None and profile not in answers:
        raise BadInput(f"--profile {profile}: unknown; known are {', '.join(answers)}")
    found = [answers[profile]] if profile is not None else list(answers.values())
    held = [answer for answer in found if answer.best is not None]
    if not held:
        names = ", ".join(answer.demand.name for answer in found)
        raise BadInput(f"no candidate holds [{names}], so there is nothing to confirm")
    return held


def check_records(bundle: Bundle, here: Environment) -> None:
    """Refuse a plan made elsewhere: nothing that is run here says anything about it.

    InvalidMeasurement with the first thing that is not as it was.
    """
    if bundle.environment is None:
        raise BadInput("the run holds no environment.json; run the study again")
    known = {m.environment for m in bundle.measurements}
    if known != {bundle.environment.content_hash()}:
        raise InvalidMeasurement(
            f"the run's measurements come from environments {', '.join(sorted(known)) or 'unknown'}"
            f", its environment.json is {bundle.environment.content_hash()}; run the study again"
        )
    if here.content_hash() != bundle.environment.content_hash():
        changes = environment_changes(bundle.environment, here)
        why = changes[0] if changes else "its memory, kernel, CPUs or limits"
        raise InvalidMeasurement(
            f"the plan rests on measurements of another environment ({why}); confirm it there, or "
            "run the study here first"
        )


def make_proof(
    bundle: Bundle,
    answer: Recommendation,
    catalogue: Mapping[str, InstanceType],
    stage: Stage,
    placement: Placement,
    environment: Environment,
    wanted: Wanted,
) -> Proof:
    """Choose what is held here of the best plan. BadInput where that is nothing."""
    plan = best_on_host(answer) if wanted.this_host else answer.best
    if plan is None:
        raise BadInput(
            f"[{answer.demand.name}]: no plan on this host's own sizes holds, so there is none to "
            "confirm; leave out --this-host"
        )
    size = resolve(plan.candidate.size, catalogue)
    if plan.predicted:
        raise BadInput(
            f"the best plan stands on {plan.unmeasured_on(size.label, answer.demand)}, which was "
            "never measured; measure it first ('tonnage plan' says how), and nothing is proven on "
            "a guess"
        )
    measured = _measured(bundle, plan, size, answer.demand)
    _check_model(measured)
    if measured.instance.enforcement == "quota" and not (
        enforces_quotas() or measured.instance.is_container
    ):
        raise CannotBeMeasured(
            f"{measured.instance.label} needs control groups, which this host denies",
            "confirm where 'tonnage doctor' says that they are permitted",
        )
    held = _held(bundle, plan, answer.demand, measured, stage, placement)
    shared = {"max_batch": plan.candidate.max_batch}
    deployment = measured.model_copy(update={"replicas": held.replicas, **shared})
    killed_rps = killed_rate(plan, answer.demand.rate_rps, held.replicas)
    not_killed = _why_no_loss(killed_rps, environment, wanted)
    protocol = Protocol.of(
        max(answer.demand.objectives, key=lambda slo: slo.quantile),  # takes the most requests
        held,
        None if not_killed else killed_rps,
        deployments=wanted.deployments,
        requests=wanted.requests_at(held.rate_rps),
        budget_s=wanted.budget_s,
    )
    return Proof(
        answer=answer,
        plan=plan,
        deployment=deployment,
        protocol=protocol,
        not_killed=not_killed,
        predicted=_predicted(bundle, plan, deployment, answer.demand, held),
        key=_key(bundle, answer.demand, plan, deployment, stage),
    )


def _why_no_loss(killed_rps: float | None, environment: Environment, wanted: Wanted) -> str:
    if killed_rps is None:
        return _ONE_ONLY
    if not wanted.kill:
        return _NOT_ASKED
    return _NO_GROUPS if environment.enforcement == "affinity" else ""


def _measured(bundle: Bundle, plan: Plan, size: InstanceType, demand: Demand) -> Deployment:
    """The deployment that the plan's figures were measured on, with all its settings.

    Of a mix every batch size was; the largest speaks for all.
    """
    c = plan.candidate
    key = (c.variant, size.label, c.threads, demand.batch)
    for m in reversed(bundle.measurements):
        asked_so = m.key == key and m.run.length == demand.length
        if asked_so and m.valid and m.role == "cell":
            return m.deployment
    raise BadInput(
        f"{c.variant} on {size.label} has no valid measurement in this run, so nothing says "
        "what to deploy; run the study again"
    )


def _check_model(deployment: Deployment) -> None:
    variant = deployment.variant
    if variant.runtime == COMMAND:
        return
    for name, sha256 in variant.files.items():
        path = store_folder() / name
        if not path.is_file():
            raise BadInput(f"{path}: the model that was measured is gone; run the study again")
        if (found := sha256_of(path)) != sha256:
            raise BadInput(
                f"{path}: the model file changed since it was measured (sha256 {sha256[:12]}, "
                f"now {found[:12]}); run the study again"
            )


def _held(
    bundle: Bundle,
    plan: Plan,
    demand: Demand,
    measured: Deployment,
    stage: Stage,
    placement: Placement,
) -> Held:
    """As many replicas as this host has room for, and the generator carries the rate of."""
    size = measured.instance
    check_measurable(size, 1, placement)
    ceiling = CEILING_RPS_PER_WORKER * stage.workers
    if known := ceiling_of(ceilings(bundle.measurements), demand.batch, demand.mix):
        ceiling = min(ceiling, known.believed_rps)
    most = int(plan.replicas * ceiling / demand.rate_rps)
    if most < 1:
        each = demand.rate_rps / plan.replicas
        raise BadInput(
            f"[{demand.name}]: one replica's share is {each:,.6g} req/s, and generator and ingress "
            f"carry about {ceiling:,.0f} here; raise 'workers' under [measure], or use a larger "
            "host"
        )
    most = min(most, stage.most_replicas or most, 1 if size.is_container else most)
    while not _fits(measured, most, placement):
        most -= 1
    return held_share(plan, demand.rate_rps, most)


def _fits(measured: Deployment, replicas: int, placement: Placement) -> bool:
    try:
        check_measurable(measured.instance, replicas, placement)
    except CannotBeMeasured:
        return False
    return True


def _predicted(
    bundle: Bundle, plan: Plan, deployment: Deployment, demand: Demand, held: Held
) -> Interval | None:
    """What the planner says of the share itself; None beyond what it predicts at all."""
    seed = bundle.info.seed
    if deployment.max_batch > 1:
        if demand.mix is not None:
            return None
        return predicted_share(
            [p for p in bundle.profiles if p.length == demand.length],
            plan.candidate,
            deployment.instance,
            demand.batch,
            held.replicas,
            held.rate_rps,
            demand.slo.quantile,
            seed,
        )
    cell = (deployment.variant.name, deployment.instance.label, deployment.threads)
    there = [p for p in bundle.profiles if (p.variant.name, p.instance.label, p.threads) == cell]
    for p in there if demand.mix is None else mixed_of(demand, there, seed):
        if (p.batch, p.length) == demand.request:
            try:
                return predict_quantile(p, held.replicas, held.rate_rps, demand.slo.quantile, seed)
            except BadInput:
                return None
    return None


def _key(bundle: Bundle, demand: Demand, plan: Plan, deployment: Deployment, stage: Stage) -> str:
    """What a kept run proves; anything else that changes begins anew."""
    environment = bundle.environment.content_hash() if bundle.environment else ""
    parts = [plan.candidate.content_hash(), str(plan.replicas), demand.content_hash()]
    parts += [deployment.content_hash(), bundle.info.config_hash, environment, *stage.differs]
    parts.append(_JUDGED)
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:12]
