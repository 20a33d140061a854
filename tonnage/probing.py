"""The cells that a run's plans would have measured next, one after the other, within a budget."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from loadtests.records import Measurement
from planner.measuring import measures_into_run
from planner.probes import rank
from planner.records import Probe
from reports.words import configuration
from serving.errors import BadInput, InvalidMeasurement
from serving.placement import CannotBeMeasured
from tonnage.one_more import Asked, measure_one_more
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder

Place = tuple[str, str, int, int, int | None]


class Probed(NamedTuple):
    """A probed cell: its measurements, and where another plan is recommended since, which one.

    ``failed`` says why nothing came of it.
    """

    asked: Asked
    measured: int
    valid: int
    changed: tuple[str, ...]
    failed: str | None

    def lines(self) -> list[str]:
        """It in words, what changed indented."""
        one = self.asked
        cell = f"{one.variant} on {one.instance}, {one.threads} thread(s), batch {one.batch}"
        if self.failed is not None:
            return [f"{cell}: nothing came of it; {self.failed}"]
        said = f"{cell}: {self.measured} measurements, {self.valid} of them valid"
        if not self.changed:
            return [f"{said}; what is recommended stays"]
        return [f"{said}; recommended now:", *(f"  {line}" for line in self.changed)]

    def record(self) -> dict[str, Any]:
        """It for a machine."""
        one = self.asked
        return {
            "variant": one.variant,
            "instance": one.instance,
            "threads": one.threads,
            "batch": one.batch,
            "length": one.length,
            "added": self.measured,
            "valid": self.valid,
            "changed": list(self.changed),
            "failed": self.failed,
        }


def measure_probes(
    folder: RunFolder, budget_s: float, steps: Steps
) -> tuple[list[Probed], list[str]]:
    """Measure the best probe, plan anew, and so on while one is left that fits into the budget.

    Each new plan names its own probes, so a cell that turned out slow is not followed by those
    that hoped for as much. No cell is measured twice. Returns what was measured, and the warnings
    of the last plan; an interruption loses the cell that is being measured, no earlier one.

    BadInput where the run has no plan, or its cells are measured by a command of their own;
    otherwise the errors of :func:`tonnage.one_more.measure_one_more`, but a cell that gives no
    valid measurement, or that this host cannot hold, is told of and left.
    """
    done: list[Probed] = []
    warnings: list[str] = []
    tried: set[Place] = set()
    began = time.monotonic()
    while (found := _next(folder, tried, budget_s - (time.monotonic() - began))) is not None:
        probe, length = found
        tried.add(_place(probe, length))
        asked = Asked(
            variant=probe.variant,
            instance=probe.size,
            threads=probe.threads,
            batch=probe.batch,
            length=length,
        )
        steps.say(f"Measured next: {probe.variant} on {probe.size}; {probe.why}.")
        before = _best(folder)
        made: list[Measurement] = []
        failed = None
        try:
            made, warnings = measure_one_more(folder, asked, steps)
        except (InvalidMeasurement, CannotBeMeasured) as error:
            failed = str(error)
        after = _best(folder)
        changed = tuple(after[name] for name in after if before[name] != after[name])
        done.append(Probed(asked, len(made), sum(m.valid for m in made), changed, failed))
    return done, warnings


def _next(
    folder: RunFolder, tried: Collection[Place], left_s: float
) -> tuple[Probe, int | None] | None:
    """The best probe of all demands that was not tried and fits, with its demand's length."""
    answers = folder.bundle().recommendations
    if not answers:
        raise BadInput(f"{folder.path}: has no plan that could name cells; let its study end first")
    every = [(probe, a.demand.length) for a in answers for probe in a.probes]
    for probe, _ in every:
        if not measures_into_run(probe.command):
            raise BadInput(
                f"{folder.path}: its cells are measured by their own command, such as\n"
                f"  {probe.command}"
            )
    left = [(p, n) for p, n in every if p.seconds <= left_s and _place(p, n) not in tried]
    return min(left, key=lambda one: rank(one[0])) if left else None


def _place(probe: Probe, length: int | None) -> Place:
    return probe.variant, probe.size, probe.threads, probe.batch, length


def _best(folder: RunFolder) -> dict[str, str]:
    """What is recommended for each demand, in words."""
    return {
        answer.demand.name: f"{answer.demand.title}: "
        + ("nothing holds" if answer.best is None else configuration(answer.best))
        for answer in folder.bundle().recommendations
    }
