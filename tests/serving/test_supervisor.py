"""The supervisor leaves nothing behind, however its caller ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.errors import Infrastructure
from serving.supervised import Supervised

# A command that daemonises a grandchild in a session of its own, then answers lines.
CHILD = """
import json, os, subprocess, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000.{marker}"])
    os._exit(0)
os.wait()
print(json.dumps({{"ready": True}}), flush=True)
for line in sys.stdin:
    print(line.strip(), flush=True)
"""


def sleeping(marker: str) -> bool:
    found = subprocess.run(
        ["/usr/bin/env", "pgrep", "-f", f"sleep 1000.{marker}"], capture_output=True
    )
    return found.returncode == 0


def gone(marker: str, private: Path) -> bool:
    """Whether the processes end, and the folder goes after them."""
    deadline = time.monotonic() + 15
    while (sleeping(marker) or private.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not sleeping(marker) and not private.exists()


def start(tmp_path: Path, marker: str) -> tuple[Supervised, Path]:
    private = tmp_path / "private"
    private.mkdir()
    child = Supervised(
        [sys.executable, "-c", CHILD.format(marker=marker)],
        name="test",
        log=tmp_path / "log",
        cwd=tmp_path,
        remove=[private],
        grace_s=1.0,
    )
    return child, private


def test_it_speaks_lines_and_ends_with_close(tmp_path: Path) -> None:
    """Messages pass both ways; after close no descendant and no private folder is left."""
    marker = f"{os.getpid()}1"
    child, private = start(tmp_path, marker)
    assert child.receive() == {"ready": True}
    assert child.call({"a": 1}) == {"a": 1}
    assert sleeping(marker)
    child.close()
    child.close()
    assert gone(marker, private)


def test_a_killed_caller_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL of the caller is noticed through the pipe, and everything goes."""
    marker = f"{os.getpid()}2"
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_supervisor import start
child, _ = start(Path({str(tmp_path)!r}), {marker!r})
child.receive()
print("up", flush=True)
time.sleep(1000)
"""
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    assert caller.stdout.readline() == "up\n"
    assert sleeping(marker)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    assert gone(marker, tmp_path / "private")


def test_a_command_that_dies_is_an_infrastructure_error(tmp_path: Path) -> None:
    """The last line of its log is the reason given."""
    child = Supervised(
        [sys.executable, "-c", "import sys; sys.exit('no such luck')"],
        name="it",
        log=tmp_path / "log",
        cwd=tmp_path,
    )
    with pytest.raises(Infrastructure, match="it ended unexpectedly: no such luck"):
        child.receive()
    child.close()
