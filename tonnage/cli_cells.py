"""``tonnage measure RUN``: a cell that is named, or those that the run's plan names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from serving.errors import BadInput
from tonnage.cli_common import print_result, warn
from tonnage.durations import seconds_of
from tonnage.progress import Steps

_BUDGET = "5m"
"""Without --time-budget: as much as the probes of a plan fill."""


def beyond_a_cell(*given: dict[str, Any]) -> dict[str, Any]:
    """Those of the options given that no cell of a run has."""
    own = ("--instance", "--threads", "--batch", "--length", "--payload")
    return {name: value for one in given for name, value in one.items() if name not in own}


def but_for_time(of_study: dict[str, Any]) -> dict[str, Any]:
    """Those of a study's options that measuring what a plan lacks has no use for."""
    return {name: value for name, value in of_study.items() if name != "--time-budget"}


def one_more(
    run: Path,
    variant: str,
    instance: str | None,
    threads: int | None,
    batch: str | None,
    length: int | None,
    payload: list[str] | None,
    json: bool,
) -> None:
    """Measure one more cell into a run's folder, and say what is recommended now."""
    from reports.terminal import recommendation_text
    from tonnage.one_more import Asked, measure_one_more, taken

    if batch is not None and not batch.isdigit():
        raise BadInput(f"--batch {batch}: a cell has one batch size, such as 8")
    if len(payload or ()) > 1:
        raise BadInput("--payload: a cell has one file of rows; give it once")
    folder = taken(run)
    asked = Asked(
        variant=variant,
        instance=instance or "sim-1",
        threads=threads or 1,
        batch=int(batch or 1),
        length=length,
        payload=Path(payload[0]) if payload else None,
    )
    with Steps(60.0) as steps:
        made, warnings = measure_one_more(folder, asked, steps)
    for warning in warnings:
        warn(warning)
    path = folder.path / "measurements.jsonl"
    valid = sum(m.valid for m in made)
    said = f"{len(made)} measurements added to {path}, {valid} of them valid"
    record = {"measurements": str(path), "added": len(made), "valid": valid}
    print_result(record, f"{said}\n\n{recommendation_text(folder.bundle()).rstrip()}", json)


def what_the_plan_lacks(run: Path, time_budget: str | None, json: bool) -> None:
    """Measure the cells that the plan names, and say what each changed and what is best now."""
    from reports.terminal import recommendation_text
    from tonnage.one_more import taken
    from tonnage.probing import measure_probes

    budget_s = seconds_of(time_budget or _BUDGET, "--time-budget")
    folder = taken(run)
    with Steps(budget_s) as steps:
        done, warnings = measure_probes(folder, budget_s, steps)
    for warning in warnings:
        warn(warning)
    if not done:
        text = (
            f"{folder.path}: its plan names no cell worth measuring that fits into {budget_s:g} s"
        )
    else:
        text = "\n".join(line for one in done for line in one.lines())
    record = [one.record() for one in done]
    print_result(record, f"{text}\n\n{recommendation_text(folder.bundle()).rstrip()}", json)
    if done and not any(one.valid for one in done):
        raise typer.Exit(3)
