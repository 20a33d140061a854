"""A profile with a course over the day: planned, printed, reported and exported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import kubernetes_validate
import pytest
import yaml

from planner.advice import AutoscalingAdvice
from reports.export.carried import Part
from reports.export.proven import Proven
from reports.export.write import TARGETS
from reports.markdown import render
from serving.instances import load_instances
from tonnage.config import load_study, shipped
from tonnage.planning import plan, study_demands
from tonnage.run_folder import RunFolder
from tonnage.study import StudyRun
from tonnage.what_if import changed

Tonnage = Callable[..., CompletedProcess[str]]

DAILY = f"daily = {[40] * 8 + [300] * 16}\nrise_s = 120\n"


@pytest.fixture
def followed(stub_run: Callable[..., RunFolder]) -> RunFolder:
    """A finished run whose first profile has quiet nights."""
    folder = stub_run("sim-1", prices=False)
    profiles = folder.path / "profiles.toml"
    steady = profiles.read_text().split("[absurd]")[0]
    profiles.write_text(steady.replace("rate_rps = 60\n", DAILY))
    config, path = load_study(str(folder.path / "study.toml"))
    _, answers, _ = plan(folder, config, path, study_demands(config, path))
    folder.write_lines("recommendations.jsonl", answers)
    return folder


def advice_of(folder: RunFolder) -> AutoscalingAdvice:
    (answer,) = folder.bundle().recommendations
    assert isinstance(answer.autoscaling, AutoscalingAdvice)
    return answer.autoscaling


def proven_of(folder: RunFolder) -> Proven:
    return Proven.of(folder.bundle(), None, load_instances(folder.path / "instances.toml"))


def test_plan_prints_it(followed: RunFolder, tonnage: Tonnage) -> None:
    """In a line for people, and whole for machines; another rate scales the day."""
    done = tonnage("plan", followed.path)
    assert done.returncode == 0, done.stderr
    least = advice_of(followed).settings.min_replicas
    assert f"  over a day {least} to 6 replicas by" in done.stdout
    assert "all day" in done.stdout
    again = tonnage("plan", followed.path, "--rate", "150", "--json")
    assert again.returncode == 0, again.stderr
    (answer,) = json.loads(again.stdout)
    assert max(answer["demand"]["daily"]["rates_rps"]) == pytest.approx(150)
    assert answer["autoscaling"]["static_replicas"] < advice_of(followed).static_replicas


def test_the_report_has_it(followed: RunFolder) -> None:
    """The advice beside the plan, and how far CPUs reach."""
    text = render(followed.bundle(), {})
    assert "### Steady: following the load" in text
    assert "target_ongoing_requests" in text
    assert "### How far CPUs reach" in text


def test_a_what_if_scales_the_day(followed: RunFolder) -> None:
    """Every hour by the same factor; without another rate it stays as it is."""
    config, path = load_study(str(followed.path / "study.toml"))
    demands = study_demands(config, path)
    (doubled,) = changed(demands, None, 600, None, None)
    assert doubled.daily is not None
    assert set(doubled.daily.rates_rps) == {80, 600}
    assert changed(demands, None, None, 90, None)[0].daily == demands[0].daily


def test_ray_serve_takes_the_advice(followed: RunFolder, tmp_path: Path) -> None:
    """Serve's own schema accepts it, in the file and in the RayService, figure by figure."""
    proven, advice = proven_of(followed), advice_of(followed)
    config = TARGETS["rayserve"](proven).files["serve.yaml"]
    service = yaml.safe_load(TARGETS["k8s"](proven).files["rayservice.yaml"])
    (tmp_path / "a.yaml").write_text(config)
    (tmp_path / "b.yaml").write_text(service["spec"]["serveConfigV2"])
    code = (
        "import json, sys, yaml\n"
        "from ray.serve.schema import ServeDeploySchema\n"
        "for path in sys.argv[1:]:\n"
        "    made = ServeDeploySchema.model_validate(yaml.safe_load(open(path)))\n"
        "    one = made.applications[0].deployments[0]\n"
        "    print(json.dumps([one.autoscaling_config, one.max_ongoing_requests]))\n"
    )
    files = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *files], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        scaling, ongoing = json.loads(line)
        assert scaling == {
            "initial_replicas": advice.static_replicas,
            **advice.settings.model_dump(),
        }
        assert ongoing == advice.max_ongoing_requests
    cluster = service["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"] is True
    bounds = (advice.settings.min_replicas, advice.settings.max_replicas)
    assert (group["minReplicas"], group["maxReplicas"]) == bounds


def test_kubernetes_takes_the_advice(followed: RunFolder) -> None:
    """Bounds and delays in both scalers; that they scale by CPU is said."""
    proven, advice = proven_of(followed), advice_of(followed)
    made = TARGETS["k8s"](proven)
    hpa, keda = (yaml.safe_load(made.files[name])["spec"] for name in ("hpa.yaml", "keda.yaml"))
    bounds = (advice.settings.min_replicas, advice.settings.max_replicas)
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == bounds
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == bounds
    behaviour = hpa["behavior"]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == 600
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == behaviour
    document = yaml.safe_load(made.files["hpa.yaml"])
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    assert "by CPU" in str(made.parts[Part.REPLICAS])


def test_a_run_keeps_the_trace_it_was_planned_with(tmp_path: Path) -> None:
    """Copied beside the profiles, and part of what makes two runs the same one."""
    mine, kept = tmp_path / "mine", tmp_path / "kept"
    (mine / "traffic").mkdir(parents=True)
    kept.mkdir()
    rows = "".join(f"{i / 2}\n" for i in range(2000))
    (mine / "traffic" / "t.csv").write_text("timestamp\n" + rows)
    steady = shipped("profiles.toml").read_text().split("[real-time]")[0]
    profiles = steady.replace("rate_rps = 800\n", 'trace = "traffic/t.csv"\n')
    (mine / "profiles.toml").write_text(profiles)
    (mine / "study.toml").write_text(shipped("studies/credit.toml").read_text())
    config, path = load_study(str(mine / "study.toml"))
    run = StudyRun(config, path, RunFolder(kept))
    run._keep("some data", [])
    config, path = load_study(str(kept / "study.toml"))
    (demand,) = study_demands(config, path)
    assert demand.rate_rps == 2
    before = run.config_hash
    (mine / "traffic" / "t.csv").write_text("timestamp\n0\n" + rows)
    assert run.config_hash != before
