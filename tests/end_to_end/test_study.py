"""The whole study in its quick form, interruption, and the teardown of everything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.ports import free_port
from serving.private_folder import private_base


def start(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tonnage", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TONNAGE_TEST": str(cwd)},
    )


def leftovers(cwd: Path, pid: int) -> list[str]:
    """Processes, control groups and private folders that belong to a run."""
    found = [str(p) for p in private_base().glob(f"tonnage-{pid}-*")]
    for root in ("/sys/fs/cgroup", *map(str, Path("/sys/fs/cgroup").glob("*"))):
        found += [str(p) for p in Path(root).glob(f"tonnage-{pid}-*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"TONNAGE_TEST={cwd}".encode() in environment and int(process.name) != pid:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if command:
                found.append(f"{process.name} {command[:120]}")
    return found


def nothing_left(cwd: Path, pid: int) -> list[str]:
    deadline = time.monotonic() + 60
    while (found := leftovers(cwd, pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def wait_for_port(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate()[1])


@pytest.mark.starts
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_serve_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    """However 'tonnage serve' ends, no process, group, token or folder of it stays."""
    port = free_port()
    process = start(
        tmp_path, "serve", "credit", "--variant", "onnx_fp32", "--instance", "sim-0.5",
        "--port", str(port),
    )  # fmt: skip
    wait_for_port(process, port)
    url = process.stdout.readline().strip() if process.stdout else ""
    assert url == f"http://127.0.0.1:{port}/v2/models/credit_onnx_fp32"
    tokens = list(private_base().glob(f"tonnage-{process.pid}-*/token"))
    assert [oct(t.stat().st_mode & 0o777) for t in tokens] == ["0o600"]
    assert [oct(t.parent.stat().st_mode & 0o777) for t in tokens] == ["0o700"]
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert nothing_left(tmp_path, process.pid) == []


@pytest.mark.slow
def test_an_interrupted_study_resumes(tmp_path: Path) -> None:
    """Ctrl-C mid-measurement, the same command again: done work is kept, the rest is done.

    Ends in the three reports, one recommendation per profile, and exit code 0 or 1.
    """
    first = start(tmp_path, "run", "credit", "--quick")
    records = None
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and first.poll() is None:
        records = next(iter(tmp_path.glob("runs/credit/*/cells.json")), None)
        if records is not None:
            break
        time.sleep(0.1)
    assert records is not None, first.communicate()
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=30)
    assert first.returncode == 130, errors
    assert "again" in errors
    assert nothing_left(tmp_path, first.pid) == []
    built = (records.parent / "variants.jsonl").read_bytes()
    done_before = json.loads(records.read_text())["cells"]

    second = start(tmp_path, "run", "credit", "--quick")
    out, errors = second.communicate(timeout=180)
    assert second.returncode in (0, 1, 3), errors
    folders = list(tmp_path.glob("runs/credit/*"))
    assert len(folders) == 1
    assert "resumed" in errors
    assert (folders[0] / "variants.jsonl").read_bytes() == built
    done = json.loads(records.read_text())
    assert done["cells"][: len(done_before)] == done_before
    lines = (folders[0] / "measurements.jsonl").read_text().splitlines()
    assert len(lines) == done["measurements"]
    if second.returncode == 3:  # a neighbour on this host took the replica's core
        assert "no measurement is valid" in errors
        return
    report = json.loads((folders[0] / "report.json").read_text())
    assert report
    assert (folders[0] / "report.md").is_file()
    assert (folders[0] / "report.html").is_file()
    for title in ("Production", "Real-time", "Batch"):
        assert title in out
    assert nothing_left(tmp_path, second.pid) == []
    planned = start(tmp_path, "plan", "runs/credit", "--rate", "5", "--json")
    answers = json.loads(planned.communicate(timeout=60)[0])
    assert [a["demand"]["rate_rps"] for a in answers] == [5, 5, 5]
    one_more(tmp_path, folders[0])


def one_more(cwd: Path, run: Path) -> None:
    """What the plan says it lacks is measured into the run, and the next plan has it."""

    def lacks_int8() -> bool:
        plan = start(cwd, "plan", "runs/credit", "--profile", "real-time", "--json")
        (answer,) = json.loads(plan.communicate(timeout=60)[0])
        wanted = ("onnx_int8", "sim-1", "sim-1", 1)
        cells = (
            (one["candidate"][key] for key in ("variant", "size", "instance", "threads"))
            for one in answer["rejections"]
            if one["bottleneck"] == "unmeasured"
        )
        return wanted in map(tuple, cells)

    assert lacks_int8()
    before = (run / "measurements.jsonl").read_text()
    process = start(cwd, "measure", "runs/credit", "--variant", "onnx_int8", "--instance", "sim-1")
    out, errors = process.communicate(timeout=180)
    assert process.returncode in (0, 3), errors
    assert nothing_left(cwd, process.pid) == []
    after = (run / "measurements.jsonl").read_text()
    assert after.startswith(before)  # nothing that was judged is judged again
    if process.returncode == 0:
        assert "measurements added to" in out
        assert "Real-time" in out
        assert not lacks_int8()


@pytest.mark.starts
def test_a_timeout_below_the_service_time_is_refused(tmp_path: Path) -> None:
    """A deployment that needs 10 ms is not loaded with requests that give up after 2 ms."""
    process = start(
        tmp_path, "measure", "credit", "--variant", "onnx_fp32", "--rate", "5",
        "--batch", "6000", "--timeout", "2ms", "--duration", "1s",
    )  # fmt: skip
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert "the timeout is shorter than the service time" in errors
    assert nothing_left(tmp_path, process.pid) == []
