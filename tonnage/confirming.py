"""Proving a recommendation: its share that fits here is deployed anew, driven, and judged.

Reads as the story it is: run what was not run yet, judge, go on while it is undecided and
there is time, and leave the claim. Each run is kept in the run's folder, so an interrupted
confirmation goes on with the next one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from loadtests.records import LoadRun, Measurement
from planner.claim import LAPSE_AFTER_DAYS, Claim
from planner.confirm import judge_confirmation, unbelievable_loss
from planner.host_pace import another_pace, pace
from planner.pooled import unbelievable
from planner.proving import ConfirmationRun, Discarded, fails_alone, look_of, recommend_instead
from planner.recommend import best_on_host
from planner.records import Plan
from planner.track_record import TrackPoint, TrackRecord
from reports import words
from reports.bundle import CLAIMS, Bundle, track_record_path
from reports.write import write_reports
from serving.errors import InvalidMeasurement
from serving.instances import load_instances
from serving.records import Environment
from tonnage.cells import DEPLOY_S
from tonnage.config import Study, beside
from tonnage.durations import in_words
from tonnage.planning import plan as plan_again
from tonnage.progress import Steps
from tonnage.proofs import Proof, Wanted, check_records, chosen, make_proof
from tonnage.redeploying import START_S, Redeploying
from tonnage.run_folder import RunFolder
from tonnage.stage import Stage

RUNS = "confirmations.jsonl"
DISCARDED = "discarded.jsonl"
REPEATS = 2
REPORT_S = 3.0
_SEED_STEP = 7919  # each run has a schedule of its own
_LOSS = 1000  # the number of the run that loses a replica, far from all others
_FAILED_BEFORE = "a deployment had failed by itself"
_NO_CEILING = "the run did not measure what generator and ingress carry, so a latency may be theirs"

Kind = Literal["deployment", "killed"]


def confirm(
    folder: RunFolder,
    study: Study,
    study_path: Path,
    stage: Stage,
    profile: str | None,
    wanted: Wanted,
) -> list[Claim]:
    """Prove the recommendations of a run, one profile after the other, and report them.

    All that can be refused is refused before anything is started. Raises BadInput,
    InvalidMeasurement and what a host may raise.
    """
    bundle = folder.bundle()
    answers = chosen(bundle, profile)
    host = stage.host(folder.path / "logs")
    environment = host.environment()
    check_records(bundle, environment)
    catalogue = load_instances(beside(study_path, study.plan.instances))
    proofs = [
        make_proof(bundle, answer, catalogue, stage, host.placement, environment, wanted)
        for answer in answers
    ]
    total = START_S + sum(proof.estimate_s for proof in proofs) + REPORT_S
    with Steps(total) as steps:
        many = " and ".join(f"[{proof.demand.name}]" for proof in proofs)
        steps.say(f"proving {many}: about {in_words(total)}, more while undecided")
        with Redeploying(
            host=host,
            stage=stage,
            floors=bundle.measurements,
            logs=folder.path / "logs",
            steps=steps,
        ) as redeploying:
            confirming = Confirming(
                folder=folder,
                study=study,
                study_path=study_path,
                bundle=bundle,
                environment=environment,
                redeploying=redeploying,
                differs=stage.differs,
                wanted=wanted,
                steps=steps,
            )
            claims = [confirming.prove(proof) for proof in proofs]
        steps.step("writing the reports", REPORT_S)
        write_reports(folder.path)
    return claims


@dataclass(kw_only=True)
class Confirming:
    """Proves plans, one :class:`Proof` after the other.

    Nothing is started while all that is needed was kept.
    """

    folder: RunFolder
    study: Study
    study_path: Path
    bundle: Bundle
    environment: Environment
    redeploying: Redeploying
    differs: tuple[str, ...]
    wanted: Wanted
    steps: Steps

    def prove(self, proof: Proof) -> Claim:
        """Run, judge, and keep the claim and what it says of the planner.

        InvalidMeasurement when a run cannot be believed however often it is repeated.
        """
        begun = time.monotonic()
        runs, losses = self._kept(proof)
        protocol = proof.protocol
        failed = any(self._fails(proof, run) for run in runs)
        while len(runs) < protocol.deployments and not failed:
            runs.append(self._run(proof, "deployment", len(runs), protocol.requests))
            failed = self._fails(proof, runs[-1])
        if protocol.killed_rps and not losses and not failed:
            requests = round(protocol.killed_s * protocol.killed_rps)
            losses.append(self._run(proof, "killed", _LOSS, requests))
        while True:
            claim = self._judge(proof, runs, losses)
            left_s = self.wanted.budget_s - (time.monotonic() - begun) - DEPLOY_S
            more = protocol.further(claim, left_s)
            lost = protocol.further_loss(claim, left_s)
            if more is not None:
                self.steps.say(f"undecided: about {claim.more_requests:,} more requests are needed")
                runs.append(self._run(proof, "deployment", len(runs), more))
            elif lost is not None and claim.more_requests is None:
                self.steps.say(
                    f"undecided: about {claim.more_lost_requests:,} more requests are needed after "
                    "the loss of a replica"
                )
                losses.append(self._run(proof, "killed", _LOSS + len(losses), lost))
            else:
                return self._keep(proof, claim, runs)

    def _kept(self, proof: Proof) -> tuple[list[Measurement], list[Measurement]]:
        """Runs of this proof that were finished earlier: redeployments, and losses."""
        kept = self.folder.records(RUNS, ConfirmationRun)
        own = [run for run in kept if run.key == proof.key and not _lapsed(run)]
        good = [run for run in own if _why_not(run) is None]
        if self.wanted.fresh:
            if good:  # noted before it is done: whoever begins anew has looked all the same
                looks = look_of(sum(run.kind == "deployment" for run in good))
                self.folder.append(DISCARDED, Discarded(key=proof.key, looks=looks))
            self.folder.write_lines(RUNS, [run for run in kept if run.key != proof.key])
            return [], []
        if good:
            self.steps.say(f"{len(good)} finished runs of [{proof.demand.name}] are taken up again")
        runs = [run.measurement for run in good if run.kind == "deployment"]
        return runs, [run.measurement for run in good if run.kind == "killed"]

    def _discarded(self, proof: Proof) -> list[Discarded]:
        found = self.folder.records(DISCARDED, Discarded)
        return [attempt for attempt in found if attempt.key == proof.key]

    def _look(self, proof: Proof, deployments: int) -> int:
        return look_of(deployments) + sum(attempt.looks for attempt in self._discarded(proof))

    def _fails(self, proof: Proof, run: Measurement) -> bool:
        planned = proof.protocol.deployments
        return fails_alone(run, proof.demand.objectives, planned, self._look(proof, planned))

    def _run(self, proof: Proof, kind: Kind, number: int, requests: int) -> Measurement:
        """One redeployment that can be believed; repeated when it cannot."""
        protocol = proof.protocol
        rate = (protocol.killed_rps if kind == "killed" else None) or protocol.held_rps
        what = "with a replica killed" if kind == "killed" else f"deployment {number + 1}"
        why: str | None = None
        for attempt in range(1 + REPEATS):
            again = f"; again, for {why}" if why else ""
            self.steps.step(
                f"confirm [{proof.demand.name}], {what}: {requests:,} requests at "
                f"{rate:,.6g} req/s{again}",
                requests / rate + DEPLOY_S,
            )
            seed = self.bundle.info.seed + _SEED_STEP * (1 + number) + attempt
            run = LoadRun(
                mode="open",
                batch=proof.demand.batch,
                mix=proof.demand.mix,
                length=proof.demand.length,
                duration_s=requests / rate,
                rate_rps=rate,
                seed=seed,
                timeout_s=max(10.0, 3e-3 * max(s.limit_ms for s in proof.demand.slos)),
            )
            made = self.redeploying.drive(proof, run, number, kill=kind == "killed")
            kept = ConfirmationRun(key=proof.key, kind=kind, measurement=made)
            self.folder.append(RUNS, kept)
            why = _why_not(kept)
            if why is None:
                return made
        raise InvalidMeasurement(
            f"[{proof.demand.name}] cannot be confirmed: {1 + REPEATS} runs in a row cannot be "
            f"believed, the last one for {why}"
        )

    def _judge(
        self, proof: Proof, runs: Sequence[Measurement], losses: Sequence[Measurement]
    ) -> Claim:
        verdicts = [v for run in runs for v in run.verdicts if v.slo == proof.demand.slo]
        newest = max(run.started_at for run in (*runs, *losses))
        changed = another_pace(pace(runs, self.bundle.measurements))
        unknown = () if all(run.carried_rps for run in runs) else (_NO_CEILING,)
        return judge_confirmation(
            runs,
            proof.demand,
            proof.plan,
            self.environment,
            config_hash=self.bundle.info.config_hash,
            confirmed_on=date.fromisoformat(newest[:10]),
            killed=losses,
            not_killed=proof.not_killed or _FAILED_BEFORE,
            verdicts=verdicts,
            predicted=proof.predicted,
            look=self._look(proof, len(runs)),
            discarded=len(self._discarded(proof)),
            differs=(*self.differs, *([changed] if changed else []), *unknown),
        )

    def _keep(self, proof: Proof, claim: Claim, runs: Sequence[Measurement]) -> Claim:
        """Write the claim into the run's folder, and its point into the track record."""
        if claim.verdict == "fails":
            claim = claim.model_copy(update={"instead": self._instead(proof, runs)})
        claims = RunFolder(self.folder.path / CLAIMS)
        claims.path.mkdir(exist_ok=True)
        claims.write_one(claim_name(proof.demand.name), claim)
        point = TrackPoint.of(claim, proof.deployment.variant.workload)
        path = track_record_path(self.folder.path, self.bundle.info.name)
        record = RunFolder(path.parent)
        known = TrackRecord(points=record.records(path.name, TrackPoint))
        if point is not None and known.lacks(point):
            record.append(path.name, point)
        return claim

    def _instead(self, proof: Proof, runs: Sequence[Measurement]) -> str:
        """One sentence: the next candidate that the records do not contradict."""
        _, (answer,), _ = plan_again(
            self.folder, self.study, self.study_path, [proof.demand], evidence=runs
        )
        if self.wanted.this_host:
            here = [p for p in answer.alternatives if p.candidate.instance == p.candidate.size]
            update = {"best": best_on_host(answer), "alternatives": tuple(here)}
            answer = answer.model_copy(update=update)
        note = "" if answer.best else answer.note
        plan = recommend_instead(answer, proof.plan.candidate, proof.plan.replicas)
        return instead_in_words(plan, note)


def claim_name(profile: str) -> str:
    """Name of a profile's claim among the claims of its run."""
    return re.sub(r"[^\w.-]", "_", profile) + ".json"


def instead_in_words(plan: Plan | None, note: str) -> str:
    """What is recommended after a claim has failed, in one sentence."""
    if plan is None:
        return f"with these runs as evidence no other candidate holds. {note}".strip()
    return f"with these runs as evidence {unproven(plan)}"


def unproven(plan: Plan) -> str:
    """A plan that might do what another did not, in half a sentence."""
    said = (words.configuration(plan), words.latency(plan), words.cost(plan), "not proven yet")
    return "; ".join(said)


def _lapsed(run: ConfirmationRun) -> bool:
    """Whether a claim that stood on this run would have lapsed by its age."""
    made = date.fromisoformat(run.measurement.started_at[:10])
    return (_today() - made).days > LAPSE_AFTER_DAYS


def _today() -> date:
    return date.today()


def _why_not(run: ConfirmationRun) -> str | None:
    made = run.measurement
    return unbelievable_loss(made) if run.kind == "killed" else unbelievable(made)
