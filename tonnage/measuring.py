"""The measuring stage of a study: its cells one after the other, each kept when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.cell import (
    CellContext,
    measure_ceiling,
    measure_cell,
    measure_floor,
    measure_reference,
    measure_sharing,
)
from loadtests.drift import last_visit_strays
from loadtests.dwell import FLOOR, SHARING, Dwell
from loadtests.fleet import Fleet
from loadtests.floor import floor_rates
from loadtests.http_call import HttpCall
from loadtests.monitor import Host
from loadtests.objective import Slo
from loadtests.payloads import Payloads
from loadtests.sharing import sharing_rate
from serving.errors import BadInput, Unusable
from serving.records import Deployment, Endpoint
from tonnage.cells import Cell, duration_s
from tonnage.durations import in_words
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder

_RUNS = {
    "cell": measure_cell,
    "sharing": measure_sharing,
    "floor": measure_floor,
    "reference": measure_reference,
    "ceiling": measure_ceiling,
}


@dataclass(kw_only=True)
class Measuring:
    """What the cells of a study have in common.

    ``slos`` are the objectives by batch size and length.
    """

    folder: RunFolder
    host: Host
    fleet: Fleet
    payloads: Callable[[Cell], Payloads]
    call: HttpCall | None
    dwell: Dwell
    seed: int
    slos: Mapping[tuple[int, int | None], Slo]
    steps: Steps
    _environment: str = field(default="", init=False)
    _running: tuple[Deployment, Endpoint] | None = field(default=None, init=False)
    _sequence: int = field(default=0, init=False)

    def run(self, order: Sequence[Cell], finished: Sequence[str]) -> None:
        """Measure ``order`` but for the cells in ``finished``; a cell cut short begins anew."""
        left = list(finished)
        self.folder.drop_unfinished()
        self._environment = self.host.environment().content_hash()
        self._sequence = len(self.folder.measurements())
        bench = self.folder.bundle().bench
        takes_s = duration_s(order[len(left) :], self.dwell, bench)
        self.steps.say(f"measuring {len(order) - len(left)} cells: about {in_words(takes_s)}")
        self.steps.expect(takes_s)
        for number, cell in enumerate(order, 1):
            if cell.key in left:
                left.remove(cell.key)
                continue
            share = duration_s([cell], self.dwell, bench)
            self.steps.step(f"measure {number}/{len(order)}: {cell.label}", share)
            if cell.role == "sharing" and not self._rates(cell):
                self._leave_out(cell, "one replica has no valid open run to hold it against")
                continue
            try:
                endpoint = self._deployed(cell.deployment)
            except Unusable:
                raise
            except BadInput as error:  # it does not fit; the others may
                self._leave_out(cell, str(error))
                continue
            self._measure(cell, endpoint, number)
            if cell.role == "reference" and last_visit_strays(self.folder.measurements()):
                self.steps.say("the reference strayed from its level: measured once more")
                self._measure(cell, endpoint, number)
            self.folder.finish_cell(cell.key)

    def _deployed(self, deployment: Deployment) -> Endpoint:
        """The endpoint of ``deployment``, which takes the place of the one before it."""
        if self._running is not None:
            if self._running[0] == deployment:
                return self._running[1]
            self.host.delete(self._running[1].model_name)
        self._running = None
        self._running = (deployment, self.host.deploy(deployment))
        return self._running[1]

    def _measure(self, cell: Cell, endpoint: Endpoint, number: int) -> None:
        deployment = cell.deployment
        context = CellContext(
            host=self.host,
            fleet=self.fleet,
            deployment=deployment,
            endpoint=endpoint,
            payloads=self.fleet.store("payloads", self.payloads(cell)),
            batch=cell.batch,
            length=cell.length,
            seed=self.seed + number,
            environment=self._environment,
            role=cell.role,
            call=self.call,
            slos=tuple(s for asked, s in self.slos.items() if asked == (cell.batch, cell.length)),
            rates=self._rates(cell),
        )
        dwell = {"floor": FLOOR, "sharing": SHARING}.get(cell.role, self.dwell)
        for measurement in _RUNS[cell.role](context, dwell, self._next_sequence):
            self.folder.append("measurements.jsonl", measurement)

    def _rates(self, cell: Cell) -> tuple[float, ...]:
        """Those of the models measured so far: floors and shared cores come behind their cells."""
        if cell.role == "floor":
            size = cell.deployment.instance.label
            return tuple(floor_rates(self.folder.measurements(), cell.batch, size))
        if cell.role == "sharing":
            rate = sharing_rate(
                self.folder.measurements(), cell.deployment, cell.batch, cell.length
            )
            return () if rate is None else (rate,)
        return ()

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _leave_out(self, cell: Cell, reason: str) -> None:
        line = f"{cell.label}: {reason}"
        self.steps.say(f"not measured: {line}")
        info = self.folder.bundle().info
        if line not in info.skipped:
            skipped = (*info.skipped, line)
            self.folder.write_one("study.json", info.model_copy(update={"skipped": skipped}))
