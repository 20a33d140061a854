"""What follows from a run's records, written into its folder: profiles, curves, plans, reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from planner.records import Demand
from reports.write import write_reports
from tonnage.config import Study
from tonnage.planning import SURFACES, curves_of, plan, planned_from, surfaces_of
from tonnage.run_folder import RunFolder


def write_planned(
    folder: RunFolder, study: Study, study_path: Path, demands: Sequence[Demand]
) -> list[str]:
    """Plan for ``demands`` and write everything that comes of it; returns the warnings.

    What was written before is replaced. Raises the errors of :func:`tonnage.planning.plan`.
    """
    profiles, answers, warnings = plan(folder, study, study_path, demands)
    folder.write_lines("profiles.jsonl", profiles)
    folder.write_lines("curves.jsonl", curves_of(profiles, answers, study.seed))
    folder.write_lines("recommendations.jsonl", answers)
    every = planned_from(profiles, study, study_path, demands)
    folder.write_lines(SURFACES, surfaces_of(every, study.seed))
    write_reports(folder.path)
    return warnings
