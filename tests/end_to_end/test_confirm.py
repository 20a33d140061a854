"""``tonnage confirm`` through the real Ray Serve, HAProxy and Locust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.claim import Claim
from planner.proving import ConfirmationRun
from planner.records import Plan
from planner.track_record import TrackPoint
from reports.bundle import CLAIMS, TRACK_RECORD, read_lines
from serving.host_facts import environment
from serving.ray_host.client import RayHost
from serving.records import Variant
from serving.stub_variant import stub_variant
from tonnage.confirming import RUNS
from tonnage.run_folder import RunFolder

from ..tonnage.conftest import write_run

pytestmark = pytest.mark.slow

NOISE = ("cores_shared", "noisy_host", "dispatch_lag", "generator_at_limit")


def tonnage(cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "tonnage", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ,
        timeout=300,
    )


def confirmed(cwd: Path, folder: RunFolder, *arguments: object) -> list[Claim] | None:
    """The claims; None on a host so noisy that no run could be believed; only that."""
    done = tonnage(cwd, "confirm", folder.path, *arguments, "--json")
    runs = [kept.measurement for kept in read_lines(folder.path / RUNS, ConfirmationRun)]
    assert all(run.ok for run in runs), "no noise is so loud that nothing is answered"
    if done.returncode == 3:
        last = done.stderr.splitlines()[-1]
        assert "3 runs in a row cannot be believed" in last
        assert any(f"the last one for {code}: " in last for code in NOISE), last
        return None
    assert done.returncode in (0, 1), done.stderr
    claims = [Claim.model_validate(one) for one in json.loads(done.stdout)]
    holds = all(claim.verdict == "holds" for claim in claims)
    assert (done.returncode == 0) == holds
    return claims


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of a 5 ms stub as if it had been measured here: 60 req/s on one half of a CPU."""
    host = RayHost(tmp_path / "ray.log")
    if host.tree is None:
        pytest.skip("no permission for control groups here")
    here = environment(host.placement, host.enforcement)
    variant: Variant = stub_variant(tmp_path / "models", 5.0)
    made = write_run(tmp_path / "run", variant, ["sim-0.5"], prices=False)
    made.write_one("environment.json", here)
    moved = [m.model_copy(update={"environment": here.content_hash()}) for m in made.measurements()]
    made.write_lines("measurements.jsonl", moved)
    return made


def demand(folder: RunFolder, **rates_rps: float) -> None:
    """Demand these rates in profiles of these names, with 500 ms and one spare replica.

    Each is planned with two replicas, whatever the planner would say.
    """
    answer = folder.bundle().recommendations[0]
    plan = answer.best
    assert plan is not None
    chosen: Plan = plan.model_copy(update={"replicas": 2, "instances": 2})
    slo = answer.demand.slo.model_copy(update={"limit_ms": 500})
    answers = []
    for name, rate_rps in rates_rps.items():
        changes = {"name": name, "rate_rps": rate_rps, "slo": slo, "spare_replicas": 1}
        wanted = answer.demand.model_copy(update=changes)
        answers.append(answer.model_copy(update={"best": chosen, "demand": wanted}))
    folder.write_lines("recommendations.jsonl", answers)


def test_a_plan_that_holds_is_proven_and_one_that_cannot_is_not(
    folder: RunFolder, tmp_path: Path
) -> None:
    """2 x half a CPU at 30 req/s with 500 ms, one killed half-way; at 300 req/s it breaks down.

    What is undecided at the first look stays so here, or the test would take as long as it takes.
    """
    demand(folder, steady=30, rush=300)
    first_look = ("--time-budget", "1s", "--duration", "9s")
    both, kept = confirmed(tmp_path, folder, *first_look), folder.path / CLAIMS / "steady.json"
    if both is not None:
        steady, rush = both[:1], both[1:]
    elif kept.is_file():  # it was the other one that no run of could be believed
        steady, rush = [Claim.model_validate_json(kept.read_text())], None
    else:
        steady, rush = None, confirmed(tmp_path, folder, *first_look, "--profile", "rush")
    runs = read_lines(folder.path / RUNS, ConfirmationRun)
    starts = {run.measurement.startup_s for run in runs}
    assert len(starts) == len(runs), "each was deployed anew"
    if steady is not None:
        (claim,) = steady
        assert claim.deployments >= 3
        assert claim.held_replicas == 2
        assert claim.verdict in ("holds", "undecided"), claim.sentence
        assert claim.killed is not None
        assert 250 < claim.killed.n < 400, "those from the kill on"
        assert claim.killed.over < claim.killed.n / 2, "the other replica went on"
        assert claim.judged.measured_ms is not None
        assert 5 < claim.judged.measured_ms < 500
        assert kept.is_file()
        again = confirmed(tmp_path, folder, *first_look, "--profile", "steady")
        assert again == steady
        assert read_lines(folder.path / RUNS, ConfirmationRun) == runs
    if rush is not None:
        (claim,) = rush
        assert claim.verdict == "fails", claim.sentence
        assert claim.deployments == 1, "one that fails for certain is enough"
        assert claim.instead
        points = read_lines(folder.path / TRACK_RECORD, TrackPoint)
        predicted = set() if steady is None else {30}
        assert {p.rate_rps for p in points} == predicted, "and nothing beyond the capacity"
        report = (folder.path / "report.md").read_text()
        assert "Claims, proven by load tests" in report
