"""What the doctor finds on this very host, and what a study makes of a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cgroups import enforces_quotas
from serving.checkup import SizeCheck
from serving.grants import container_instance
from serving.instances import load_instances
from serving.placement import divide
from serving.records import Variant
from tonnage import doctor
from tonnage.cells import make_cells
from tonnage.config import load_study, shipped
from tonnage.planning import study_instances
from tonnage.run_folder import RunFolder
from tonnage.study import StudyRun


def tonnage(*arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "tonnage", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_doctor_tells_all_and_proves_it() -> None:
    """Both forms of output agree with the kernel, and a quota of a half is proven to be one."""
    found = json.loads(tonnage("doctor", "--probe", "--json"))
    assert found["environment"]["logical_cpus"] == len(os.sched_getaffinity(0))
    assert found["groups"]["permitted"] == enforces_quotas()
    assert found["haproxy"].startswith("HAProxy version")
    assert 0 <= found["now"]["busy"] <= 1
    assert {size["name"] for size in found["sizes"]} >= {"sim-0.25", "sim-1", "container"}
    assert found["proofs"]
    for proof in found["proofs"]:
        assert proof["holds"], proof
        assert proof["used_cpus"] <= 1.1 * proof["granted_cpus"]
    text = tonnage("doctor")
    assert found["environment"]["cpu_model"] in text
    assert "Proof" not in text


def test_fractions_need_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without permission a fraction is refused with a way out, and the container still offered."""
    sizes = {size.name: size for size in doctor._sizes(None, divide([(0,), (1,)]))}
    assert sizes["sim-0.25"] == SizeCheck(
        name="sim-0.25",
        measurable=False,
        reason="a fraction of a CPU needs control groups",
        change="see control groups above",
    )
    assert sizes["sim-1"].measurable
    assert "at least 3 CPUs" in sizes["sim-2"].change
    assert sizes["container"].measurable


def test_a_study_can_name_the_container(tmp_path: Path, make_stub: object) -> None:
    """It makes a cell where nothing else can be enforced, and the run notes what it was."""
    study, path = load_study("credit")
    reference = study.measure.reference.model_copy(update={"instance": "container"})
    grid = study.measure.model_copy(
        update={
            "instances": ("sim-0.5", "container"),
            "baseline_instances": None,
            "reference": reference,
        }
    )
    study = study.model_copy(update={"measure": grid})
    sizes = study_instances(study, path)
    assert sizes["container"] == container_instance()
    assert callable(make_stub)
    variant: Variant = make_stub()
    cells, skipped = make_cells(grid, [variant], "base", sizes, divide([(0,)]), quotas=False)
    assert {cell.deployment.instance.name for cell in cells} == {"container"}
    assert len(skipped) == 1
    run = StudyRun(study, path, RunFolder(tmp_path))
    run.folder.keep("instances.toml", shipped("instances.toml"))
    run._keep_container()
    run._keep_container()  # once is enough
    kept = load_instances(tmp_path / "instances.toml")
    assert kept["container"] == sizes["container"]
    assert len(kept) == len(load_instances(shipped("instances.toml"))) + 1
