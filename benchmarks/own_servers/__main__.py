"""``python -m benchmarks.own_servers``: FastAPI, LitServe and MLServer, sized as black boxes.

A server whose pins clash with ours gets a virtual environment of its own, in ``.cache``.
Resumable.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks.own_runs import CACHE, Result, host, publish, run_once

HERE = Path(__file__).parent


class Server(NamedTuple):
    """How a server is started and asked, by the programs of an environment of its own.

    Its packages are pinned in ``requirements-ENVIRONMENT.txt``; None is our own environment.
    """

    environment: str | None
    command: str
    options: tuple[str, ...]
    rate_rps: float = 100
    p99: str = "60ms"


SERVERS = {
    "fastapi": Server(
        None,
        "env OMP_NUM_THREADS=1 {python} -m uvicorn fastapi_app:app --port {port} --no-access-log",
        ("--request", "text.json", "--url", "/predict", "--health", "/health",
         "--check", '{"label": 4}'),
    ),
    "fastapi_workers": Server(
        None,
        "env OMP_NUM_THREADS=1 {python} -m uvicorn fastapi_app:app --port {port} --no-access-log "
        "--workers 2",
        ("--request", "text.json", "--url", "/predict", "--health", "/health",
         "--check", '{"label": 4}'),
    ),
    "litserve": Server(
        "litserve",
        "env OMP_NUM_THREADS=1 {python} litserve_app.py {port}",
        ("--request", "text.json", "--url", "/predict", "--health", "/health",
         "--check", '{"label": 4}', "--start-timeout", "120s"),
    ),
    "mlserver": Server(
        "mlserver",
        "env OMP_NUM_THREADS=1 MLSERVER_HTTP_PORT={port} MLSERVER_GRPC_PORT=28081 "
        "{bin}mlserver start mlserver",
        ("--request", "text_v2.json", "--url", "/v2/models/classifier/infer", "--health",
         "/v2/health/ready", "--check", '{"outputs": [{"name": "label", "data": [4]}]}',
         "--start-timeout", "120s"),
    ),
}  # fmt: skip


def python_of(environment: str | None) -> str:
    """The interpreter that has the packages; made when it is not there."""
    if environment is None:
        return sys.executable
    folder = CACHE / "own_servers" / environment
    python = folder / "bin" / "python"
    wanted = HERE / f"requirements-{environment}.txt"
    done = folder / "installed.txt"
    if not done.is_file() or done.read_text() != wanted.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(wanted)]
        subprocess.run(install, check=True)
        done.write_text(wanted.read_text())
    return str(python)


def with_programs(command: str, python: str) -> str:
    """The command with the paths of the environment's programs."""
    folder = f"{Path(python).parent}/"
    return command.replace("{python}", shlex.quote(python)).replace("{bin}", shlex.quote(folder))


def main() -> None:
    """Size every server that is not sized yet, then publish."""
    results: Result = {}
    for name, server in SERVERS.items():
        python = python_of(server.environment)
        command = with_programs(server.command, python)
        arguments = ["--cmd", command, *server.options, "--rate", f"{server.rate_rps:g}"]
        arguments += ["--p99", server.p99]
        asked = {"command": server.command.replace("{python}", "python").replace("{bin}", "")}
        asked["demand"] = f"{server.rate_rps:g} req/s, p99 at most {server.p99}"
        results[name] = {**asked, **run_once("own_servers", name, arguments, HERE)}
    publish("own_servers", {"host": host(), "servers": results}, render(results))


def render(results: Result) -> str:
    """One row a server and size, and the answers, as Markdown."""
    lines = [
        "# Servers of other frameworks, as black boxes",
        "",
        "`python -m benchmarks.own_servers`: the same tokenizer and network behind each framework,",
        "started by `tonnage run --cmd` in the enforced instance. CPU and memory are the whole",
        "control group's. Raw figures: `results.json`.",
        "",
        "| server | size | capacity | p50 paced | CPU a request | peak memory | start-up |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        lines += [
            f"| {name} | {p['size']} | {p['capacity_rps']} req/s | {p['paced_p50_ms']} ms | "
            f"{p['cpu_ms']} ms | {p['peak_memory_mib']} MiB | {p['startup_s']} s |"
            for p in row.get("profiles", ())
        ]
        if "profiles" not in row:
            lines.append(f"| {name} | exit code {row['exit_code']} | | | | | |")
    lines += ["", f"Demand: {next(iter(results.values()))['demand']}.", ""]
    for name, row in results.items():
        best = row.get("best")
        lines.append(
            f"- {name}: {best['instances']} x {best['instance']} with {best['replicas']} of "
            f"{best['size']}, USD {best['usd_per_month']} per month, p99 at most "
            f"{best['p99_ms'][2]} ms [predicted]"
            if best
            else f"- {name}: {row.get('note', 'not measured')}"
        )
    lines += [
        "",
        "A server is planned for as one that answers a request at a time, whatever its workers.",
        "Runs that were refused, of all: " + "; ".join(map(_refused, results.items())) + ".",
    ]
    return "\n".join(lines) + "\n"


def _refused(item: tuple[str, Result]) -> str:
    """``mlserver 3 of 40 (2 x closed: cores_shared, 1 x open: drift)``."""
    name, row = item
    counted: Counter[str] = Counter(row.get("faults", ()))
    why = ", ".join(f"{n} x {fault}" for fault, n in sorted(counted.items()))
    return f"{name} {counted.total()} of {row.get('runs', 0)}" + (f" ({why})" if why else "")


if __name__ == "__main__":
    main()
