"""``tonnage calibrate`` on this very host, and a plan with its file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from serving import calibration
from serving.calibration import HOST_FAMILY, Calibration, KernelSpeed, calibrate
from serving.calibration_worker import KERNELS
from serving.errors import Infrastructure, InvalidMeasurement
from tonnage import cli_calibrate
from tonnage.run_folder import RunFolder

Tonnage = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def here() -> Calibration:
    """A short calibration of this host: the path, not the figures."""
    return calibrate(HOST_FAMILY, rounds=2, round_s=0.02)


def test_every_kernel_runs_on_one_cpu_and_on_all(here: Calibration) -> None:
    """Positive speeds in order, and the CPU they are of."""
    found = {(s.kernel, s.workers) for s in here.speeds}
    cpus = len(os.sched_getaffinity(0))
    assert found == {(name, count) for name in KERNELS for count in (1, cpus)}
    assert all(0 < s.low <= s.calls_per_s <= s.high for s in here.speeds)
    assert here.logical_cpus == cpus
    assert set(here.packages) == {"numpy", "onnxruntime"}
    assert Calibration.model_validate_json(here.model_dump_json()) == here


def test_a_worker_that_dies_is_a_failure_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is made of half a round."""
    monkeypatch.setattr(calibration, "KERNELS", {"no such kernel": None})
    with pytest.raises(Infrastructure, match="a worker ended while it ran 'no such kernel'"):
        calibrate(HOST_FAMILY, rounds=1, round_s=0.02)


def test_a_disturbed_calibration_leaves_no_file(
    here: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the CPU went elsewhere: refused, with what to change."""
    half = [s.model_copy(update={"cpu_share": 0.5}) for s in here.speeds]
    made = here.model_copy(update={"speeds": tuple(half)})
    monkeypatch.setattr(cli_calibrate, "calibrate", lambda *_, **__: made)
    out = tmp_path / "c.json"
    with pytest.raises(InvalidMeasurement, match="had them for 50% of the time"):
        cli_calibrate.calibrate_command(out=out, family="host", rounds=2)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_written_and_shown(
    here: Calibration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One file, the same that JSON shows; the text names every kernel."""
    calm = [s.model_copy(update={"cpu_share": 1.0}) for s in here.speeds]
    made = here.model_copy(update={"speeds": tuple(calm)})
    monkeypatch.setattr(cli_calibrate, "calibrate", lambda *_, **__: made)
    out = tmp_path / "c.json"
    cli_calibrate.calibrate_command(out=out, family="host", rounds=2, json=True)
    assert json.loads(capsys.readouterr().out)["speeds"] == json.loads(out.read_text())["speeds"]
    cli_calibrate.calibrate_command(out=out, family="host", rounds=2, json=False)
    shown = capsys.readouterr().out
    assert all(name in shown for name in KERNELS)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def write(path: Path, family: str, model: str, calls: float) -> Path:
    """A calibration file in which every call takes as long."""
    speeds = tuple(
        KernelSpeed(
            kernel="gemm",
            workers=n,
            low=calls,
            calls_per_s=calls,
            high=calls,
            rounds=6,
            cpu_share=1.0,
        )
        for n in (1, 2)
    )
    made = Calibration(
        cpu_family=family,
        cpu_model=model,
        instruction_sets=(),
        logical_cpus=2,
        threads_per_core=1,
        virtualised=True,
        packages={},
        measured_at="2026-01-02",
        speeds=speeds,
    )
    path.write_text(made.model_dump_json())
    return path


def bases(done: CompletedProcess[str], family: str) -> set[str]:
    """Price bases of all plans that stand on a family of CPUs."""
    (answer,) = json.loads(done.stdout)
    plans: list[dict[str, Any]] = [answer["best"], *answer["alternatives"]]
    return {p["price_basis"] for p in plans if p["candidate"]["instance"].startswith(family)}


def test_a_calibration_replaces_the_assumed_factor(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage, tmp_path: Path
) -> None:
    """Half as fast by measurement; the host's own file lies in the run's folder."""
    folder = stub_run("sim-0.5")
    write(folder.path / cli_calibrate.CALIBRATION, HOST_FAMILY, "Example CPU @ 2.5 GHz", 100)
    there = write(tmp_path / "there.json", "fargate-mixed", "Slow CPU", 50)
    done = tonnage("plan", folder.path, "--profile", "steady", "--calibration", there, "--json")
    assert done.returncode == 0, done.stderr
    (basis,) = {b.partition("one vCPU there = ")[2] for b in bases(done, "fargate-0.5")}
    assert basis.startswith("0.5 to 0.5 of one here (measured: 1 kernels")


def test_bad_calibrations_are_one_line(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage, tmp_path: Path
) -> None:
    """No file, no file of the run's host, and a family that nothing is sold of."""
    folder = stub_run()
    there = write(tmp_path / "there.json", "fargate-mixed", "Slow CPU", 50)
    for value, named in (
        ("none.json", "none.json: no such file"),
        (str(there), "the host of the run must be calibrated"),
        (f"moon={there}", "nothing in the price list has cpu_family 'moon'"),
    ):
        done = tonnage("plan", folder.path, "--calibration", value)
        assert done.returncode == 2, done.stderr
        assert named in done.stderr
        assert "Traceback" not in done.stderr
    done = tonnage("calibrate", "--out", tmp_path / "no" / "file.json")
    assert done.returncode == 2
    assert "must be a file in a folder that exists" in done.stderr
