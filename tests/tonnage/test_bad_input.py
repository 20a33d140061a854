"""Bad input ends in one clear line and the right exit code, with nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from serving.errors import BadInput
from tonnage.cli import app
from tonnage.config import shipped

Tonnage = Callable[..., CompletedProcess[str]]


def installed(*arguments: str, cwd: Path) -> CompletedProcess[str]:
    """The installed command, in its own process."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "tonnage", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "TONNAGE_CACHE": str(cwd / "cache")},
        timeout=120,
    )


def study(tmp_path: Path, old: str, new: str) -> str:
    text = shipped("studies/credit.toml").read_text()
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new))
    return "mine.toml"


EDITS = {
    "unknown key": ("seed = 7", "seed = 7\nsead = 8", ["mine.toml", "sead", "seed"]),
    "unknown variant": ('"onnx_int8"]', '"onnx_int4"]', ["onnx_int4", "onnx_int8"]),
    "unknown workload": ('workload = "credit"', 'workload = "debit"', ["debit", "credit"]),
    "unknown instance": ('"sim-2"]', '"sim-3"]', ["sim-3", "sim-2"]),
    "wrong type": ("seed = 7", 'seed = "7"', ["mine.toml", "seed"]),
    "negative": ("max_loss = 0.003", "max_loss = -1", ["mine.toml", "max_loss"]),
    "not TOML": ("seed = 7", "seed = = 7", ["mine.toml", "TOML"]),
    "missing data": ("[data]", '[data]\nsource = "absent.csv"', ["absent.csv", "source"]),
    "zero threads": ("threads = [1, 2, 4, 8]", "threads = [0]", ["mine.toml", "threads"]),
    "odd baseline size": (
        'baseline_instances = ["sim-1"]',
        'baseline_instances = ["sim-9"]',
        ["sim-9"],
    ),
    "no baseline": ('["sklearn", "onnx_fp32"', '["onnx_fp32"', ["sklearn"]),
    "missing prices": ('"prices.toml"', '"cheap.toml"', ["cheap.toml"]),
}


@pytest.mark.parametrize(("old", "new", "named"), EDITS.values(), ids=EDITS)
def test_a_bad_study_is_one_line(
    tonnage: Tonnage, tmp_path: Path, old: str, new: str, named: list[str]
) -> None:
    """The line names file and key; exit code 2; no run folder with records is left."""
    done = tonnage("run", study(tmp_path, old, new))
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("tonnage: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    for word in named:
        assert word in lines[0]
    assert not list(tmp_path.glob("runs/**/*.json*"))
    assert named == EDITS["missing data"][2] or not (tmp_path / "runs").exists()


def test_a_negative_rate_is_refused(tmp_path: Path) -> None:
    """A profile that demands less than nothing names file, profile and key."""
    text = shipped("profiles.toml").read_text()
    (tmp_path / "profiles.toml").write_text(text.replace("rate_rps = 800", "rate_rps = -800"))
    done = installed("run", study(tmp_path, "seed = 7", "seed = 8"), cwd=tmp_path)
    assert done.returncode == 2
    for word in ("profiles.toml", "production", "rate_rps"):
        assert word in done.stderr


COMMANDS = {
    "missing study": (["run", "absent.toml"], "absent.toml"),
    "bad budget": (["run", "credit", "--time-budget", "soon"], "soon"),
    "no run": (["report", "runs"], "runs"),
    "unknown option": (["run", "credit", "--fast"], "--fast"),
    "unknown instance": (["serve", "credit", "--instance", "sim-7"], "sim-7"),
    "unknown variant": (["serve", "credit", "--variant", "onnx_int4"], "onnx_int4"),
    "port out of range": (
        ["measure", "--endpoint", "http://h:99999", "--model", "m", "--rate", "5"],
        "http://host:port",
    ),
}


@pytest.mark.parametrize(("arguments", "named"), COMMANDS.values(), ids=COMMANDS)
def test_a_bad_command_is_one_line(tonnage: Tonnage, arguments: list[str], named: str) -> None:
    """Usage errors and missing files end with exit code 2 and say what was wrong."""
    done = tonnage(*arguments)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr


ENDPOINT = ["measure", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--users", "2"]
VARIANT = ["measure", "credit", "--variant", "onnx_fp32"]
SEARCH = [*VARIANT, "--p99", "20ms", "--max-load"]
UNUSED = {
    "limit of a closed loop": [*ENDPOINT, "--p99", "20ms"],
    "variant": [*ENDPOINT, "--variant", "onnx_fp32"],
    "instance": [*ENDPOINT, "--instance", "sim-1"],
    "replicas": [*ENDPOINT, "--replicas", "1"],
    "max batch": [*ENDPOINT, "--max-batch", "8"],
    "quick": [*ENDPOINT, "--quick"],
    "time scale": [*ENDPOINT, "--time-scale", "0.5"],
    "trace columns": [*ENDPOINT, "--trace-columns", "due=at"],
    "header": ["measure", "credit", "--header", "x: y"],
    "insecure": ["measure", "credit", "--insecure"],
    "input": ["measure", "credit", "--variant", "onnx_fp32", "--rate", "9", "--input", "x=int64"],
    "instance of no variant": ["measure", "credit", "--instance", "sim-1"],
    "rate of no variant": ["measure", "credit", "--rate", "9"],
    "batch of no variant": ["measure", "credit", "--batch", "8"],
    "duration of no variant": ["measure", "credit", "--duration", "9s"],
    "timeout of no variant": ["measure", "credit", "--timeout", "9s"],
    "workers of no variant": ["measure", "credit", "--workers", "2"],
    "seed of no variant": ["measure", "credit", "--seed", "0"],
    "budget of no variant": ["measure", "credit", "--budget", "9000"],
    "payload of no variant": ["measure", "credit", "--payload", "rows.npz"],
    "runs of a variant": [*VARIANT, "--rate", "9", "--runs", "here"],
    "runs of an endpoint": [*ENDPOINT, "--runs", "here"],
    "budget of no search": [*VARIANT, "--rate", "9", "--budget", "9000"],
    "duration of a search": [*SEARCH, "--duration", "9s"],
    "authority of no endpoint": [*VARIANT, "--rate", "9", "--cacert", "ca.pem"],
    "certificate for no endpoint": [*VARIANT, "--rate", "9", "--cert", "our.pem"],
    "confidence of no limit": [*VARIANT, "--rate", "9", "--confidence", "0.9"],
    "wait of no batch": [*VARIANT, "--rate", "9", "--batch-wait", "2ms"],
    "wait of one": [*VARIANT, "--rate", "9", "--max-batch", "1", "--batch-wait", "2ms"],
}


@pytest.mark.parametrize("arguments", UNUSED.values(), ids=UNUSED)
def test_an_option_without_effect_is_refused(arguments: list[str]) -> None:
    """What would be ignored is named in one line, before anything is built or started."""
    option = next(word for word in reversed(arguments) if word.startswith("--"))
    with pytest.raises(BadInput, match=option):
        app(arguments, standalone_mode=False)


def test_absent_data_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture study without CIFAR-10 ends in one line, before anything is built."""
    monkeypatch.delenv("TONNAGE_CIFAR10", raising=False)
    done = installed("run", "lenet", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tonnage: ")]
    for word in ("CIFAR-10", "TONNAGE_CIFAR10", "[data]", "uoft-cs/cifar10"):
        assert word in line
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("cache/**/*.pt"))


def test_a_port_in_use_is_refused(tonnage: Tonnage) -> None:
    """The port is tried before anything is built or started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = tonnage("serve", "credit", "--port", port)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr


def test_unreadable_data_are_refused(tonnage: Tonnage, tmp_path: Path) -> None:
    """A CSV without the label, or that is no CSV, names itself and what it lacks."""
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    done = tonnage("build", study(tmp_path, "[data]", '[data]\nsource = "d.csv"'))
    assert done.returncode == 2
    assert "default-payment-next-month" in done.stderr
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00\x01")
    done = tonnage("build", study(tmp_path, "[data]", '[data]\nsource = "d.csv"'))
    assert done.returncode == 2
    assert "d.csv" in done.stderr
