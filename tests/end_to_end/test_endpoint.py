"""``tonnage measure --endpoint`` against a server that Tonnage does not manage."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from loadtests.objective import Slo
from planner.claim import Claim, Judged
from planner.records import Candidate
from serving.host_facts import environment, host_placement
from serving.instances import load_instances, resolve
from serving.ports import free_port
from serving.records import Variant
from serving.stub_variant import stub_variant
from tonnage.config import shipped

Tonnage = Callable[..., subprocess.CompletedProcess[str]]

SERVER = """
import sys
from pathlib import Path
import uvicorn
from serving.app import ModelApp
from serving.records import Variant
from serving.runtimes import load_runtime
variant = Variant.model_validate_json(Path(sys.argv[1]).read_text())
app = ModelApp(load_runtime(variant, threads=1), variant, "foreign")
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    """A model of 4 ms per call."""
    return stub_variant(tmp_path_factory.mktemp("model"), 4.0)


@pytest.fixture(scope="module")
def server(model: Variant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bare V2 server of the model, in a process of its own, for all tests in turn."""
    path = tmp_path_factory.mktemp("server") / "variant.json"
    path.write_text(model.model_dump_json())
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(path), str(port)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.mark.slow
def test_a_foreign_server_is_measured(server: str, tonnage: Tonnage) -> None:
    """Open loop with generated rows: all answered, latency near the service time."""
    done = tonnage(
        "measure", "--endpoint", server, "--model", "test_stub", "--rate", "50",
        "--duration", "3s", "--json",
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr  # 3: a noisy host made dispatch late
    result = json.loads(done.stdout)
    assert result["ok"] == result["offered"] > 100
    assert result["errors"] == {}
    assert {f["code"] for f in result["faults"]} <= {"dispatch_lag", "noisy_host"}
    assert result["environment"]["generator_priority"] in ("fifo", "normal")
    assert "locust" in result["environment"]["packages"]


@pytest.mark.slow
def test_rows_come_from_a_file(server: str, tonnage: Tonnage, tmp_path: Path) -> None:
    """Rows of an .npz are sent in a closed loop; the text says what was measured."""
    np.savez(tmp_path / "rows.npz", features=np.ones((10, 4), np.float32))
    done = tonnage(
        "measure", "--endpoint", server, "--model", "test_stub", "--users", "2",
        "--duration", "2s", "--payload", "rows.npz", "--header", "x-team: a",
    )  # fmt: skip
    assert "2 users, closed loop" in done.stdout, done.stderr
    if done.returncode == 3:
        assert "noisy_host: the hypervisor took" in done.stdout
        return
    assert done.returncode == 0, done.stderr + done.stdout
    assert "verdict    valid [measured]" in done.stdout


@pytest.mark.slow
def test_a_trace_with_batch_sizes_is_played(server: str, tonnage: Tonnage, tmp_path: Path) -> None:
    """Every recorded request is sent when it was, with the rows it had, and judged."""
    rows = "".join(f"{index * 0.05},{1 + 7 * (index % 2)}\n" for index in range(60))
    (tmp_path / "trace.csv").write_text("timestamp,batch\n" + rows)
    done = tonnage(
        "measure", "--endpoint", server, "--model", "test_stub", "--trace", "trace.csv",
        "--p99", "500ms", "--duration", "3s", "--json",
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] == result["offered"] == 60
    assert result["run"]["arrivals"]["file"] == "trace.csv"
    assert result["run"]["arrivals"]["mean_batch"] == 4.5
    (verdict,) = result["verdicts"]
    assert (verdict["verdict"], verdict["n"]) == ("undecided", 60)
    assert verdict["samples_missing"] > 300


@pytest.mark.slow
def test_the_highest_load_is_searched(server: str, tonnage: Tonnage) -> None:
    """4 ms a call carry less than 250 req/s; half of that they carry for certain."""
    done = tonnage(
        "measure", "--endpoint", server, "--model", "test_stub", "--max-load",
        "--p95", "40ms", "--budget", "3000", "--json",
    )  # fmt: skip
    if done.returncode == 3:
        assert "can be believed" in done.stderr  # a noisy host, and it says so
        return
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 60 < found["rate_rps"] < 260, found
    assert found["samples"] <= 3000
    assert "req/s: p95" in done.stderr


def test_failures_are_refused_before_or_named_after(
    server: str, tonnage: Tonnage, tmp_path: Path
) -> None:
    """Model absent, server unreachable, absurd rate, short timeout, unfit rows: one line each."""
    good = ["--endpoint", server, "--model", "test_stub"]
    np.savez(tmp_path / "wide.npz", features=np.ones((10, 5), np.float32))
    (tmp_path / "unsorted.csv").write_text("timestamp\n1\n0.5\n")
    cases = [
        (["--endpoint", server, "--model", "nope", "--rate", "5"], "--model"),
        (["--endpoint", "http://127.0.0.1:9", "--model", "m", "--rate", "5"], "cannot be reached"),
        (["--endpoint", "ftp://x", "--model", "m", "--rate", "5"], "http://host:port"),
        ([*good, "--rate", "1e9"], "2500 req/s"),
        ([*good, "--rate", "0"], "must be positive"),
        ([*good, "--rate", "5", "--users", "2"], "one of --rate, --users, --arrivals or --trace"),
        ([*good, "--arrivals", "fast"], "TOML table"),
        ([*good, "--trace", "unsorted.csv"], "row 2 is earlier"),
        ([*good, "--rate", "5", "--batch", "1:0.7,many"], "a mix such as"),
        ([*good, "--max-load"], "give one limit"),
        ([*good, "--rate", "5", "--timeout", "1ms"], "shorter than the service time"),
        ([*good, "--rate", "5", "--payload", "wide.npz"], "[10, 5]"),
        ([*good, "--rate", "5", "--header", "broken"], "name: value"),
    ]
    for arguments, says in cases:
        done = tonnage("measure", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert says in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def write_claim(folder: Path, sha256: str, **changes: object) -> Path:
    """A claim about the server above: p99 <= 400 ms at 100 req/s."""
    judged = Judged(verdict="holds", n=999, over=0, effective_n=999, share_over=0, measured_ms=9)
    values: dict[str, object] = {
        "profile": "steady",
        "model_name": "test_stub",
        "verdict": "holds",
        "reason": "",
        "slo": Slo(limit_ms=400),
        "batch": 1,
        "rate_rps": 100.0,
        "held_rps": 100.0,
        "replicas": 1,
        "held_replicas": 1,
        "spare_replicas": 0,
        "candidate": Candidate(
            variant="stub", size="sim-1", threads=1, instance="sim-1", replicas_per_instance=1
        ),
        "instance": resolve("sim-1", load_instances(shipped("instances.toml"))),
        "confidence": 0.99,
        "looks": 1,
        "deployments": 3,
        "judged": judged,
        "each": (judged,),
        "killed": None,
        "killed_rps": None,
        "more_requests": None,
        "predicted": None,
        "model_sha256": sha256,
        "config_hash": "c",
        "environment": environment(host_placement(), "affinity"),
        "measurement_ids": (),
        "confirmed_on": date.today().isoformat(),
        "lapses_after_days": 180,
        "differs": (),
    }
    path = folder / "claim.json"
    path.write_text(Claim.of(**(values | changes)).model_dump_json())
    return path


@pytest.mark.slow
def test_a_claim_is_proven_again(
    server: str, model: Variant, tonnage: Tonnage, tmp_path: Path
) -> None:
    """Another server of the same model: it holds at the claim's rate, and not at 400 req/s."""
    claim = write_claim(tmp_path, model.sha256)
    done = tonnage("confirm", claim, "--endpoint", server, "--duration", "10s", "--json")
    if done.returncode == 3:
        assert "the last one for dispatch_lag" in done.stderr  # a noisy host, and it says so
    else:
        found = json.loads(done.stdout)
        assert found["verdict"] in ("holds", "undecided"), found
        assert done.returncode == (0 if found["verdict"] == "holds" else 1)
        assert not [line for line in found["unchecked"] if line.startswith("the model file")]
    broken = tonnage("confirm", claim, "--endpoint", server, "--duration", "5s", "--rate", "400")
    assert broken.returncode in (1, 3), broken.stderr
    if broken.returncode == 1:
        assert f"at 400 req/s on test_stub at {server}: fails at 99 %" in broken.stdout
        assert "unchecked" in broken.stdout


def test_a_claim_that_has_lapsed_is_not_put(
    server: str, model: Variant, tonnage: Tonnage, tmp_path: Path
) -> None:
    """Another model's, as the server tells the hash of its file, and one that is too old."""
    for sha256, changes, why in (
        ("f" * 64, {}, "the model file changed: sha256 ffffffffffff"),
        (model.sha256, {"confirmed_on": "2020-01-01"}, "confirmed on 2020-01-01"),
    ):
        claim = write_claim(tmp_path, sha256, **changes)
        done = tonnage("confirm", claim, "--endpoint", server)
        assert done.returncode == 2, done.stderr
        assert f"the claim has lapsed: {why}" in done.stderr
