"""The report of a workload's own study, run once and published beside the bench's figures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from reports.write import write_reports

# Without report.json: a megabyte or two of a run's records each, which the run's folder has.
PARTS = ("report.md", "latency.svg")


def publish_report(name: str, state: Path, published: Path) -> bool:
    """Run the study ``name`` unless ``state`` holds a finished run of it; copy its report.

    An interrupted run goes on. False when the run ended in an error, which it has told itself;
    that nothing holds (exit code 1) is an answer. Commands in the report name the run's folder as
    it is given to the run: seen from where the bench was started, not a path of one machine.
    """
    runs = state / "study"
    if not _finished(runs):
        command = [sys.executable, "-P", "-m", "tonnage", "run", name]
        command += ["--runs", os.path.relpath(runs)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 1) or not _finished(runs):
            return False
    folder = _finished(runs)[-1].parent
    write_reports(folder, picture=True)
    published.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if (folder / part).is_file():
            shutil.copy(folder / part, published / part)
    return True


def _finished(runs: Path) -> list[Path]:
    return sorted(runs.glob("*/*/finished"))
