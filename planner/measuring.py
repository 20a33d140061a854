"""The command that measures one cell, for whoever is told that it was not."""

from __future__ import annotations

from planner.records import Candidate, Demand

MEASURE_IT = "; measure this: "
"""Between a reason and the command."""


def measure_command(candidate: Candidate, demand: Demand, measure_with: str | None = None) -> str:
    """The command that measures one cell, so that the next plan knows it.

    ``measure_with`` is how a cell is added to the run, ``tonnage measure RUN``, or the command of a
    run that is measured as a whole, ``tonnage run --model ...``.
    """
    begin = measure_with or "tonnage measure RUN"
    if not measures_into_run(begin):
        words = begin.split()
        batch = words[words.index("--batch") + 1] if "--batch" in words else "1"
        other = "" if batch == str(demand.batch) else f" --batch {demand.batch}"
        return f"{begin} --instance {candidate.size}{other}"
    tokens = "" if demand.length is None else f" --length {demand.length}"
    return (
        f"{begin} --variant {candidate.variant} --instance {candidate.size} "
        f"--threads {candidate.threads} --batch {demand.batch}{tokens}"
    )


def measures_into_run(command: str) -> bool:
    """Whether a command adds a cell to a run that exists, as that of a study does."""
    return not command.startswith("tonnage run")
