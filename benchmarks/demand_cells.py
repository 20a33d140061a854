"""The cells that the demands' recommendations are made from, measured on the host that tests them.

A recommendation is for the CPU that was profiled, so demands cannot be answered from the grid
of another host. These are the product's own measurements of every variant of a grid on every
size, one replica each: one line a cell, in ``reports/published/planner/demands/``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.grid_records import GRIDS, SHAPES, append, drop_unfinished
from benchmarks.live import Live, built, host_size
from loadtests.records import Measurement
from planner.profile import build_profiles
from planner.records import ServiceProfile
from planner.sharing import with_sharing
from reports.bundle import read_lines
from serving.errors import BadInput
from serving.records import Deployment, Record

FOLDER = Path(__file__).parents[1] / "reports" / "published" / "planner" / "demands"
ONE_REPLICA = tuple((size, threads) for size, threads, replicas in SHAPES if replicas == 1)


class CellRecord(Record):
    """A cell as the product measures it, and the environment that it was measured in."""

    environment: str
    deployment: Deployment
    measurements: tuple[Measurement, ...]

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies it within its workload: (variant, instance, threads)."""
        return self.deployment.variant.name, self.deployment.instance.label, self.deployment.threads


def path_of(workload: str) -> Path:
    """Where the cells of a workload are kept."""
    return FOLDER / f"cells_{workload}.jsonl"


def read_cells(workload: str) -> list[CellRecord]:
    """What was measured so far, whole lines only."""
    path = path_of(workload)
    drop_unfinished(path)
    return list(read_lines(path, CellRecord)) if path.is_file() else []


def profiles_of(cells: Sequence[CellRecord]) -> list[ServiceProfile]:
    """The profiles of all variants that the quality gate lets pass."""
    fine = [cell for cell in cells if cell.deployment.variant.barred is None]
    found = [(build_profiles(cell.measurements)[0], cell.measurements) for cell in fine]
    return [p for made, measurements in found for p in with_sharing(made, measurements)]


def missing(workload: str) -> list[Deployment]:
    """The cells of a workload that are not measured yet."""
    grid = GRIDS[workload]
    made = built(workload, grid.variants)
    done = {cell.key for cell in read_cells(workload)}
    wanted = [
        Deployment(variant=made[name], instance=host_size(size), threads=threads)
        for name in grid.variants
        for size, threads in ONE_REPLICA
    ]
    return [d for d in wanted if (d.variant.name, d.instance.label, d.threads) not in done]


def measure(bench: Live, workload: str) -> None:
    """Measure what is missing; BadInput when there are cells of another environment."""
    if {cell.environment for cell in read_cells(workload)} - {bench.environment}:
        raise BadInput(
            f"{path_of(workload).name} was measured in another environment; remove it to measure "
            "these cells, and answer the demands, anew"
        )
    for deployment in missing(workload):
        label = deployment.instance.label
        sys.stderr.write(f"  cell of {deployment.variant.name} on {label}\n")
        made = bench.cell(deployment, GRIDS[workload].batch)
        made += bench.sharing(made)
        cell = CellRecord(
            environment=bench.environment, deployment=deployment, measurements=tuple(made)
        )
        append(path_of(workload), cell.model_dump_json())
