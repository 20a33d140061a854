"""Order of the cells, and what goes when time is short."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtests.cell import FULL
from serving.placement import divide
from serving.records import Deployment, InstanceType, Variant
from tonnage.cells import (
    Cell,
    duration_s,
    fit_budget,
    floor_cells,
    make_cells,
    order_cells,
    reference_cell,
)
from tonnage.config import MeasureGrid, Reference

SIZES = [
    InstanceType.model_validate(
        {
            "name": f"sim-{v:g}",
            "vcpus": v,
            "memory_gib": 1,
            "enforcement": "quota" if v < 1 else "cpuset",
            "cpu_family": "host",
        }
    )
    for v in (0.25, 0.5, 1, 2)
]
GRID = MeasureGrid(
    batches=(1, 100),
    instances=tuple(s.name for s in SIZES),
    threads=(1, 2),
    baseline_instances=("sim-1",),
    reference=Reference(variant="fast", instance="sim-1", batch=100),
)


@pytest.fixture
def cells(make_stub: Callable[..., Variant]) -> list[Cell]:
    variants = [make_stub(name="base"), make_stub(name="fast")]
    made, _ = make_cells(GRID, variants, "base", {s.name: s for s in SIZES}, divide([(0,), (1,)]))
    return made


@pytest.fixture
def reference(make_stub: Callable[..., Variant]) -> Cell:
    deployment = Deployment(variant=make_stub(name="fast"), instance=SIZES[2], threads=1)
    return Cell(deployment, 100, "reference")


def test_only_truthful_cells_are_made(make_stub: Callable[..., Variant]) -> None:
    """Two CPUs are left to prediction, with the reason; the baseline keeps to its size."""
    variants = [make_stub(name="base"), make_stub(name="fast")]
    made, skipped = make_cells(
        GRID, variants, "base", {s.name: s for s in SIZES}, divide([(0,), (1,)])
    )
    names = {(c.deployment.variant.name, c.deployment.instance.name) for c in made}
    assert names == {("base", "sim-1"), *(("fast", f"sim-{v}") for v in ("0.25", "0.5", "1"))}
    assert {c.deployment.threads for c in made} == {1}  # two threads on one CPU only wait
    assert len(skipped) == 1
    assert "left to prediction" in skipped[0]


def test_order_is_seeded_and_deployments_stay_together(cells: list[Cell], reference: Cell) -> None:
    """The same seed gives the same order; no deployment is made twice for its batches."""
    order = order_cells(cells, reference, 3, seed=5)
    assert order == order_cells(cells, reference, 3, seed=5)
    assert order != order_cells(cells, reference, 3, seed=6)
    assert [c.role for c in order].count("reference") == 3
    assert order[0].role == order[-1].role == "reference"
    plain = [c.deployment.cell_id for c in order if c.role == "cell"]
    changes = sum(a != b for a, b in pairwise(plain))
    assert changes == len(set(plain)) - 1


LENGTHS = GRID.model_copy(update={"lengths": (64, 16)})


def test_a_grid_of_lengths_has_a_cell_of_each(make_stub: Callable[..., Variant]) -> None:
    """Told apart when a run goes on; the reference is of the first, floors of none."""
    variants = [make_stub(name="base"), make_stub(name="fast")]
    sizes = {s.name: s for s in SIZES}
    made, _ = make_cells(LENGTHS, variants, "base", sizes, divide([(0,), (1,)]))
    plain, _ = make_cells(GRID, variants, "base", sizes, divide([(0,), (1,)]))
    assert len(made) == 2 * len(plain)
    assert len({cell.key for cell in made}) == len({cell.label for cell in made}) == len(made)
    assert {cell.length for cell in made} == {16, 64}
    assert made[0].label.endswith(", batch 1, 64 tokens")
    assert plain[0].label.endswith(", batch 1")
    assert plain[0].key.endswith("/1/cell")
    first = reference_cell(LENGTHS, variants, sizes)
    assert first.length == 64
    assert {cell.length for cell in floor_cells(LENGTHS, first, variants[0])} == {None}


def test_lengths_that_nobody_demands_go_first(make_stub: Callable[..., Variant]) -> None:
    """Of every demanded batch at the demanded length one cell stays."""
    variants = [make_stub(name="base"), make_stub(name="fast")]
    sizes = {s.name: s for s in SIZES}
    made, _ = make_cells(LENGTHS, variants, "base", sizes, divide([(0,), (1,)]))
    order, dropped = fit_budget(
        made,
        None,
        0,
        seed=1,
        dwell=FULL,
        budget_s=1,
        baseline="base",
        demanded=[1],
        lengths=[16],
    )
    assert [(c.batch, c.length) for c in order] == [(1, 16)]
    asked = [line for line in dropped if "batch 1, 16 tokens" in line]
    assert dropped.index(asked[0]) > len(dropped) / 2


@given(budget=st.floats(10, 300))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_budget_is_respected(cells: list[Cell], reference: Cell, budget: float) -> None:
    """What is kept fits, or only the last cell of each demanded batch is left."""
    order, dropped = fit_budget(
        cells,
        reference,
        3,
        seed=1,
        dwell=FULL,
        budget_s=budget,
        baseline="base",
        demanded=[1, 100],
    )
    kept = [c for c in order if c.role == "cell"]
    lines = [line for line in dropped if not line.startswith(("a repeat", "the time budget"))]
    assert len(kept) + len(lines) == len(cells)
    fast = {c.batch for c in kept if c.deployment.variant.name == "fast"}
    assert fast == {1, 100}
    fits = duration_s(order, FULL) <= budget
    assert fits or len(kept) == 2
    assert fits != dropped[-1:][0].startswith("the time budget") if dropped else fits


def test_the_baseline_and_the_smallest_sizes_go_first(cells: list[Cell], reference: Cell) -> None:
    """Dropping begins with reference repeats, then the baseline, then small sizes."""
    _, dropped = fit_budget(
        cells, reference, 3, seed=1, dwell=FULL, budget_s=60, baseline="base", demanded=[1, 100]
    )
    kinds = ["repeat" if "repeat" in d else "base" if "base" in d else d[:10] for d in dropped]
    assert kinds[:4] == ["repeat", "base", "base", "1 x sim-0."]
