"""What the verbs of the command line share: options, and how results are written."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from tonnage.config import load_study
from tonnage.durations import seconds_of
from tonnage.run_folder import RunFolder
from tonnage.study import StudyRun

StudyArgument = Annotated[str, typer.Argument(help="a study's TOML file, or a shipped one's name")]
RunArgument = Annotated[Path, typer.Argument(help="a run's folder, or runs/STUDY for its newest")]
Quick = Annotated[bool, typer.Option("--quick", help="a smoke version in about a minute")]
Budget = Annotated[str | None, typer.Option("--time-budget", help="such as 5m or 90s")]
Fresh = Annotated[bool, typer.Option("--fresh", help="do not resume an interrupted run")]
Runs = Annotated[Path, typer.Option("--runs", help="folder that holds the runs")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]


def study_run(
    argument: str,
    quick: bool,
    time_budget: str | None,
    fresh: bool,
    runs: Path,
    until: str = "plan",
) -> StudyRun:
    """The run that a study's options ask for: an interrupted one of its kind, or a new one."""
    config, path = load_study(argument)
    budget = None if time_budget is None else seconds_of(time_budget, "--time-budget")
    made = StudyRun(config, path, RunFolder(Path()), quick=quick, budget_s=budget, until=until)
    return into_folder(made, fresh, runs)


def into_folder(made: StudyRun, fresh: bool, runs: Path) -> StudyRun:
    """Check all that the run names, then give it an interrupted run's folder, or a new one."""
    made.check()
    name = made.study.name
    earlier = None if fresh else RunFolder.unfinished(runs, name, made.config_hash)
    made.folder = earlier or RunFolder.create(runs, name)
    made.folder.lock()
    return made


def print_result(value: Any, text: str, json: bool) -> None:
    """A result on stdout: for a machine, or for a person."""
    sys.stdout.write(dump(value) if json else text + "\n")


def dump(value: Any) -> str:
    """JSON that a person can read, too."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"


def note(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(text + "\n")


def warn(text: str) -> None:
    """A warning on stderr."""
    sys.stderr.write(f"warning: {text}\n")


def log_file(verb: str) -> Path:
    """Where the messages of Ray and Locust go when there is no run folder."""
    return Path(tempfile.gettempdir()) / f"tonnage-{verb}-{os.getuid()}.log"
