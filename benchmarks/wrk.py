"""Closed-loop load from wrk, an independent generator written in C."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
local f = io.open("{body}", "rb")
wrk.body = f:read("*a")
f:close()
wrk.method = "POST"
wrk.headers["Inference-Header-Content-Length"] = "{length}"
wrk.headers["Content-Type"] = "application/octet-stream"
"""


def wrk(
    url: str, body: bytes, length: int, *, connections: int, seconds: float, cpu: int, folder: Path
) -> dict[str, float]:
    """Requests per second, p50 and p99 in ms; refuses a run in which anything failed."""
    program = shutil.which("wrk")
    if program is None:
        sys.exit("benchmarks need wrk: apt-get install wrk")
    (folder / "body").write_bytes(body)
    script = folder / "post.lua"
    script.write_text(_SCRIPT.format(body=folder / "body", length=length))
    command = ["taskset", "-c", str(cpu), program, "-t1", f"-c{connections}", f"-d{seconds:g}s"]
    done = subprocess.run(
        [*command, "--latency", "-s", str(script), url], capture_output=True, text=True, check=True
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(f"wrk against {url}: {done.stdout}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if rate is None:
        sys.exit(f"wrk said something new: {done.stdout}")
    return {
        "rps": float(rate[1]),
        "p50_ms": _milliseconds(done.stdout, "50%"),
        "p99_ms": _milliseconds(done.stdout, "99%"),
    }


def _milliseconds(text: str, quantile: str) -> float:
    found = re.search(rf"{quantile}\s+([\d.]+)(us|ms|s)", text)
    if found is None:
        sys.exit(f"wrk said something new: {text}")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]
