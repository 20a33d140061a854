"""Faults planted on live processes, ten seeded trials each; and clean runs, for false alarms.

Nothing is simulated: the replica is Ray Serve's, the worker Locust's, the hog burns CPU. A
fault counts as caught when the measurement is invalid, whatever the reason given.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.servers import noop_server
from loadtests.cell import CellContext, measure
from loadtests.fleet import Fleet
from loadtests.judge import endpoint_faults
from loadtests.payloads import foreign_payloads, make_payloads
from loadtests.records import FaultCode, LoadRun
from serving.instances import load_instances, resolve
from serving.ray_host.client import RayHost
from serving.ray_host.settings import admin_socket
from serving.records import Deployment
from serving.stub_variant import stub_variant
from tonnage.config import shipped

Result = dict[str, Any]
TRIALS = 10
CLEAN = 20
RUN_S = 2.5
RATE_RPS = 80.0  # of a stub of 5 ms: utilisation .4
_BURN = "while True: pass"


@dataclass
class Bench:
    """The real thing, up and running: Ray Serve, HAProxy, Locust, one stub of 5 ms."""

    host: RayHost
    fleet: Fleet
    context: CellContext
    folder: Path

    def measure(self, seed: int, plant: Callable[[random.Random], None] | None) -> list[FaultCode]:
        """One open-loop run; ``plant`` is called beside it. The faults that were found."""
        run = LoadRun(mode="open", batch=1, duration_s=RUN_S, rate_rps=RATE_RPS, seed=seed)
        draw = random.Random(seed)
        thread = threading.Thread(target=plant, args=(draw,)) if plant else None
        if thread:
            thread.start()
        made = measure(self.context, run, 0)
        if thread:
            thread.join()
        return [fault.code for fault in made.faults]

    def redeploy(self) -> None:
        """A fresh replica, after the old one was killed or its state is in doubt."""
        deployment = self.context.deployment
        self.host.delete(deployment.variant.model_name)
        self.context = replace(self.context, endpoint=self.host.deploy(deployment))

    @property
    def replica_pid(self) -> int:
        """Id of the only replica."""
        return self.context.endpoint.replicas[0].pid

    @property
    def replica_cpu(self) -> int:
        """The CPU that the replica has."""
        return self.context.endpoint.replicas[0].grant.cpus[0]

    def worker_pid(self) -> int:
        """Id of the first Locust worker."""
        for pid in self.fleet.process.pids():
            with contextlib.suppress(psutil.Error):
                if "worker" in psutil.Process(pid).cmdline():
                    return pid
        raise RuntimeError("no worker")


@contextlib.contextmanager
def running() -> Iterator[Bench]:
    """Everything up, with one Locust worker; taken down afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variant = stub_variant(folder, busy_ms=5.0)
        size = resolve("sim-1", load_instances(shipped("instances.toml")))
        deployment = Deployment(variant=variant, instance=size, threads=1)
        rows = {"features": np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32)}
        with (
            RayHost(folder / "ray.log") as host,
            Fleet(folder / "locust.log", cpus=host.placement.platform_cpus) as fleet,
        ):
            endpoint = host.deploy(deployment)
            context = CellContext(
                host=host,
                fleet=fleet,
                deployment=deployment,
                endpoint=endpoint,
                payloads=fleet.store("rows", make_payloads(deployment, rows, 1, 0)),
                batch=1,
                seed=0,
                environment="bench",
            )
            yield Bench(host, fleet, context, folder)


def _trials(one: Callable[[Bench, int], list[FaultCode]]) -> Result:
    with running() as bench:
        bench.measure(0, None)  # caches warm, threads started
        return _counted([one(bench, 100 + seed) for seed in range(TRIALS)])


def _counted(found: list[list[FaultCode]]) -> Result:
    codes = Counter(code for trial in found for code in set(trial))
    return {
        "caught": sum(bool(trial) for trial in found),
        "of": len(found),
        "codes": dict(codes.most_common()),
    }


def worker_stopped(bench: Bench, seed: int) -> list[FaultCode]:
    """SIGSTOP of the worker for half a second, somewhere in the run."""

    def plant(draw: random.Random) -> None:
        pid = bench.worker_pid()
        time.sleep(draw.uniform(0.6, 1.6))
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.5)
        os.kill(pid, signal.SIGCONT)

    return bench.measure(seed, plant)


def worker_killed(bench: Bench, seed: int) -> list[FaultCode]:
    """SIGKILL of the worker in the middle of the run; the next run gets a new one."""

    def plant(draw: random.Random) -> None:
        pid = bench.worker_pid()
        time.sleep(draw.uniform(0.6, 1.6))
        os.kill(pid, signal.SIGKILL)

    found = bench.measure(seed, plant)
    bench.measure(0, None)
    return found


def hog_beside_replica(bench: Bench, seed: int) -> list[FaultCode]:
    """Another process burns CPU on the replica's core for a second."""

    def plant(draw: random.Random) -> None:
        time.sleep(draw.uniform(0.3, 1.2))
        with _hogs([bench.replica_cpu]):
            time.sleep(1.0)

    return bench.measure(seed, plant)


def replica_killed(bench: Bench, seed: int) -> list[FaultCode]:
    """SIGKILL of the replica; Serve starts another one by itself."""

    def plant(draw: random.Random) -> None:
        time.sleep(draw.uniform(0.6, 1.6))
        os.kill(bench.replica_pid, signal.SIGKILL)

    found = bench.measure(seed, plant)
    bench.redeploy()
    return found


def server_stalls(bench: Bench, seed: int) -> list[FaultCode]:
    """The replica stands still for a second."""

    def plant(draw: random.Random) -> None:
        time.sleep(draw.uniform(0.4, 1.2))
        os.kill(bench.replica_pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(bench.replica_pid, signal.SIGCONT)

    return bench.measure(seed, plant)


def wrong_answers() -> Result:
    """The replica runs another file than the one the answers are expected of."""
    with running() as bench:
        deployment = bench.context.deployment
        wrong = stub_variant(bench.folder / "wrong", busy_ms=5.0, wrong_share=0.2)
        bench.host.delete(deployment.variant.model_name)
        served = deployment.model_copy(update={"variant": wrong})
        bench.context = replace(
            bench.context, deployment=served, endpoint=bench.host.deploy(served)
        )
        return _counted([bench.measure(seed, None) for seed in range(TRIALS)])


def fallback_proxy(bench: Bench, seed: int) -> list[FaultCode]:
    """HAProxy is told that the replica is down, and turns to the Python proxy."""
    servers = _servers(bench.host)

    def plant(draw: random.Random) -> None:
        time.sleep(draw.uniform(0.4, 1.0))
        for server in servers:
            _admin(bench.host, f"set server {server} state maint")
        time.sleep(1.0)
        for server in servers:
            _admin(bench.host, f"set server {server} state ready")

    return bench.measure(seed, plant)


def client_starved(bench: Bench, seed: int) -> list[FaultCode]:
    """The worker loses its priority and shares its core with three that have more."""
    cpu = bench.host.placement.platform_cpus[0]
    worker = bench.worker_pid()
    policy, param = os.sched_getscheduler(worker), os.sched_getparam(worker)
    os.sched_setscheduler(worker, os.SCHED_OTHER, os.sched_param(0))
    try:
        with _hogs([cpu] * 3, nice=-10):
            return bench.measure(seed, None)
    finally:
        os.sched_setscheduler(worker, policy, param)


def generator_at_limit() -> Result:
    """32 users on a server faster than any generator: what is measured is the generator."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {"features": np.zeros((256, 4), np.float32)}
        with (
            noop_server(folder, cpu=max(os.sched_getaffinity(0))) as endpoint,
            Fleet(folder / "locust.log", cpus=[min(os.sched_getaffinity(0))]) as fleet,
        ):
            stored = fleet.store("rows", foreign_payloads(rows, 1, 0))
            for seed in range(TRIALS):
                run = LoadRun(mode="closed", batch=1, duration_s=RUN_S, users=32, seed=seed)
                result = fleet.run(run, endpoint, stored)
                found.append([fault.code for fault in endpoint_faults(run, result)])
    return _counted(found)


def clean() -> Result:
    """Nothing planted: every fault found is a false alarm, or a noise of the host."""
    with running() as bench:
        bench.measure(0, None)
        found = [bench.measure(500 + seed, None) for seed in range(CLEAN)]
    return _counted(found)


def parts() -> dict[str, Callable[[], Result]]:
    """Every part by name, in the order they are measured."""
    live = (
        worker_stopped,
        worker_killed,
        hog_beside_replica,
        replica_killed,
        server_stalls,
        fallback_proxy,
        client_starved,
    )
    made: dict[str, Callable[[], Result]] = {
        one.__name__: lambda one=one: _trials(one) for one in live
    }
    made |= {one.__name__: one for one in (wrong_answers, generator_at_limit, clean)}
    return made


def render(results: dict[str, Any]) -> list[str]:
    """Rows of the table of aims and figures, as Markdown."""
    lines = []
    for name, row in results.items():
        codes = ", ".join(f"{code} {count}" for code, count in row["codes"].items())
        what = name.replace("_", " ")
        if name == "clean":
            lines.append(
                f"| false alarms on clean runs | at most 1 in 20 | {row['caught']} of {row['of']}"
                f"{f' ({codes})' if codes else ''} |"
            )
        else:
            lines.append(
                f"| planted: {what} | all caught | {row['caught']} of {row['of']} ({codes}) |"
            )
    return lines


@contextlib.contextmanager
def _hogs(cpus: list[int], nice: int = 0) -> Iterator[None]:
    started = []
    try:
        for cpu in cpus:
            command = ["taskset", "-c", str(cpu), "nice", "-n", str(nice)]
            started.append(subprocess.Popen([*command, sys.executable, "-I", "-c", _BURN]))
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _servers(host: RayHost) -> list[str]:
    """Names of the replicas' servers in HAProxy, as its admin socket takes them."""
    lines = _admin(host, "show stat").lstrip("# ").splitlines()
    fields = lines[0].split(",")
    rows = [dict(zip(fields, line.split(","), strict=False)) for line in lines[1:] if line]
    return [
        f"{row['pxname']}/{row['svname']}"
        for row in rows
        if row["svname"] not in ("FRONTEND", "BACKEND") and row.get("bck") == "0"
    ]


def _admin(host: RayHost, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(admin_socket(host.folder)))
        client.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()
