"""The planner's choice against exhaustive measurement of a grid of 72 configurations.

The raw records are kept in ``reports/published/planner/grid/``, one line a configuration, and
measuring goes on where it was interrupted. They can be replayed anywhere: what the planner
would have chosen from a few profiles is computed from them, see :mod:`benchmarks.grid_replay`.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.grid_records import (
    DWELL_S,
    GRIDS,
    SHAPES,
    Grid,
    GridRecord,
    append,
    behind,
    path_of,
    read_grid,
    whole_grid,
)
from benchmarks.grid_replay import BUDGET_SHARE, PICKED, WITHIN, score
from benchmarks.live import SEED, Live, built, host_size, live
from benchmarks.prediction import met
from loadtests.records import Measurement
from serving.errors import BadInput
from serving.records import Deployment, Variant

Result = dict[str, Any]
TRIES = 3


def measured(grid: Grid, variant: str) -> Result:
    """All shapes of one variant that are not measured yet."""
    done = {record.key for record in read_grid(grid.workload)}
    left = [shape for shape in SHAPES if (variant, *shape) not in done]
    random.Random(SEED).shuffle(left)  # so that a host that slows down favours no size
    if left:
        made = built(grid.workload, grid.variants)[variant]
        with live() as bench:
            _same_environment(grid, bench.environment)
            first = _deployment(made, SHAPES[-2])
            began = time.monotonic()
            bench.floor(first, grid.batch, ladder_only=True)
            ladder_seconds = time.monotonic() - began
            for shape in left:
                sys.stderr.write(f"  {variant} on {shape[2]} x {shape[0]}, {shape[1]} thread(s)\n")
                deployment = _deployment(made, shape)
                record = _configuration(bench, grid, deployment, ladder_seconds)
                append(path_of(grid.workload), record.model_dump_json())
    return {"measured": len([r for r in read_grid(grid.workload) if r.key[0] == variant])}


def _deployment(variant: Variant, shape: tuple[str, int, int]) -> Deployment:
    size, threads, replicas = shape
    return Deployment(variant=variant, instance=host_size(size), threads=threads, replicas=replicas)


def _same_environment(grid: Grid, environment: str) -> None:
    found = {record.environment for record in read_grid(grid.workload)}
    if found - {environment}:
        raise BadInput(
            f"{path_of(grid.workload).name} was measured in another environment; remove it to "
            "measure the grid anew"
        )


def _configuration(
    bench: Live, grid: Grid, deployment: Deployment, ladder_seconds: float
) -> GridRecord:
    seconds = bench.deploy(deployment, anew=True)
    cell: list[Measurement] = []
    cell_seconds = 0.0
    if deployment.replicas == 1:
        began = time.monotonic()
        cell = bench.cell(deployment, grid.batch)
        cell_seconds = seconds + time.monotonic() - began
    truth = []
    for rate in grid.rates_rps:
        for attempt in range(TRIES):
            began = time.monotonic()
            run, _ = bench.drive(deployment, grid.batch, rate, DWELL_S, round(rate) + attempt)
            spent = time.monotonic() - began
            if run.valid or behind(run):
                break
        seconds += spent
        truth.append(run)
        if behind(run):
            break
    return GridRecord(
        workload=grid.workload,
        deployment=deployment,
        batch=grid.batch,
        rates_rps=grid.rates_rps,
        dwell_s=DWELL_S,
        environment=bench.environment,
        ladder_seconds=round(ladder_seconds, 2),
        seconds=round(seconds, 2),
        truth=tuple(truth),
        cell_seconds=round(cell_seconds, 2),
        cell=tuple(cell),
    )


def scored(grid: Grid) -> Result:
    """What the planner, random search and the rule of thumb make of the records."""
    return score(whole_grid(grid.workload), grid.rates_rps, grid.limits_ms)


def parts() -> dict[str, Callable[[], Result]]:
    """A part for each variant, then one that scores each workload."""
    made: dict[str, Callable[[], Result]] = {}
    for grid in GRIDS.values():
        for variant in grid.variants:
            made[f"grid_{grid.workload}_{variant}"] = partial(measured, grid, variant)
    for grid in GRIDS.values():
        made[f"grid_score_{grid.workload}"] = partial(scored, grid)
    return made


def render(results: Mapping[str, Any]) -> list[str]:
    """Rows of the table of aims and figures: one for each workload and way of choosing."""
    lines = []
    for part, one in results.items():
        if not part.startswith("grid_score_"):
            continue
        workload = part.removeprefix("grid_score_")
        asked = len(one["demands"])
        planner, thumb = one["planner"], one["rule_of_thumb"]
        share = one["planner_seconds"] / one["exhaustive_seconds"]
        fine = planner["within"] == asked and share <= BUDGET_SHARE
        lines += [
            f"| {workload}: the planner's choices of {asked} that hold and cost at most "
            f"{WITHIN:.0%} more than the true optimum; measuring time against all of it, the "
            f"no-op ladder of {one['ladder_seconds']:.0f} s counted in both "
            f"| all; at most {BUDGET_SHARE:.0%} | {_chosen(planner, asked)}; {share:.0%} of "
            f"{one['exhaustive_seconds']:,.0f} s; {len(one['profiles'])} cells, {PICKED}, "
            f"{met(fine)} |",
            f"| {workload}: random search in the same time | - | "
            f"{one['random']['within']:.1f} of {asked} in the mean of "
            f"{one['random']['searches']} searches |",
            f"| {workload}: rule of thumb, ceil(R / (0.7 Xmax)) + 1, from the same profiles | - "
            f"| {_chosen(thumb, asked)}; {_compared(planner, thumb)} |",
        ]
        lines += [f"| {workload}: miss | - | {miss} |" for miss in planner["misses"]]
        lines += [_predicted(workload, k, some) for k, some in one["predictions"].items()]
    return lines


def _predicted(workload: str, replicas: str, some: Mapping[str, Any]) -> str:
    runs = some["runs"]
    return (
        f"| {workload}: the planner's p99 and interval against runs of {DWELL_S:g} s, whose "
        f"p99 varies by a tenth by chance, {replicas} replica(s) | - | median error "
        f"{some['median_error']:.0%}; {some['inside']} of {runs} inside, {some['above']} above |"
    )


def _chosen(found: Mapping[str, Any], asked: int) -> str:
    excess = found["mean_excess"]
    dearer = "" if excess is None else f", those that hold cost {excess:.0%} more in the mean"
    return f"{found['within']} of {asked} ({found['hold']} hold{dearer})"


def _compared(planner: Mapping[str, Any], thumb: Mapping[str, Any]) -> str:
    if planner["within"] > thumb["within"]:
        return "the simulation beats it"
    return "**the simulation does not beat it**"
