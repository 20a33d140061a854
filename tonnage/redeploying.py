"""One redeployment after the other, each driven by one open-loop run and taken down again."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from loadtests.arrivals import Mix
from loadtests.ceiling import with_ceiling
from loadtests.cell import CellContext, closed, measure, observe
from loadtests.dwell import FULL
from loadtests.fleet import Fleet
from loadtests.floor import at_floor
from loadtests.payloads import Payloads
from loadtests.records import LoadRun, Measurement
from loadtests.samples import Samples
from loadtests.verdict import verdict_of
from serving.placement import cpus_needed
from serving.ray_host.client import RayHost
from serving.records import Endpoint
from tonnage.cells import Cell
from tonnage.progress import Steps
from tonnage.proofs import Proof
from tonnage.stage import Stage, StartedHost

START_S = 14.0


@dataclass(kw_only=True)
class Redeploying:
    """A context manager; host and generator are started by the first run, and end with it.

    ``floors`` are the study's measurements, whose no-ops say what generator and ingress carry.
    """

    host: StartedHost
    stage: Stage
    floors: tuple[Measurement, ...]
    logs: Path
    steps: Steps
    _running: ExitStack = field(default_factory=ExitStack, init=False)
    _fleet: Fleet | None = field(default=None, init=False)
    _asked: tuple[str, Path] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def drive(self, proof: Proof, run: LoadRun, number: int, *, kill: bool) -> Measurement:
        """Deploy the share of a plan anew, warm it up, and put ``run`` on it.

        ``kill`` ends one of its replicas half-way, and the verdict is on what follows. Raises
        what the host may raise.
        """
        fleet = self._generator()
        payloads = self._stored(proof, fleet)
        deployment = proof.deployment
        endpoint = self.host.deploy(deployment)
        try:
            context = CellContext(
                host=self.host,
                fleet=fleet,
                deployment=deployment,
                endpoint=endpoint,
                payloads=payloads,
                batch=run.batch,
                length=run.length,
                seed=run.seed,
                environment=self.host.environment().content_hash(),
                call=self.stage.call,
            )
            measure(context, _warming(context, run), number)
            if kill:
                half = run.duration_s / 2
                with _Killer(endpoint, half) as killer:
                    made, seen = observe(context, run, number, killer.start)
                # Before the kill nothing was lost: those requests would only thin out the others.
                begin = max(seen.steady_from_s, since_loss_s(seen.samples, half))
                seen = replace(seen, steady_from_s=begin)
            else:
                made, seen = observe(context, run, number)
            # Runs are pooled, so each is judged by its latencies alone: a replay decides by a
            # score, which does not add up.
            verdicts = (verdict_of(seen, run, s, replicas=None) for s in proof.demand.objectives)
            made = made.model_copy(update={"verdicts": tuple(verdicts)})
        finally:
            self.host.delete(endpoint.model_name)
            if isinstance(self.host, RayHost):
                self.host.rotate(cpus_needed(deployment.instance, deployment.replicas))
        judged = with_ceiling([*self.floors, made])[-1]
        return judged.model_copy(update={"floor_p99_s": at_floor(judged, self.floors)})

    def _generator(self) -> Fleet:
        """The generator, beside the host that serves."""
        if self._fleet is None:
            self.steps.step("serve: starting what serves, and Locust", START_S)
            self._running.enter_context(self.host)
            fleet = Fleet(
                self.logs / "locust.log",
                workers=self.stage.workers,
                cpus=self.host.placement.platform_cpus,
            )
            self._fleet = self._running.enter_context(fleet)
        return self._fleet

    def _stored(self, proof: Proof, fleet: Fleet) -> Path:
        """Where the requests of a proof lie; their right answers are computed once."""
        if self._asked is None or self._asked[0] != proof.key:
            demand = proof.demand
            parts = [  # in the order of the run's mix, which gives each its weight
                self.stage.payloads(Cell(proof.deployment, batch, length=demand.length))
                for batch in demand.batches
            ]
            self._asked = proof.key, fleet.store("payloads", Payloads.join(parts))
        return self._asked[1]


def _warming(context: CellContext, run: LoadRun) -> LoadRun:
    """One user for a moment; of a mix all batch sizes as often, so that none comes cold."""
    warm = closed(context, FULL.warmup_s, 1)
    if run.mix is None:
        return warm
    batches = run.mix.batches
    return warm.model_copy(update={"mix": Mix(batches=batches, weights=(1,) * len(batches))})


def since_loss_s(samples: Samples, killed_s: float) -> float:
    """When the first request fell due that had no answer yet, or no good one, at the kill."""
    open_ = (samples.due_s <= killed_s) & (samples.done_s >= killed_s)
    return float(np.min(samples.due_s[open_], initial=killed_s))


class _Killer:
    """Kills the first replica of a deployment, some time after a run began."""

    def __init__(self, endpoint: Endpoint, after_s: float) -> None:
        self._pid = endpoint.replicas[0].pid
        self._timer = threading.Timer(after_s, self._kill)

    def start(self) -> None:
        """The clock of the run begins."""
        self._timer.start()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it died by itself, and the run's faults say so
            os.kill(self._pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
