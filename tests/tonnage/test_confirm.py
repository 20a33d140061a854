"""``tonnage confirm`` on a host made of paper: what is run, kept, judged, and refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Self

import numpy as np
import pytest

from loadtests.arrivals import Mix
from loadtests.histogram import Histogram
from loadtests.payloads import Payloads
from loadtests.records import CpuUse, Fault, FaultCode, LoadRun, Measurement, Throttling
from planner.claim import Claim, of_another_plan
from planner.profile import build_profiles
from planner.proving import ConfirmationRun
from planner.track_record import TrackPoint
from reports.bundle import CLAIMS, TRACK_RECORD, read_lines
from serving.errors import BadInput, InvalidMeasurement
from serving.instances import load_instances
from serving.placement import Placement
from serving.records import Deployment, Environment, Grant, TensorSpec
from serving.rows import Rows
from tonnage import cli_confirm, confirming, proofs
from tonnage import stage as stage_module
from tonnage.cells import Cell
from tonnage.config import load_study
from tonnage.confirming import RUNS, claim_name, confirm
from tonnage.planning import plan, study_demands
from tonnage.proofs import Proof, Wanted
from tonnage.redeploying import Redeploying
from tonnage.reproving import next_after
from tonnage.run_folder import RunFolder
from tonnage.stage import Stage, stage_of
from tonnage.study import StudyRun

from .conftest import ENVIRONMENT, PROFILES

Tonnage = Callable[..., CompletedProcess[str]]
GOOD, LATE = 0.006, 0.4


class PaperHost:
    """A host on which deployments answer as a script says."""

    def __init__(self, environment: Environment = ENVIRONMENT) -> None:
        self.placement = Placement((1, 2), (0,))
        self.tree = None
        self._environment = environment

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def environment(self) -> Environment:
        return self._environment


Answer = Callable[[LoadRun, int, bool], dict[str, Any]]


def good(run: LoadRun, number: int, kill: bool) -> dict[str, Any]:
    """All requests in time; the replica that was killed is missed."""
    gone = (Fault(code=FaultCode.REPLICA_CHANGED, detail="1 of 2"),) if kill else ()
    return {"late": 0, "faults": gone}


class Script:
    """Answers to the runs of a confirmation, and the runs that were made."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.made: list[tuple[LoadRun, bool]] = []
        self.deployments: list[Deployment] = []

    def drive(self, proof: Proof, run: LoadRun, number: int, *, kill: bool) -> Measurement:
        said = self.answer(run, number, kill)
        self.made.append((run, kill))
        self.deployments.append(proof.deployment)
        n = round(run.duration_s * (run.rate_rps or 0))
        times = Histogram.of([GOOD] * (n - said["late"]) + [LATE] * said["late"])
        return Measurement(
            id=f"c{len(self.made)}",
            sequence=number,
            started_at="2026-02-03T10:00:00+00:00",
            deployment=proof.deployment,
            grant=Grant(method="cgroup-v2", cpus=(1,), quota_cpus=None, memory_bytes=1 << 30),
            inference="thread",
            run=run,
            elapsed_s=run.duration_s,
            offered=n,
            ok=n,
            due_to_done=times,
            sent_to_done=times,
            dispatch_lag=Histogram.of([1e-4]),
            queue=Histogram.of([1e-5]),
            service=Histogram.of([0.005] * 100),
            cpu=CpuUse(replica_s=run.duration_s / 3, ingress_s=0.5, generator_s=1),
            throttling=Throttling(periods=0, throttled_periods=0, throttled_s=0),
            peak_memory_bytes=150 << 20,
            environment=ENVIRONMENT.content_hash(),
            faults=said["faults"],
        )


@pytest.fixture
def prove(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Claim]]:
    """Confirm a run by a script; verdicts take requests as independent."""
    monkeypatch.setattr(proofs, "enforces_quotas", lambda: True)
    monkeypatch.setattr(confirming, "_today", lambda: date(2026, 2, 4))
    judge = confirming.judge_confirmation

    def independent(*given: Any, **named: Any) -> Claim:
        return judge(*given, **(named | {"verdicts": ()}))

    monkeypatch.setattr(confirming, "judge_confirmation", independent)

    def run(
        folder: RunFolder, script: Script, profile: str | None = "steady", **wanted: Any
    ) -> list[Claim]:
        host = wanted.pop("host", PaperHost())
        monkeypatch.setattr(Redeploying, "drive", lambda _, *a, **k: script.drive(*a, **k))
        study, path = load_study(str(folder.path / "study.toml"))
        stage = Stage(
            host=lambda logs: host,
            payloads=lambda cell: Payloads.plain([b""]),
            workers=1,
        )
        values = {"kill": True, "this_host": True} | wanted
        return confirm(folder, study, path, stage, profile, Wanted(**values))

    return run


Prove = Callable[..., list[Claim]]
Runs = Callable[..., RunFolder]


@pytest.fixture
def one_replica(stub_run: Runs) -> RunFolder:
    """A run whose plan is one replica at 20 req/s."""
    folder = demanding(stub_run("sim-1", prices=False), 20)
    assert replicas_of(folder) == 1
    return folder


def demanding(folder: RunFolder, rate_rps: float, spare: int = 0, more: str = "") -> RunFolder:
    """The same run, planned for another rate, perhaps with a replica to spare."""
    profiles = folder.path / "profiles.toml"
    steady, _, absurd = PROFILES.partition("[absurd]")
    steady = steady.replace("rate_rps = 60", f"rate_rps = {rate_rps}")
    profiles.write_text(f"{steady}spare_replicas = {spare}\n{more}\n[absurd]{absurd}")
    study, path = load_study(str(folder.path / "study.toml"))
    _, answers, _ = plan(folder, study, path, study_demands(study, path))
    folder.write_lines("recommendations.jsonl", answers)
    return folder


def replicas_of(folder: RunFolder) -> int:
    """How many the plan has."""
    best = folder.bundle().recommendations[0].best
    assert best is not None
    return best.replicas


def test_a_plan_that_holds_is_proven(one_replica: RunFolder, prove: Prove) -> None:
    """Three redeployments, each with a schedule of its own; claim, track record, report."""
    folder, script = one_replica, Script(good)
    (claim,) = prove(folder, script)
    assert claim.verdict == "holds"
    assert claim.sentence == (
        "p99 <= 200 ms at 20 req/s on 1 x sim-1 (cpuset) with stub: holds at 99 %, n = 7,200, "
        "0 over, 3 deployments; no replica was killed: one replica only"
    )
    assert len({run.seed for run, _ in script.made}) == len(script.made) == 3
    assert all(run.rate_rps == 20 for run, _ in script.made)
    assert claim.confirmed_on == date(2026, 2, 3)
    assert claim.predicted is not None
    written = Claim.model_validate_json((folder.path / CLAIMS / "steady.json").read_text())
    assert written == claim
    (point,) = read_lines(folder.path / TRACK_RECORD, TrackPoint)
    assert (point.workload, point.verdict, point.rate_rps) == ("test", "holds", 20)
    report = (folder.path / "report.md").read_text()
    assert "Proven" in report
    assert "The planner's track record" in report


def test_what_was_run_is_not_run_again(one_replica: RunFolder, prove: Prove) -> None:
    """Interrupted after two runs: the third alone is made. Whole: none is, and nothing doubles."""
    folder = one_replica

    def interrupted(run: LoadRun, number: int, kill: bool) -> dict[str, Any]:
        if number == 2:
            raise KeyboardInterrupt
        return good(run, number, kill)

    with pytest.raises(KeyboardInterrupt):
        prove(folder, Script(interrupted))
    assert not (folder.path / CLAIMS).exists()
    rest = Script(good)
    (claim,) = prove(folder, rest)
    assert (len(rest.made), claim.deployments) == (1, 3)
    again = Script(good)
    assert prove(folder, again) == [claim]
    assert again.made == []
    assert len(read_lines(folder.path / TRACK_RECORD, TrackPoint)) == 1
    fresh = Script(good)
    prove(folder, fresh, fresh=True)
    assert len(fresh.made) == 3
    assert len(read_lines(folder.path / RUNS, ConfirmationRun)) == 3


def test_runs_of_half_a_year_ago_prove_nothing_today(
    one_replica: RunFolder, prove: Prove, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken up on the last day on which a claim by them stands, made again on the next."""
    prove(one_replica, Script(good))
    for day, made in ((date(2026, 8, 2), 0), (date(2026, 8, 3), 3)):
        monkeypatch.setattr(confirming, "_today", lambda day=day: day)
        script = Script(good)
        prove(one_replica, script)
        assert len(script.made) == made, day


def test_another_plan_begins_anew(one_replica: RunFolder, prove: Prove) -> None:
    """Runs are kept by what they prove: a demand that changed finds none of them."""
    folder = one_replica
    prove(folder, Script(good))
    demanding(folder, 25)
    script = Script(good)
    prove(folder, script)
    assert len(script.made) == 3


def test_a_replica_is_killed_where_there_is_another(stub_run: Runs, prove: Prove) -> None:
    """At the rate that leaves the other what the whole plan would; --no-kill leaves it open."""
    folder = demanding(stub_run("sim-1", prices=False), 120, spare=1)
    assert replicas_of(folder) > 2
    script = Script(good)
    (claim,) = prove(folder, script)
    assert [kill for _, kill in script.made] == [False, False, False, True]
    loss = script.made[-1][0]
    assert loss.duration_s >= 20
    assert claim.killed is not None
    assert claim.killed_rps == pytest.approx(120 * 1 / (claim.replicas - 1))
    assert claim.held_replicas == 2
    assert {d.replicas for d in script.deployments} == {2}
    assert "; with a replica killed" in claim.sentence
    (kept,) = prove(folder, Script(good), kill=False)
    assert kept.killed is not None, "it was killed earlier, and that run is kept"
    (open_,) = prove(folder, Script(good), kill=False, fresh=True)
    assert open_.verdict == "undecided"
    assert open_.sentence.endswith("; no replica was killed: --no-kill")


def test_a_plan_that_fails_says_what_instead(stub_run: Runs, prove: Prove) -> None:
    """The first deployment that fails for certain ends it; the next plan is another one."""
    folder = stub_run("sim-0.5", "sim-1", prices=False)
    script = Script(lambda run, number, kill: {"late": 300, "faults": ()})
    (claim,) = prove(folder, script)
    assert (claim.verdict, claim.deployments, len(script.made)) == ("fails", 1, 1)
    assert claim.instead.startswith("with these runs as evidence ")
    assert claim.instead.endswith("not proven yet")
    failed = f"{claim.replicas} x {claim.candidate.size},"
    assert failed not in claim.instead
    (point,) = read_lines(folder.path / TRACK_RECORD, TrackPoint)
    assert (point.verdict, point.inside) == ("fails", False)


def test_a_claim_that_fails_elsewhere_says_what_instead(
    stub_run: Runs, prove: Prove, tmp_path: Path
) -> None:
    """The next plan of the run around it; at a higher rate, or alone, where to ask for one."""
    folder = stub_run("sim-0.5", "sim-1", prices=False)
    (claim,) = prove(folder, Script(good))
    path = folder.path / CLAIMS / "steady.json"
    said = next_after(path, claim, claim.rate_rps)
    assert said.startswith("by the same records ")
    assert f"{claim.replicas} x {claim.candidate.size}," not in said
    assert said.endswith("; not proven yet")
    faster = next_after(path, claim, 2 * claim.rate_rps)
    assert faster.endswith(
        f"tonnage plan {folder.path} --rate {2 * claim.rate_rps:g} --profile steady"
    )
    assert "tonnage plan RUN" in next_after(tmp_path / "claims" / "x.json", claim, claim.rate_rps)


def test_an_undecided_plan_goes_on(one_replica: RunFolder, prove: Prove) -> None:
    """One late in 130 proves nothing of 3 x 500; further deployments do, within the budget."""

    def near(run: LoadRun, number: int, kill: bool) -> dict[str, Any]:
        return {"late": round(run.duration_s * (run.rate_rps or 0) / 200), "faults": ()}

    folder, script = one_replica, Script(near)
    (claim,) = prove(folder, script, requests=500)
    assert claim.verdict == "holds"
    assert claim.deployments == len(script.made) > 3
    assert claim.looks == len(script.made) - 2
    (short,) = prove(folder, Script(near), requests=500, fresh=True, budget_s=20)
    assert (short.verdict, short.deployments) == ("undecided", 3)
    assert short.more_requests is not None


def test_an_undecided_loss_goes_on(stub_run: Runs, prove: Prove) -> None:
    """One late in 130 after a loss proves nothing at first; all such runs together do."""

    def near(run: LoadRun, number: int, kill: bool) -> dict[str, Any]:
        lost = (Fault(code=FaultCode.REPLICA_CHANGED, detail="1 of 2 ended"),)
        late = round(run.duration_s * (run.rate_rps or 0) / 200) if kill else 0
        return {"late": late, "faults": lost if kill else ()}

    folder, script = demanding(stub_run("sim-1", prices=False), 120, spare=1), Script(near)
    (claim,) = prove(folder, script, requests=500)
    losses = [kill for _, kill in script.made if kill]
    assert (claim.verdict, claim.deployments) == ("holds", 3)
    assert claim.losses == len(losses) > 1


def test_looks_cannot_be_had_anew(one_replica: RunFolder, prove: Prove) -> None:
    """More deployments asked for are more looks, and what --fresh throws away is counted."""
    looks = [prove(one_replica, Script(good), deployments=n)[0].looks for n in (3, 4, 5)]
    assert looks == [1, 2, 3]
    (again,) = prove(one_replica, Script(good), fresh=True)
    assert (again.looks, again.discarded) == (4, 1)
    assert "3 deployments after 1 discarded attempt;" in again.sentence
    (third,) = prove(one_replica, Script(good), fresh=True)
    assert (third.looks, third.discarded) == (5, 2)


def test_what_cannot_be_believed_is_repeated_twice(one_replica: RunFolder, prove: Prove) -> None:
    """A third time in a row ends it; what was good before is kept."""
    noise = (Fault(code=FaultCode.NOISY_HOST, detail="12 % steal"),)
    folder, seen = one_replica, list[int]()

    def noisy(times: int) -> Answer:
        def answer(run: LoadRun, number: int, kill: bool) -> dict[str, Any]:
            seen.append(number)
            bad = number == 1 and seen.count(1) <= times
            return {"late": 0, "faults": noise if bad else ()}

        return answer

    with pytest.raises(InvalidMeasurement, match="3 runs in a row cannot be believed"):
        prove(folder, Script(noisy(99)))
    assert seen == [0, 1, 1, 1]
    seen.clear()
    (claim,) = prove(folder, Script(noisy(2)))
    assert (claim.verdict, seen) == ("holds", [1, 1, 1, 2])


def test_records_of_elsewhere_are_refused(stub_run: Runs, prove: Prove) -> None:
    """Another environment: one line that says what changed, before anything is started."""
    folder = stub_run("sim-1", prices=False)
    packages = ENVIRONMENT.packages | {"ray": "3.0"}
    for change, says in (
        ({"packages": packages}, r"ray 2\.60\.0 became 3\.0"),
        ({"kernel": "7.0"}, "memory, kernel, CPUs or limits"),
    ):
        elsewhere = PaperHost(ENVIRONMENT.model_copy(update=change))
        with pytest.raises(InvalidMeasurement, match=says):
            prove(folder, Script(good), host=elsewhere)
    folder.write_one("environment.json", ENVIRONMENT.model_copy(update={"kernel": "7.0"}))
    with pytest.raises(InvalidMeasurement, match="the run's measurements come from environments"):
        prove(folder, Script(good))


def test_a_model_that_changed_is_refused(stub_run: Runs, prove: Prove) -> None:
    """The file that was measured, or none: with both hashes, or its path."""
    folder = stub_run("sim-1", prices=False)
    (variant,) = folder.bundle().variants
    Path(variant.file).write_text('{"busy_ms": 1}')
    with pytest.raises(BadInput, match=f"changed since it was measured.*{variant.sha256[:12]}"):
        prove(folder, Script(good))
    Path(variant.file).unlink()
    with pytest.raises(BadInput, match="is gone; run the study again"):
        prove(folder, Script(good))


def test_a_cloud_plan_is_held_in_part(stub_run: Runs, prove: Prove) -> None:
    """The share of the best plan that fits here, said as what it is."""
    folder, script = stub_run("sim-0.5"), Script(good)
    (claim,) = prove(folder, script, this_host=False)
    assert claim.candidate.instance in load_instances(folder.path / "instances.toml")
    assert claim.candidate.instance != claim.candidate.size
    assert any("recommended on" in line for line in claim.differs)
    assert claim.held_rps == pytest.approx(60 * claim.held_replicas / claim.replicas)


@pytest.mark.parametrize(
    ("predicted", "named"),
    [
        ("predicted_size", "stands on sim-1"),
        ("predicted_batch", "stands on batch 1 on sim-1"),
        ("predicted_length", "stands on 64 tokens on sim-1"),
    ],
)
def test_what_was_never_measured_is_not_deployed(
    stub_run: Runs, prove: Prove, predicted: str, named: str
) -> None:
    """Its plan is a prediction about a prediction, and running the study again cures nothing."""
    folder = stub_run("sim-1", prices=False)
    first, *others = folder.bundle().recommendations
    assert first.best is not None
    guess = first.best.model_copy(update={predicted: "from others"})
    asked = first.demand.model_copy(update={"length": 64})
    first = first.model_copy(update={"best": guess, "demand": asked})
    folder.write_lines("recommendations.jsonl", [first, *others])
    with pytest.raises(BadInput, match=f"{named}.*was never measured; measure it first"):
        prove(folder, Script(good), this_host=False)


def test_all_objectives_and_the_budget_are_proven(stub_run: Runs, prove: Prove) -> None:
    """More requests where the strictest takes more; the one that fails ends it, and is named."""
    folder = stub_run("sim-1", prices=False)
    more = "more_slos = [{ quantile = 0.5, limit_ms = 100 }]\nerror_budget = 0.005"
    demanding(folder, 20, more=more)
    script = Script(good)
    (claim,) = prove(folder, script)
    assert claim.verdict == "holds"
    assert "; p50 <= 100 ms: holds, 0 over; at most 0.5 % fail: holds, 0 over" in claim.sentence
    assert all(run.duration_s * 20 > 2400 for run, _ in script.made), "as many as a p99 takes"
    demanding(folder, 20, more="more_slos = [{ quantile = 0.999, limit_ms = 250 }]")
    (claim,) = prove(folder, Script(lambda *_: {"late": 20, "faults": ()}))
    assert claim.verdict == "fails"
    assert claim.reason == "p99.9 <= 250 ms does not hold"
    assert claim.judged.verdict != "fails"


def test_a_plan_that_shares_calls_is_deployed_so(stub_run: Runs, prove: Prove) -> None:
    """Up to four requests a call, as planned; the claim says it, and is about that plan alone."""
    folder = stub_run("sim-1", prices=False)
    demanding(folder, 20)
    first, *others = folder.bundle().recommendations
    assert first.best is not None
    shared = first.best.candidate.model_copy(update={"max_batch": 4})
    best = first.best.model_copy(update={"candidate": shared})
    folder.write_lines("recommendations.jsonl", [first.model_copy(update={"best": best}), *others])
    script = Script(good)
    (claim,) = prove(folder, script)
    assert claim.verdict == "holds"
    assert {d.max_batch for d in script.deployments} == {4}
    assert ", up to 4 requests a call: holds" in claim.sentence
    assert claim.predicted is None, "the run has no law across batch sizes"
    assert of_another_plan(claim, first.demand, [best]) == []
    assert of_another_plan(claim, first.demand, [first.best]) == ["another plan is recommended now"]


MIX = Mix(batches=(1, 8), weights=(3, 1))


def test_a_mix_is_driven_and_said(mixed_run: Runs, prove: Prove) -> None:
    """Every run asks for it, with a replica killed, too; claim, file and track record name it."""
    script = Script(good)
    folder = mixed_run(rate_rps=20)
    (claim,) = prove(folder, script)
    assert claim.sentence == (
        "p99 <= 200 ms at 20 req/s of batch 1 (75 %), 8 (25 %) on 1 x sim-1 (cpuset) with stub: "
        "holds at 99 %, n = 7,200, 0 over, 3 deployments; no replica was killed: one replica only"
    )
    assert {(run.batch, run.mix) for run, _ in script.made} == {(8, MIX)}
    assert claim.predicted is not None
    written = (folder.path / CLAIMS / "steady.json").read_text()
    assert Claim.model_validate_json(written) == claim
    (point,) = read_lines(folder.path / TRACK_RECORD, TrackPoint)
    assert point.mix == MIX
    assert "batch 1 (75 %), 8 (25 %) at 20 req/s" in (folder.path / "report.md").read_text()
    assert prove(folder, Script(good)) == [claim]


def test_a_mix_is_driven_when_a_replica_is_killed(mixed_run: Runs, prove: Prove) -> None:
    """The loss is one of the mix as well."""
    script = Script(good)
    (claim,) = prove(mixed_run(rate_rps=60), script)
    assert [(run.mix, kill) for run, kill in script.made] == [(MIX, k) for k in (0, 0, 0, 1)]
    assert (claim.held_replicas, claim.killed is not None) == (2, True)


def test_a_mix_that_fails_teaches_its_mixture(mixed_run: Runs, prove: Prove) -> None:
    """Late in a single replica at this load: what is offered instead has more of them."""
    script = Script(lambda run, number, kill: {"late": 300, "faults": ()})
    folder = mixed_run(rate_rps=20)
    (claim,) = prove(folder, script)
    assert (claim.verdict, claim.replicas) == ("fails", 1)
    assert claim.instead.startswith("with these runs as evidence ")
    assert "1 x sim-1," not in claim.instead
    study, path = load_study(str(folder.path / "study.toml"))
    demands = [d for d in study_demands(study, path) if d.mix]
    runs = [run.measurement for run in read_lines(folder.path / RUNS, ConfirmationRun)]
    before, after = (plan(folder, study, path, demands, evidence=e)[1][0] for e in ([], runs))
    assert before.best is not None
    assert before.best.replicas == 1
    assert after.best is None or after.best.replicas > 1


def test_nothing_to_prove_is_said(stub_run: Runs, prove: Prove) -> None:
    """No candidate holds, an unknown profile, no plan in the host's own sizes."""
    folder = stub_run("sim-1", prices=False)
    with pytest.raises(BadInput, match=r"no candidate holds \[absurd\]"):
        prove(folder, Script(good), "absurd")
    with pytest.raises(BadInput, match="--profile nope: unknown; known are steady, absurd"):
        prove(folder, Script(good), "nope")
    (claim,) = prove(folder, Script(good), None)
    assert claim.profile == "steady", "every profile that has a plan"
    folder.write_lines("recommendations.jsonl", [])
    with pytest.raises(BadInput, match="holds no recommendation"):
        prove(folder, Script(good))


def test_a_claim_of_any_profile_has_a_file_name() -> None:
    """A profile's name may hold whatever TOML allows."""
    assert claim_name("real-time") == "real-time.json"
    assert claim_name("../a b") == ".._a_b.json"


def test_rows_are_drawn_at_the_length_demanded(stub_run: Runs, prove: Prove) -> None:
    """Each run is of it, and so is the claim."""
    folder = stub_run("sim-1", prices=False)
    made = [
        m.model_copy(update={"run": m.run.model_copy(update={"length": 64})})
        for m in folder.bundle().measurements
    ]
    folder.write_lines("measurements.jsonl", made)
    study = folder.path / "study.toml"
    study.write_text(study.read_text().replace("[measure]\n", "[measure]\nlengths = [64]\n"))
    folder.write_lines("profiles.jsonl", build_profiles(made)[0])
    script = Script(good)
    (claim,) = prove(demanding(folder, 20), script)
    assert {run.length for run, _ in script.made} == {64}
    assert " req/s of 64 tokens on 1 x sim-1" in claim.sentence
    assert claim.verdict == "holds"
    assert claim.predicted is not None


def test_a_stage_has_rows_of_every_length(
    stub_run: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The workload's own at that length; those of a payload have to be of it."""
    drawn: list[Rows] = []
    monkeypatch.setattr(stage_module, "make_payloads", lambda _, rows, *__: drawn.append(rows))
    folder = stub_run("sim-1")
    study, _ = load_study("bert_base")
    (variant,) = folder.bundle().variants
    deployment = folder.bundle().measurements[0].deployment
    ours = variant.model_copy(update={"workload": "bert_base"})
    for length in (None, 64):
        stage_of(study, ours, None).payloads(Cell(deployment, 1, length=length))
    assert [rows["input_ids"].shape[1] for rows in drawn] == [128, 64]
    spec = TensorSpec(name="input_ids", datatype="INT64", shape=(-1, -1))
    np.savez(tmp_path / "rows.npz", input_ids=np.ones((4, 32), np.int64))
    given = stage_of(study, ours.model_copy(update={"inputs": (spec,)}), tmp_path / "rows.npz")
    given.payloads(Cell(deployment, 1, length=32))
    with pytest.raises(
        BadInput, match=r"rows.npz: 'input_ids' has shape \[4, 32\], and rows of 64"
    ):
        given.payloads(Cell(deployment, 1, length=64))


def test_a_stage_from_the_folder_has_rows(stub_run: Runs) -> None:
    """A model that is no workload of ours gets generated rows, and the claim says so."""
    folder = stub_run("sim-1")
    study, _ = load_study(str(folder.path / "study.toml"))
    (variant,) = folder.bundle().variants
    stage = stage_of(study, variant, None)
    assert study.workload == "credit"
    assert variant.workload == "test"
    assert "generated rows" in stage.differs[0]
    payloads = stage.payloads(Cell(folder.bundle().measurements[0].deployment, 3))
    assert {answer["sums"].shape for answer in payloads.expected} == {(3, 1)}
    with pytest.raises(BadInput, match="with --confirm"):
        stage_of(study, variant.model_copy(update={"runtime": "command"}), None)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--profile", "nope"], "known are steady, absurd"),
        (["--profile", "absurd"], "no candidate holds [absurd]"),
        (["--requests", "500", "--duration", "10s"], "--requests or --duration"),
        (["--duration", "soon"], "--duration soon"),
        (["--deployments", "2"], "--deployments"),
        (["--name", "m"], "--name belongs to --endpoint"),
        (["--insecure"], "--insecure belongs to --endpoint"),
        (["--cacert", "ca.pem"], "--cacert belongs to --endpoint"),
        (["--key", "our.key"], "--key belongs to --endpoint"),
        (["--no-kill", "--endpoint", "http://127.0.0.1:9"], "--no-kill belongs to a run"),
    ],
)
def test_bad_options_are_one_line(
    stub_run: Runs, tonnage: Tonnage, arguments: list[str], named: str
) -> None:
    """Exit code 2, and what to change."""
    done = tonnage("confirm", stub_run().path, *arguments)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_files_are_one_line(stub_run: Runs, tonnage: Tonnage, tmp_path: Path) -> None:
    """No run, no claim, a claim without a server, records of another host: 2, 2, 2, 3."""
    folder = stub_run("sim-1", prices=False)
    (tmp_path / "other.json").write_text('{"verdict": "holds"}')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    to = ("--endpoint", "http://127.0.0.1:9")
    cases = [
        (["nowhere"], 2, "holds no run"),
        (["other.json"], 2, "--endpoint URL"),
        (["other.json", *to], 2, "no claim that can be read"),
        (["bytes.json", *to], 2, "no claim"),
        (["absent.json", *to], 2, "no such file; give a claim"),
        ([folder.path, *to], 2, "no such file; give a claim"),
        ([folder.path], 3, "measurements of another environment"),
    ]
    for arguments, code, says in cases:
        done = tonnage("confirm", *arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert says in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert len([x for x in done.stderr.splitlines() if x.startswith("tonnage: ")]) == 1
    assert not (folder.path / CLAIMS).exists()


def test_an_interrupted_proof_of_a_run_says_how_to_go_on(
    one_replica: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study of ``run --confirm`` is finished by then: the same command would begin anew."""

    def interrupted(*_: object) -> list[Claim]:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_confirm, "_prove", interrupted)
    study, path = load_study(str(one_replica.path / "study.toml"))
    with pytest.raises(KeyboardInterrupt):
        cli_confirm.prove_too(StudyRun(study, path, one_replica), None, False)
    assert f"tonnage confirm {one_replica.path}\n" in capsys.readouterr().err
    assert cli_confirm.prove_too(StudyRun(study, path, one_replica), 5.0, False)
    assert "no time left to prove it" in capsys.readouterr().err
