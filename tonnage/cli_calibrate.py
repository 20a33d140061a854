"""The verb ``tonnage calibrate``, and how its files come into a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from planner.cpu_factor import read_calibration
from reports.calibrated import calibration_text
from serving.calibration import HOST_FAMILY, ROUND_S, Calibration, calibrate, duration_s
from serving.errors import BadInput, InvalidMeasurement
from tonnage.cli_common import Json, print_result
from tonnage.progress import Steps

CALIBRATION = "calibration.json"

Calibrations = Annotated[
    list[str] | None,
    typer.Option(
        "--calibration",
        metavar="[FAMILY=]FILE",
        help="of a target, in the place of its assumed CPU factor; may be repeated",
    ),
]


def calibrate_command(
    out: Annotated[Path, typer.Option("--out", help="file to write")] = Path(CALIBRATION),
    family: Annotated[
        str,
        typer.Option("--family", help="cpu_family in prices.toml that this machine stands for"),
    ] = HOST_FAMILY,
    rounds: Annotated[int, typer.Option("--rounds", min=2, max=100)] = 6,
    json: Json = False,
) -> None:
    """Measure in a minute how fast this host's CPUs are, so that prices elsewhere attach."""
    if not out.parent.is_dir() or out.is_dir():
        raise BadInput(f"--out {out}: must be a file in a folder that exists")
    total = duration_s(rounds)
    with Steps(total) as steps:
        each = (total - duration_s(0)) / rounds
        steps.step("starting the workers", duration_s(0))
        found = calibrate(
            family,
            rounds=rounds,
            round_s=ROUND_S,
            progress=lambda number: steps.step(f"round {number + 1} of {rounds}", each),
        )
    if found.disturbed:
        raise InvalidMeasurement(f"calibrate: {found.disturbed}; {out} was not written")
    beside = out.with_name(out.name + ".part")
    beside.write_text(found.model_dump_json(indent=2) + "\n")
    beside.replace(out)
    print_result(
        {"file": str(out), **found.model_dump(mode="json")},
        f"{calibration_text(found)}\nWritten to {out}",
        json,
    )


def calibrations_of(values: Sequence[str] | None, run: Path) -> list[Calibration]:
    """The files that ``--calibration`` names, each with the family that it is given there.

    That of the run's host may lie in the run's folder. BadInput when one cannot be read.
    """
    if not values:
        return []
    found = []
    for value in values:
        family, separator, path = value.partition("=")
        named = bool(separator) and not Path(value).is_file()
        found.append(read_calibration(Path(path if named else value), family if named else None))
    own = run / CALIBRATION
    return [*found, read_calibration(own, HOST_FAMILY)] if own.is_file() else found
