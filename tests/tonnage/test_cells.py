"""Order of the cells, and what goes when time is short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtests.dwell import FLOOR, FULL, SHARING
from serving.placement import divide
from serving.records import COMMAND, BenchRow, Deployment, InstanceType, Variant
from tonnage.cells import (
    DEPLOY_S,
    Cell,
    ceiling_cells,
    duration_s,
    fit_budget,
    floor_cells,
    make_cells,
    order_cells,
    reference_cell,
    sharing_cells,
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
    floors = floor_cells(made, first, variants[0])
    assert {cell.length for cell in floors} == {None}
    assert len(floors) == 3 * 2, "one a size and batch, whatever the lengths"


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


@pytest.fixture
def noops(
    cells: list[Cell], reference: Cell, make_stub: Callable[..., Variant]
) -> tuple[list[Cell], list[Cell]]:
    """Floors of the cells, and ceilings of a host with room for one replica."""
    noop = make_stub(name="noop")
    ceilings = ceiling_cells(GRID.batches, reference, noop, divide([(0,), (1,)]))
    return floor_cells(cells, reference, noop), ceilings


def test_each_size_has_its_own_floor(
    cells: list[Cell], reference: Cell, make_stub: Callable[..., Variant]
) -> None:
    """One no-op a size and batch that is measured, with no more threads than it has vCPUs."""
    two = reference.deployment.model_copy(update={"threads": 2})
    floors = floor_cells(cells, Cell(two, 100, "reference"), make_stub(name="noop"))
    sizes = ("sim-0.25", "sim-0.5", "sim-1")
    found = sorted((c.deployment.instance.name, c.batch) for c in floors)
    assert found == [(size, batch) for size in sizes for batch in (1, 100)]
    assert {c.role for c in floors} == {"floor"}
    assert {c.deployment.replicas for c in floors} == {c.deployment.threads for c in floors} == {1}
    only = [c for c in cells if c.deployment.instance.name == "sim-0.5" and c.batch == 1]
    assert len(floor_cells(only, reference, make_stub(name="noop"))) == 1


def test_a_ceiling_has_a_ladder_of_its_own(
    reference: Cell, make_stub: Callable[..., Variant]
) -> None:
    """Also where there is room for one replica only, which the floor shares with it."""
    noop = make_stub(name="noop")
    for cpus, replicas in ((2, 1), (4, 3)):
        made = ceiling_cells(GRID.batches, reference, noop, divide([(n,) for n in range(cpus)]))
        assert [(c.batch, c.deployment.replicas) for c in made] == [(1, replicas), (100, replicas)]


def test_as_many_replicas_as_a_core_holds_say_what_sharing_it_costs(
    cells: list[Cell], make_stub: Callable[..., Variant]
) -> None:
    """Of each deployment under a quota, at its largest batch; whole CPUs are not shared."""
    made = sharing_cells(cells)
    assert {c.role for c in made} == {"sharing"}
    found = {(c.deployment.instance.name, c.deployment.replicas, c.batch) for c in made}
    assert found == {("sim-0.25", 4, 100), ("sim-0.5", 2, 100)}
    assert len(made) == 2
    assert all("sharing a core" in c.label for c in made)
    big = SIZES[1].model_copy(update={"name": "big", "vcpus": 0.6})
    one = Cell(cells[0].deployment.model_copy(update={"instance": big}), 1)
    assert sharing_cells([one]) == [], "a core holds one of them"
    own = make_stub(name="own").model_copy(update={"runtime": COMMAND})
    server = Deployment(variant=own, instance=SIZES[0], threads=0)
    assert sharing_cells([Cell(server, 1)]) == []


@pytest.mark.parametrize("seed", range(8))
def test_shared_cores_come_behind_the_single_replica(
    cells: list[Cell], reference: Cell, noops: tuple[list[Cell], list[Cell]], seed: int
) -> None:
    """Whose rate they are driven at; nothing but the reference is between, and floors stay last."""
    shared = sharing_cells(cells)
    order = order_cells([*shared, *noops[0], *noops[1], *cells], reference, 3, seed)
    for one in shared:
        alone = one.deployment.model_copy(update={"replicas": 1})
        last = max(i for i, c in enumerate(order) if c.deployment == alone and c.role == "cell")
        assert {c.role for c in order[last + 1 : order.index(one)]} <= {"reference"}
    for floor in noops[0]:
        size = floor.deployment.instance
        models = [i for i, c in enumerate(order) if c.deployment.instance == size]
        models = [i for i in models if order[i].role in ("cell", "sharing")]
        assert models[-1] < order.index(floor)
    added = duration_s(shared, FULL)
    assert added == pytest.approx(2 * (DEPLOY_S + SHARING.opened_s()))


def test_what_sharing_costs_goes_before_any_cell_does(cells: list[Cell], reference: Cell) -> None:
    """It is worth less than a size that is measured."""
    every = [*cells, *sharing_cells(cells)]
    _, dropped = fit_budget(
        every, reference, 3, seed=1, dwell=FULL, budget_s=80, baseline="base", demanded=[1, 100]
    )
    kinds = ["repeat" if "repeat" in d else "sharing" if "sharing" in d else "" for d in dropped]
    assert kinds[:3] == ["repeat", "sharing", "sharing"]


@pytest.mark.parametrize("seed", range(8))
def test_a_floor_comes_behind_the_last_cell_of_its_size(
    cells: list[Cell], reference: Cell, noops: tuple[list[Cell], list[Cell]], seed: int
) -> None:
    """Its rates are then known, and little time lies between; no deployment is made twice."""
    order = order_cells([*noops[0], *noops[1], *cells], reference, 3, seed)
    assert len(order) == len(cells) + sum(map(len, noops)) + 3
    for floor in noops[0]:
        size = floor.deployment.instance.name
        places = [i for i, c in enumerate(order) if c.deployment.instance.name == size]
        models = [i for i in places if order[i].role == "cell"]
        assert models[-1] < order.index(floor)
        between = order[models[-1] + 1 : order.index(floor)]
        assert {c.role for c in between} <= {"reference", "floor", "ceiling"}
    plain = [c.deployment.cell_id for c in order if c.role != "reference"]
    assert sum(a != b for a, b in pairwise(plain)) == len(set(plain)) - 1


def test_what_floors_add_is_in_the_estimate(
    cells: list[Cell], reference: Cell, noops: tuple[list[Cell], list[Cell]]
) -> None:
    """A floor takes a part of a cell's time; each other size is one more deployment."""
    floors, ceilings = noops
    without = duration_s(order_cells(cells, None, 0, seed=1), FULL)
    added = duration_s(order_cells([*cells, *floors], None, 0, seed=1), FULL) - without
    assert added == pytest.approx(6 * FLOOR.floor_s + 3 * DEPLOY_S)
    ladders = duration_s(order_cells([*cells, *floors, *ceilings], None, 0, seed=1), FULL)
    assert ladders - without - added == pytest.approx(2 * FULL.ladder_s), "the floor's deployment"
    assert FLOOR.floor_s < 0.65 * FULL.cell_s()


def test_slow_models_are_known_to_take_longer(cells: list[Cell], reference: Cell) -> None:
    """20 ms a call: 399 requests at half and at seven tenths of 50 req/s, 100 between paced ones.

    On half a CPU it is twice as slow, with thrice as many rows thrice. What was not timed counts as
    fast; a budget drops more.
    """
    row = BenchRow(
        variant="fast",
        batch=100,
        threads=1,
        oversubscribed=False,
        n_calls=9,
        p50_ms=20,
        p95_ms=20,
        p99_ms=20,
        rows_per_s=5_000,
        peak_rss_bytes=1,
        load_s=0.1,
    )
    rushed = {"idle_s": 0.0, "warmup_s": 0.0, "rung_s": 0.0}
    one = next(c for c in cells if c.key == reference.key.replace("reference", "cell"))
    half = next(
        c
        for c in cells
        if c.batch == 100
        and c.deployment.instance.vcpus == 0.5
        and c.deployment.variant.name == "fast"
    )
    dwell = replace(FULL, **rushed, longest_open_s=99.0)
    fixed = DEPLOY_S + 0.12 * 9
    samples = 399 + 40  # and twice their deviation
    expected = 0.02 * (100 + 5 * 40 + samples / 0.5 + samples / 0.7)
    assert duration_s([one], dwell, [row]) == pytest.approx(fixed + expected, rel=0.01)
    assert duration_s([half], dwell, [row]) == pytest.approx(fixed + 2 * expected, rel=0.01)
    more = replace(one, batch=300)
    assert duration_s([more], dwell, [row]) == pytest.approx(fixed + 3 * expected, rel=0.01)
    untimed = [c for c in cells if c.batch == 1]
    assert duration_s(untimed, FULL, [row]) == duration_s(untimed, FULL)
    enough = duration_s(order_cells(cells, reference, 2, seed=1), FULL)
    given = {"seed": 1, "dwell": FULL, "budget_s": enough, "baseline": "base", "demanded": [100]}
    kept, slow = (fit_budget(cells, reference, 2, **given, bench=b)[0] for b in ([], [row]))
    assert len(slow) < len(kept) == len(cells) + 2


def test_floors_of_other_sizes_go_before_anything_else(
    cells: list[Cell], reference: Cell, noops: tuple[list[Cell], list[Cell]]
) -> None:
    """Then the reference's own, then the ceiling, then cells; each has a line that says so."""
    every = [*noops[0], *noops[1], *cells]
    needed = duration_s(order_cells(every, reference, 2, seed=1), FULL)
    given = {
        "seed": 1,
        "dwell": FULL,
        "baseline": "base",
        "demanded": [1, 100],
    }
    order, dropped = fit_budget(every, reference, 2, budget_s=needed, **given)
    assert (len(order), dropped) == (len(every) + 2, [])
    order, dropped = fit_budget(every, reference, 2, budget_s=needed - 1, **given)
    assert dropped == [
        "1 x sim-0.25 (quota), noop, 1 thread, batch 1 (the platform's floor): "
        "dropped to respect the time budget"
    ]
    _, dropped = fit_budget(every, reference, 2, budget_s=1, **given)
    kinds = [
        "ceiling" if "ceiling" in line else line[4:11] if "floor" in line else "cell"
        for line in dropped[:-1]
    ]
    other = ["sim-0.2", "sim-0.2", "sim-0.5", "sim-0.5", "sim-1 (", "sim-1 ("]
    assert kinds[:8] == [*other, "ceiling", "ceiling"]
    assert set(kinds[8:]) == {"cell"}
