"""A Locust master and its workers as supervised processes, kept for a whole study."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from loadtests import locust_launcher
from loadtests.arrivals import Trace
from loadtests.http_call import HttpCall, v2_call
from loadtests.payloads import Payloads
from loadtests.records import LoadRun
from loadtests.samples import Samples
from loadtests.schedule import make_schedule
from loadtests.summary import LoadResult, Workers, summarise
from loadtests.tls import Identity
from serving import host_facts
from serving.errors import Infrastructure
from serving.ports import free_port
from serving.private_folder import new_name, private_base
from serving.records import Endpoint
from serving.supervised import Supervised

OPEN_LOOP_USERS = 128
"""Connections of each worker that are open before a run begins."""

MOST_CONNECTIONS = 20_000
"""Of a worker, as far as it may open files: more are opened as requests find all of them busy.
Beyond this the ports that Linux gives out towards one address come to an end."""


class Fleet:
    """Locust in its own processes. A context manager; leaving it ends them all."""

    def __init__(self, log: Path, *, workers: int = 1, cpus: Sequence[int] = ()) -> None:
        self._workers = workers
        self._log = log
        self._cpus = cpus
        self._process: Supervised | None = None
        self._folder = private_base() / new_name()
        self._stored: dict[Path, Payloads] = {}
        self._incomplete = False

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._start()
        return self

    def _start(self) -> None:
        self._folder.mkdir(mode=0o700)
        for path, payloads in self._stored.items():
            payloads.save(path)
        port = free_port()
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
        self._stored[path] = payloads
        return path

    def run(
        self,
        run: LoadRun,
        endpoint: Endpoint,
        payloads: Path,
        on_start: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
        *,
        trace: Trace | None = None,
        call: HttpCall | None = None,
        insecure: bool = False,
        identity: Identity | None = None,
    ) -> LoadResult:
        """Carry out one run; ``on_start`` is called when connections are warm, before the clock.

        ``on_end`` is called when the last answer is in, before anything is summed up: reading
        and summing up samples takes our own process CPU time that is none of the run's.

        ``call`` is how a request is put, V2 inference when it is None; ``identity`` is shown to
        servers that ask for one.
        A ``trace`` gives the due times of a run whose arrivals are recorded ones. A worker
        that is lost takes its samples with it, and the result says so; the next run has
        new workers. Raises Infrastructure when Locust cannot begin or does not answer, and
        BadInput for a schedule that cannot be made.
        """
        if self._incomplete:
            self.close()
            self._start()
            self._incomplete = False
        # One user cannot be split; a rung of a ladder is split evenly.
        users = {"closed": run.users, "paced": 1}.get(run.mode) or OPEN_LOOP_USERS
        workers = self._workers if users % self._workers == 0 else 1
        schedule = make_schedule(run, self._stored[payloads].classes, trace)
        schedule.save(self._folder / "schedule.npz")
        spec = {
            **run.model_dump(include={"mode", "duration_s", "timeout_s", "seed"}),
            "users": users * workers if run.mode == "open" else users,
            "kept": OPEN_LOOP_USERS,
            "most": MOST_CONNECTIONS,
            "workers": workers,
            "url": endpoint.url,
            "call": (call or v2_call(endpoint)).model_dump(),
            "cell_id": endpoint.cell_id,
            "insecure": insecure,
            "identity": identity and [str(path.resolve()) for path in identity if path],
            "payloads": str(payloads),
            "schedule": str(self._folder / "schedule.npz"),
            "folder": str(self._folder),
        }
        self.process.call({"op": "prepare", "spec": spec})
        on_start()
        reply = self.process.call({"op": "go"})
        on_end()
        self._incomplete = bool(reply["lost"])
        results = reply["results"]
        paths = [self._folder / f"samples-{result['index']}.npz" for result in results]
        samples = Samples.merge([Samples.load(path) for path in paths] or [Samples.empty()])
        known = Workers(
            checked=sum(result["checked"] for result in results),
            wrong=sum(result["wrong"] for result in results),
            cpu_s=tuple(result["cpu_s"] for result in results),
            run_delay_s=tuple(result["run_delay_s"] for result in results),
            connections=min((result["connections"] for result in results), default=0),
            lost=tuple(reply["lost"]),
            stopped=tuple(reply["stopped"]),
        )
        lost = sum(len(schedule.shard(index, workers).due_s) for index in known.lost)
        return summarise(
            samples,
            run.duration_s,
            known,
            lost,
            scheduled=None if run.mode == "closed" else len(schedule.due_s),
            stationary=run.stationary,
            classes=self._stored[payloads].classes,
        )
