"""What was in force when a recommendation was measured: all that an export has to carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Self

from planner.advice import AutoscalingAdvice
from planner.records import Demand, Plan, ServiceProfile
from reports.bundle import Bundle
from reports.proven import no_longer
from serving.errors import BadInput
from serving.instances import resolve
from serving.records import Deployment, Environment, Grant, InstanceType, Record

MODEL_FOLDER = "model"


class Proven(Record):
    """One plan with the deployment that its figures were measured on.

    ``deployment`` is what to run: the measured one, with the plan's number of replicas and
    requests a call, and its model file named relative to the export. ``bought`` is the shape
    that the plan buys, null when it is the measured size itself. ``source`` is the model file in
    the store, ``claim`` what a confirmation found, in words.
    """

    demand: Demand
    plan: Plan
    deployment: Deployment
    source: str
    bought: InstanceType | None
    grant: Grant
    environment: Environment
    startup_s: float
    ingress_cpu_ms: float
    config_hash: str
    autoscaling: AutoscalingAdvice | None = None
    claim: str = "nobody has confirmed this plan; 'tonnage confirm RUN' does"

    @classmethod
    def of(cls, bundle: Bundle, profile: str | None, catalogue: Mapping[str, InstanceType]) -> Self:
        """The best plan of one profile of use, by default the run's first.

        ``catalogue`` are the run's instance types by name. BadInput without a recommendation,
        for an unknown profile, and for one that no candidate holds.
        """
        answers = {answer.demand.name: answer for answer in bundle.recommendations}
        if not answers or bundle.environment is None:
            raise BadInput("the run holds no recommendation; let 'tonnage run' finish, then export")
        if profile is not None and profile not in answers:
            raise BadInput(f"--profile {profile}: unknown; known are {', '.join(answers)}")
        answer = answers[profile or next(iter(answers))]
        plan = answer.best
        if plan is None:
            others = [name for name, other in answers.items() if other.best is not None]
            raise BadInput(
                f"no candidate holds '{answer.demand.name}', so there is nothing to export; "
                + (
                    f"another profile: --profile {' or '.join(others)}"
                    if others
                    else "nor for any other profile: 'tonnage plan' says what would hold"
                )
            )
        size = resolve(plan.candidate.size, catalogue)
        cell = (plan.candidate.variant, size.label, plan.candidate.threads)
        key = (*cell, *answer.demand.request)
        measured = [m for m in bundle.measurements if (*m.key, m.run.length) == key and m.valid]
        parts = [_profile(bundle, (*cell, b, answer.demand.length)) for b in answer.demand.batches]
        if plan.predicted:
            raise BadInput(
                f"the best plan stands on {plan.unmeasured_on(size.label, answer.demand)}, which "
                "was never measured; measure it first ('tonnage plan' says how), and nothing is "
                "exported on a guess"
            )
        found = [part for part in parts if part is not None]
        if not measured or len(found) < len(parts):
            raise BadInput(
                f"{plan.candidate.variant} on {size.label} has no valid measurement in this run, "
                "so nothing says what was in force; run the study again"
            )
        startups = [p.startup_s for p in found if p.startup_s is not None]
        deployment, advice = measured[-1].deployment, answer.autoscaling
        variant = deployment.variant
        name = f"{MODEL_FOLDER}/{PurePosixPath(variant.file).name}"
        return cls(
            demand=answer.demand,
            plan=plan,
            deployment=deployment.model_copy(
                update={
                    "replicas": plan.replicas,
                    "max_batch": plan.candidate.max_batch,
                    "variant": variant.model_copy(update={"file": name}),
                }
            ),
            source=variant.file,
            bought=catalogue[plan.candidate.instance] if _is_bought(plan) else None,
            grant=measured[-1].grant,
            environment=bundle.environment,
            startup_s=max(startups, default=0.0) or max(m.startup_s or 0.0 for m in measured),
            ingress_cpu_ms=_ingress_cpu_ms(answer.demand, found),
            config_hash=bundle.info.config_hash,
            autoscaling=advice if isinstance(advice, AutoscalingAdvice) else None,
            **_claimed(bundle, answer.demand.name),
        )

    @property
    def name(self) -> str:
        """Name of the model as it is served, in the form that Kubernetes takes."""
        return self.deployment.variant.model_name.replace("_", "-").lower()[:50]

    @property
    def image(self) -> str:
        """Name of the container image: of this model and no other."""
        return f"{self.name}:{self.deployment.variant.model_sha256[:12]}"

    @property
    def size(self) -> InstanceType:
        """The measured size of one replica."""
        return self.deployment.instance

    @property
    def replicas_on_one_machine(self) -> int:
        """Replicas that share a machine: those of one bought instance, or all on this host."""
        held = self.plan.candidate.replicas_per_instance
        return held if self.bought is not None else self.plan.replicas

    @property
    def whole_cpus(self) -> bool:
        """Whether a replica has CPUs of its own, rather than a share of time."""
        return self.size.enforcement == "cpuset"


def _claimed(bundle: Bundle, profile: str) -> dict[str, str]:
    """What was confirmed of the profile's plan, if anything was."""
    claim = next((one for one in bundle.claims if one.profile == profile), None)
    if claim is None:
        return {}
    why = no_longer(bundle, claim)
    return {
        "claim": f"lapsed, {'; '.join(why)}. It was: {claim.sentence}" if why else claim.sentence
    }


def _is_bought(plan: Plan) -> bool:
    return plan.candidate.instance != plan.candidate.size


def _profile(bundle: Bundle, key: tuple[str, str, int, int, int | None]) -> ServiceProfile | None:
    return next((p for p in bundle.profiles if _key(p) == key), None)


def _ingress_cpu_ms(demand: Demand, profiles: Sequence[ServiceProfile]) -> float:
    """CPU that the ingress spends on a request: of a mix the mean of its batch sizes, by weight."""
    if demand.mix is None:
        return profiles[0].ingress_cpu_ms
    return sum(demand.mix.shares[p.batch] * p.ingress_cpu_ms for p in profiles)


def _key(profile: ServiceProfile) -> tuple[str, str, int, int, int | None]:
    cell = (profile.variant.name, profile.instance.label, profile.threads)
    return (*cell, profile.batch, profile.length)
