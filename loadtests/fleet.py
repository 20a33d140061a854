"""A Locust master and its workers as supervised processes, kept for a whole study."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from loadtests import locust_launcher
from loadtests.histogram import Histogram
from loadtests.payloads import Payloads
from loadtests.records import LoadRun
from serving import host_facts
from serving.errors import Infrastructure
from serving.private_folder import new_name, private_base
from serving.records import Endpoint
from serving.supervised import Supervised

# Connections of each worker, hence what a run may have in flight; a server that needs
# more is lost anyway.
OPEN_LOOP_USERS = 128


@dataclass(frozen=True)
class LoadResult:
    """What the generator saw, merged over its workers."""

    offered: int
    ok: int
    unsent: int
    errors: dict[str, int]
    other_cell: int
    checked: int
    wrong: int
    inference: str
    elapsed_s: float
    backlog_growth: float
    generator_cpu_s: float
    due_to_done: Histogram
    sent_to_done: Histogram
    dispatch_lag: Histogram
    queue: Histogram
    service: Histogram
    backward: int = 0


class Fleet:
    """Locust in its own processes. A context manager; leaving it ends them all."""

    def __init__(self, log: Path, *, workers: int = 1, cpus: Sequence[int] = ()) -> None:
        self._workers = workers
        self._log = log
        self._cpus = cpus
        self._process: Supervised | None = None
        self._folder = private_base() / new_name()

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o700)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LOCUST_"))}
        self._process = Supervised(
            [sys.executable, "-P", locust_launcher.__file__, str(port), str(self._workers)],
            name="Locust",
            log=self._log,
            cwd=self._folder,
            env={
                **env,
                "PYTHONSAFEPATH": "1",
                "TONNAGE_GENERATOR_PRIORITY": host_facts.generator_priority(),
            },
            cpus=self._cpus,
            remove=[self._folder],
            grace_s=2.0,
        )
        try:
            self._process.call(
                {"op": "connect", "workers": self._workers, "users": OPEN_LOOP_USERS}
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End master and workers. Safe to repeat."""
        if self._process is not None:
            self._process.close()
            self._process = None

    @property
    def process(self) -> Supervised:
        """The supervised processes; Infrastructure before they were started."""
        if self._process is None:
            raise Infrastructure("Locust is not running")
        return self._process

    def store(self, name: str, payloads: Payloads) -> Path:
        """Put payloads where the workers can read them."""
        path = self._folder / f"{name}.npz"
        payloads.save(path)
        return path

    def cpu_s(self) -> float:
        """CPU-seconds that master and workers have used so far."""
        total = 0.0
        for pid in self.process.pids():
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        return total

    def run(
        self,
        run: LoadRun,
        endpoint: Endpoint,
        payloads: Path,
        on_start: Callable[[], None] = lambda: None,
        *,
        headers: Mapping[str, str] | None = None,
        insecure: bool = False,
    ) -> LoadResult:
        """Carry out one run; ``on_start`` is called when connections are warm, before the clock.

        Raises Infrastructure when a worker is lost or Locust does not answer.
        """
        # One user cannot be split; a rung of a ladder is split evenly.
        users = {"closed": run.users, "paced": 1}.get(run.mode) or OPEN_LOOP_USERS
        workers = self._workers if users % self._workers == 0 else 1
        expected = (run.rate_rps or 500.0) * run.duration_s
        spec = {
            **run.model_dump(),
            "users": users * workers if run.mode == "open" else users,
            "workers": workers,
            "url": endpoint.url,
            "model": endpoint.model_name,
            "cell_id": endpoint.cell_id,
            "headers": dict(headers or {}),
            "insecure": insecure,
            "payloads": str(payloads),
            "check_every": max(1, int(expected / 50)),
        }
        self.process.call({"op": "prepare", "spec": spec})
        on_start()
        return _merge(self.process.call({"op": "go"})["results"])


def _merge(parts: list[dict[str, Any]]) -> LoadResult:
    errors: dict[str, int] = {}
    for part in parts:
        for name, count in part["errors"].items():
            errors[name] = errors.get(name, 0) + count

    def total(key: str) -> int:
        return sum(int(part[key]) for part in parts)

    def merged(key: str) -> Histogram:
        return Histogram.merge(Histogram(**part[key]) for part in parts)

    return LoadResult(
        offered=total("offered"),
        ok=total("ok"),
        unsent=total("unsent"),
        errors=errors,
        other_cell=total("other_cell"),
        checked=total("checked"),
        wrong=total("wrong"),
        inference=max(parts, key=lambda part: part["ok"])["inference"],
        elapsed_s=max(part["elapsed_s"] for part in parts),
        backlog_growth=sum(part["backlog_growth"] for part in parts),
        generator_cpu_s=sum(part["cpu_s"] for part in parts),
        due_to_done=merged("due_to_done"),
        sent_to_done=merged("sent_to_done"),
        dispatch_lag=merged("dispatch_lag"),
        queue=merged("queue"),
        service=merged("service"),
        backward=total("backward"),
    )
