"""Which cells a study measures, in which order, and which go when time is short."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from loadtests.dwell import FLOOR, SHARING, Dwell
from serving.errors import BadInput
from serving.placement import CannotBeMeasured, Placement, check_measurable, cpus_needed
from serving.records import COMMAND, BenchRow, Deployment, InstanceType, Variant
from tonnage.config import MeasureGrid

# As measured: deploy 2-4 s, delete 1 s.
DEPLOY_S = 4.5
REFERENCE_S = 3.0


@dataclass(frozen=True)
class Cell:
    """One deployment at one batch size, and at one length of rows where lengths are measured."""

    deployment: Deployment
    batch: int
    role: Literal["cell", "sharing", "reference", "floor", "ceiling"] = "cell"
    length: int | None = None

    @property
    def label(self) -> str:
        """The cell in words."""
        tokens = "" if self.length is None else f", {self.length:,} tokens"
        aim = f" (the platform's {self.role})" if self.role in ("floor", "ceiling") else ""
        aim = " (what sharing a core costs)" if self.role == "sharing" else aim
        return f"{self.deployment.label}, batch {self.batch:,}{tokens}{aim}"

    @property
    def key(self) -> str:
        """Identifies the cell across interruptions."""
        tokens = "" if self.length is None else f"/{self.length}"
        return f"{self.deployment.cell_id}/{self.batch}/{self.role}{tokens}"


def make_cells(
    grid: MeasureGrid,
    variants: Sequence[Variant],
    baseline: str,
    instances: Mapping[str, InstanceType],
    placement: Placement,
    *,
    quotas: bool = True,
) -> tuple[list[Cell], list[str]]:
    """All cells that can be measured truthfully here, and a line for each size that can't.

    ``quotas`` says whether this host enforces fractions of a CPU.
    """
    cells: list[Cell] = []
    skipped: list[str] = []
    for instance in instances.values():
        try:
            check_measurable(instance, 1, placement)
        except CannotBeMeasured as reason:
            skipped.append(f"{instance.name}: {reason}")
            continue
        if instance.enforcement == "quota" and not quotas and not instance.is_container:
            skipped.append(f"{instance.name}: a quota needs control groups, which this host denies")
            continue
        for variant in variants:
            if grid.variants is not None and variant.name not in grid.variants:
                continue
            limited = grid.baseline_instances is not None and variant.name == baseline
            if limited and instance.name not in (grid.baseline_instances or ()):
                continue
            for threads in threads_of(variant, grid):
                if threads > max(1, instance.vcpus):
                    continue  # more threads than vCPUs only wait for each other
                deployment = Deployment(variant=variant, instance=instance, threads=threads)
                cells += [
                    Cell(deployment, batch, length=length)
                    for batch in grid.batches
                    for length in grid.lengths or (None,)
                ]
    return cells, skipped


def threads_of(variant: Variant, grid: MeasureGrid) -> tuple[int, ...]:
    """Thread counts that a variant is tried with; the server of a user has its own."""
    return (0,) if variant.runtime == COMMAND else grid.threads


def draft_variants(workload: str, names: Sequence[str]) -> list[Variant]:
    """Variants that are not built yet, to see which cells there will be."""
    draft = Variant(
        workload=workload,
        name="",
        runtime="stub",
        precision="",
        file="",
        sha256="",
        size_bytes=0,
        inputs=(),
        outputs=(),
    )
    return [draft.model_copy(update={"name": name}) for name in names]


def reference_cell(
    grid: MeasureGrid, variants: Sequence[Variant], instances: Mapping[str, InstanceType]
) -> Cell:
    """The cell that is repeated. BadInput when the study names one that is not in it."""
    wanted = grid.reference
    variant = next((v for v in variants if v.name == wanted.variant), None)
    instance = instances.get(wanted.instance)
    if variant is None or instance is None:
        raise BadInput(
            f"[measure.reference]: {wanted.variant} on {wanted.instance} is not in the study; "
            "name one of its variants and instances"
        )
    deployment = Deployment(
        variant=variant, instance=instance, threads=threads_of(variant, grid)[0]
    )
    return Cell(deployment, wanted.batch, "reference", next(iter(grid.lengths), None))


def fill_a_core(size: InstanceType) -> int:
    """How many replicas of ``size`` fill a core together; 1 where none share one."""
    if size.is_container or size.enforcement != "quota":
        return 1
    return max(1, int(1 / size.vcpus + 1e-9))


def sharing_cells(cells: Sequence[Cell]) -> list[Cell]:
    """As many replicas as a core holds, of each deployment in ``cells`` under a quota.

    At the largest batch and length that it is measured at: what it costs to find the caches as
    others left them. None for servers of the user's own, whose replicas are somebody else's.
    """
    made: dict[str, Cell] = {}
    largest = sorted(cells, key=lambda cell: (cell.batch, cell.length or 0), reverse=True)
    for cell in largest:
        together = fill_a_core(cell.deployment.instance)
        if cell.deployment.variant.runtime == COMMAND or together < 2:
            continue
        deployment = cell.deployment.model_copy(update={"replicas": together})
        made.setdefault(
            deployment.cell_id, Cell(deployment, cell.batch, "sharing", length=cell.length)
        )
    return list(made.values())


def floor_cells(cells: Sequence[Cell], reference: Cell, noop: Variant) -> list[Cell]:
    """A no-op alone on each size that ``cells`` measure, at each of its batches: its floor.

    Only its latency is wanted; what the platform carries is the ceiling's.
    """
    made: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        size = cell.deployment.instance
        threads = min(reference.deployment.threads, max(1, int(size.vcpus)))
        update = {"variant": noop, "instance": size, "threads": threads}
        deployment = reference.deployment.model_copy(update=update)
        made.setdefault((size.name, cell.batch), Cell(deployment, cell.batch, "floor"))
    return list(made.values())


def ceiling_cells(
    batches: Sequence[int], reference: Cell, noop: Variant, placement: Placement
) -> list[Cell]:
    """No-ops on all the replicas' cores at once: what generator and ingress carry."""
    size = reference.deployment.instance
    replicas = max(1, int(len(placement.replica_cpus) // cpus_needed(size, 1)))
    update = {"variant": noop, "replicas": replicas}
    fleet = reference.deployment.model_copy(update=update)
    return [Cell(fleet, batch, "ceiling") for batch in batches]


def order_cells(
    cells: Sequence[Cell], reference: Cell | None, repeats: int, seed: int
) -> list[Cell]:
    """Seeded-random order, deployments kept together, the reference spread evenly through it.

    The floor of a size comes right behind its last cell, whose rates it is driven at, and so do
    the replicas that share a core behind the one that they are held against.
    """
    draw = random.Random(seed)  # noqa: S311 - an order, not a secret
    by_deployment: dict[str, list[Cell]] = {}
    for cell in cells:
        by_deployment.setdefault(cell.deployment.cell_id, []).append(cell)
    groups = list(by_deployment.values())
    draw.shuffle(groups)
    for group in groups:
        draw.shuffle(group)
    groups = _followers_behind(groups)
    if reference is None or not repeats:
        return [cell for group in groups for cell in group]
    places = [round(i * len(groups) / max(1, repeats - 1)) for i in range(repeats)]
    ordered: list[Cell] = []
    for index in range(len(groups) + 1):
        ordered += [reference] * places.count(index)
        if index < len(groups):
            ordered += groups[index]
    return ordered


def _followers_behind(groups: Sequence[list[Cell]]) -> list[list[Cell]]:
    """Groups whose rates are those of others behind the last of these; floors come last."""
    roles = ("cell", "sharing", "floor")  # others are in no order with these

    def rank(group: list[Cell]) -> int:
        return max(roles.index(cell.role) if cell.role in roles else 0 for cell in group)

    leaders = [group for group in groups if not rank(group)]

    def follows(group: list[Cell], other: list[Cell]) -> bool:
        own, its = group[0].deployment, other[0].deployment
        if rank(group) == roles.index("sharing"):
            return its == own.model_copy(update={"replicas": 1})
        return its.instance.name == own.instance.name

    def place(group: list[Cell]) -> tuple[int, int]:
        if not rank(group):
            return leaders.index(group), 0
        before = (i for i, other in enumerate(leaders) if follows(group, other))
        return max(before, default=len(leaders)), rank(group)

    return sorted(groups, key=place)


def duration_s(cells: Sequence[Cell], dwell: Dwell, bench: Sequence[BenchRow] = ()) -> float:
    """Estimate of measuring ``cells`` in this order, redeployments included.

    Models are taken for fast but for those that ``bench`` shows to be slow.
    """
    takes = {"reference": REFERENCE_S, "floor": FLOOR.floor_s, "ceiling": dwell.ladder_s}
    total, last = 0.0, None
    for cell in cells:
        each = SHARING.opened_s if cell.role == "sharing" else dwell.cell_s
        total += takes.get(cell.role) or each(_alone_s(cell, bench))
        total += DEPLOY_S if cell.deployment.cell_id != last else 0.0
        last = cell.deployment.cell_id
    return total


def _alone_s(cell: Cell, bench: Sequence[BenchRow]) -> float:
    """About what a request takes by itself, from calls of the model in process; 0 if unknown.

    A batch size beyond those benched takes as much a row as the largest of them.
    """
    deployment = cell.deployment
    own = [r for r in bench if (r.variant, r.device) == (deployment.variant.name, "cpu")]
    near = max((r.batch for r in own if r.batch <= cell.batch), default=None)
    calls = [r.p50_ms * cell.batch / r.batch for r in own if r.batch == near]
    return max(calls, default=0.0) / 1e3 / min(1.0, deployment.instance.vcpus)


def fit_budget(
    cells: Sequence[Cell],
    reference: Cell | None,
    repeats: int,
    *,
    seed: int,
    dwell: Dwell,
    budget_s: float,
    baseline: str,
    demanded: Sequence[int],
    lengths: Sequence[int] = (),
    bench: Sequence[BenchRow] = (),
) -> tuple[list[Cell], list[str]]:
    """Drop the least informative cells until the order fits ``budget_s``.

    Least informative first: repeats of the reference beyond two; floors of other sizes than the
    reference's, what sharing a core costs, the reference's floor, ceilings; batches and lengths
    that no profile demands, the baseline's cells, then sizes from the smallest (a quota scales best
    of all). Of every demanded batch at every demanded length one cell of a candidate variant stays,
    whatever the budget.
    ``bench`` as in :func:`duration_s`. Returns the order and a line per dropped cell; one more
    when even the rest does not fit.
    """
    own = reference and reference.deployment.instance.name
    roles = ("floor", "sharing", "own floor", "ceiling", "cell")

    def information(cell: Cell) -> tuple[int, bool, bool, float]:
        of_own = cell.role == "floor" and cell.deployment.instance.name == own
        return (
            roles.index("own floor" if of_own else cell.role),
            cell.batch in demanded and (cell.length is None or cell.length in lengths),
            cell.deployment.variant.name != baseline,
            cell.deployment.instance.vcpus,
        )

    def is_asked_for(cell: Cell) -> bool:
        return cell.role == "cell" and all(information(cell)[1:3])

    kept, dropped = list(cells), list[str]()
    while duration_s(order := order_cells(kept, reference, repeats, seed), dwell, bench) > budget_s:
        if reference is not None and repeats > 2:
            repeats -= 1
            dropped.append("a repeat of the reference cell")
            continue
        spare = [
            cell
            for cell in kept
            if not is_asked_for(cell)
            or sum(_asks_as(other, cell) and is_asked_for(other) for other in kept) > 1
        ]
        if not spare:
            break
        least = min(spare, key=lambda cell: (*information(cell), cell.label))
        kept.remove(least)
        dropped.append(least.label)
    lines = [f"{line}: dropped to respect the time budget" for line in dropped]
    if (needed := duration_s(order, dwell, bench)) > budget_s:
        lines.append(
            f"the time budget is too short even for what is left, which needs {needed:.0f} s: "
            "it will be exceeded; give more, or use --quick"
        )
    return order, lines


def _asks_as(one: Cell, other: Cell) -> bool:
    return (one.batch, one.length) == (other.batch, other.length)
