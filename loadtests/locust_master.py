"""The master of the load: gives out specs, collects results, and sees what becomes of workers.

Part of the Locust process, as it imports Locust.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment

from serving.errors import BadInput

_DEAD, _STOPPED = "dead", "stopped"
_PATIENCE_S = 2.0


class Master:
    """Takes specs from stdin, runs them on all workers, and gives back their results.

    The workers are children of this process, so that what becomes of one is seen at once:
    Locust itself misses a dead worker only after three seconds of silence.
    """

    def __init__(self, port: int, environment: Environment) -> None:
        self._runner = environment.create_master_runner("127.0.0.1", port)
        self._pids = [int(pid) for pid in os.environ["TONNAGE_WORKER_PIDS"].split(",")]
        self._warm: set[int] = set()
        self._results: dict[int, dict[str, Any]] = {}
        self._runner.register_message("tonnage_warm", self._count)
        self._runner.register_message("tonnage_result", self._collect)
        self._refused: list[str] = []
        self._runner.register_message("tonnage_refused", self._refuse)

    def _count(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._warm.add(msg.data["index"])

    def _collect(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._results[msg.data["index"]] = msg.data

    def _refuse(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._refused.append(msg.data["error"])

    def _wait(self, what: str, reached: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not reached():
            if self._refused:
                raise BadInput(self._refused[0])
            dead = [index for index, pid in enumerate(self._pids) if _state(pid) == _DEAD]
            if dead:
                raise RuntimeError(f"worker {dead[0]} is gone while waiting for {what}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: nothing after {timeout_s:.0f} s")
            gevent.sleep(0.002)

    def connect(self, workers: int, users: int) -> None:
        """Wait until all workers have joined, and start their users, who park."""
        self._wait("workers", lambda: self._runner.worker_count >= workers, 30)
        self._runner.start(users * workers, spawn_rate=users * workers)

    def prepare(self, spec: dict[str, Any]) -> None:
        """Give out a spec; returns when every connection it needs is warm."""
        self._warm.clear()
        self._refused.clear()
        self._results.clear()
        self._runner.send_message("tonnage_spec", spec)
        self._wait("warm users", lambda: len(self._warm) >= spec["workers"], 60)

    def go(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Run the prepared spec; the results of the workers that lived to give one.

        A worker that died, or that is still stopped when the run is long over, is lost; one
        that was stopped for a while is named too.
        """
        self._runner.send_message("tonnage_go", {})
        ends = time.monotonic() + spec["duration_s"]
        lost: set[int] = set()
        stopped: set[int] = set()
        while len(self._results.keys() | lost) < spec["workers"]:
            for index in range(spec["workers"]):
                state = _state(self._pids[index])
                late = time.monotonic() > ends + _PATIENCE_S
                if state == _STOPPED:
                    stopped.add(index)
                if index not in self._results and (state == _DEAD or (state == _STOPPED and late)):
                    lost.add(index)
            if time.monotonic() > ends + 2 * spec["timeout_s"] + 30:
                raise RuntimeError("results: a worker does not answer")
            gevent.sleep(0.005)
        return {
            "results": list(self._results.values()),
            "lost": sorted(lost - self._results.keys()),
            "stopped": sorted(stopped),
        }


def _state(pid: int) -> str:
    """``dead``, ``stopped``, or the letter that the kernel gives a living process."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return _DEAD
    return {"Z": _DEAD, "X": _DEAD, "T": _STOPPED, "t": _STOPPED}.get(letter, letter)
