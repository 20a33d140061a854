"""How long planning takes, as a part of a suite; see :mod:`benchmarks.planning`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from benchmarks import planning
from benchmarks.prediction import met


def parts() -> dict[str, Callable[[], dict[str, Any]]]:
    """All of it in one part."""
    return {"planning_speed": planning.measured}


def render(results: Mapping[str, Any]) -> list[str]:
    """Rows of the table of aims and figures: one a demand."""
    lines = []
    for one in results.values():
        for name, runs in one["demands"].items():
            seconds = median(run["seconds"] for run in runs)
            gib = median(run["peak_gib"] for run in runs)
            fine = seconds <= planning.AIM_S and gib <= planning.AIM_GIB
            lines.append(
                f"| planning {runs[0]['candidates']:,} candidates for the demand '{name}' "
                f"| at most {planning.AIM_S:g} s and {planning.AIM_GIB:g} GiB "
                f"| {seconds:.2f} s, {gib:.2f} GiB, {met(fine)} |"
            )
        seconds = median(one["what_if"]["seconds"])
        lines.append(
            f"| what-if from the records of a run | at most {planning.AIM_WHAT_IF_S:g} s "
            f"| {seconds:.2f} s, {met(seconds <= planning.AIM_WHAT_IF_S)} |"
        )
    return lines
