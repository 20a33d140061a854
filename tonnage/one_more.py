"""One more cell of a finished run, measured into its folder: what a plan said that it lacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.ceiling import with_ceiling
from loadtests.drift import with_drift
from loadtests.dwell import FULL, QUICK
from loadtests.fleet import Fleet
from loadtests.floor import with_floor
from loadtests.payloads import Payloads, make_payloads
from loadtests.records import Measurement
from planner.profile import told_by
from reports.bundle import Bundle
from serving import host_facts
from serving.cgroups import enforces_quotas
from serving.errors import BadInput, InvalidMeasurement
from serving.instances import load_instances, resolve
from serving.placement import CannotBeMeasured, Placement, check_measurable
from serving.records import COMMAND, Deployment, InstanceType
from serving.stub_variant import noop_rows, noop_variant
from serving.toml_config import near_matches
from tonnage.cells import (
    Cell,
    ceiling_cells,
    duration_s,
    floor_cells,
    reference_cell,
    sharing_cells,
)
from tonnage.config import Study, beside, load_study
from tonnage.measuring import Measuring
from tonnage.planned import write_planned
from tonnage.planning import study_demands
from tonnage.progress import Steps
from tonnage.redeploying import START_S
from tonnage.run_folder import FINISHED, RunFolder
from tonnage.stage import Stage, stage_of


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The cell as one types it; ``payload`` are rows for a model of the user's own."""

    variant: str
    instance: str
    threads: int = 1
    batch: int = 1
    length: int | None = None
    payload: Path | None = None


def taken(argument: Path) -> RunFolder:
    """A finished run for this process alone; BadInput where it is not finished, or not free."""
    folder = RunFolder.existing(argument)
    if not folder.has(FINISHED) or not folder.has("measured.json"):
        raise BadInput(f"{folder.path}: is not finished; let its own command end first")
    if not folder.lock():
        raise BadInput(f"{folder.path}: another process works on it; let that end first")
    return folder


def measure_one_more(
    folder: RunFolder, asked: Asked, steps: Steps
) -> tuple[list[Measurement], list[str]]:
    """Measure the cell as the run's own were, judge it beside them, and plan anew.

    The reference is visited before it, so that drift since then is noticed. What sharing a core
    costs it, and no-ops of its batch size, are measured where the run has none. Returns its
    measurements, and the warnings of the new plan. An interruption leaves the run as it was.

    The run is :func:`taken` by this process. BadInput for a cell that it cannot have and for
    another environment than its own; InvalidMeasurement where nothing is valid.
    """
    bundle = folder.bundle()
    study, path = load_study(str(folder.path / "study.toml"))
    deployment = _deployment(asked, bundle, study, path)
    stage = stage_of(study, deployment.variant, asked.payload)
    for line in stage.differs:
        steps.say(line)
    # As in a plan: of several lengths the longest, which is on the safe side.
    length = asked.length or max(study.measure.lengths, default=None)
    cell = Cell(deployment, asked.batch, length=length)
    placement = host_facts.host_placement()
    noops = _noops(cell, bundle.measurements, placement)
    shared = [] if bundle.info.quick else _sharing(cell, bundle.measurements)
    order = [*_reference(study, path, bundle), cell, *shared, *noops]
    before = len(bundle.measurements)
    demands = study_demands(study, path)
    dwell = QUICK if bundle.info.quick else FULL
    steps.expect(START_S + duration_s(order, dwell, bundle.bench))
    steps.step("serve: starting what serves, and Locust", START_S)
    logs = folder.path / "logs"
    try:
        with (
            stage.host(logs) as host,
            Fleet(
                logs / "locust.log", workers=stage.workers, cpus=host.placement.platform_cpus
            ) as fleet,
        ):
            if {m.environment for m in bundle.measurements} - {host.environment().content_hash()}:
                raise BadInput(
                    f"{folder.path}: was measured in another environment (host, versions or "
                    "settings changed since); run the study again"
                )
            measuring = Measuring(
                folder=folder,
                host=host,
                fleet=fleet,
                payloads=lambda one: _payloads(one, stage, study.seed),
                call=None,
                dwell=dwell,
                seed=study.seed + before,
                slos={(d.batch, d.length): d.slo for d in demands if d.mix is None},
                steps=steps,
            )
            measuring.run(order, [])
    except BaseException:
        folder.write_lines("measurements.jsonl", bundle.measurements)
        raise
    # What was judged before stays as it was judged; drift and ceiling need the old ones beside.
    judged = with_floor(with_ceiling(with_drift(folder.measurements())))
    known = {m.id for m in bundle.measurements}
    made = [m for m in judged if m.id not in known]
    folder.write_lines("measurements.jsonl", [*bundle.measurements, *made])
    own = [m for m in made if m.role == "cell"]
    if not any(m.valid for m in own):
        first = next((m.faults[0] for m in own if m.faults), None)
        why = f"{first.code}: {first.detail}" if first else "it could not be deployed"
        raise InvalidMeasurement(f"{cell.label}: no measurement is valid; the first one: {why}")
    return own, write_planned(folder, study, path, demands)


def _deployment(asked: Asked, bundle: Bundle, study: Study, path: Path) -> Deployment:
    named = {variant.name: variant for variant in bundle.variants}
    if asked.variant not in named:
        raise BadInput(
            f"--variant {asked.variant}: the run has none; {near_matches(asked.variant, named)}"
        )
    variant = named[asked.variant]
    if variant.runtime == COMMAND:
        raise BadInput(
            "a server of your own is measured by its own command; give it again with --instance"
        )
    if asked.length is not None and not study.measure.lengths:
        raise BadInput(f"--length {asked.length}: the run's study measures no lengths")
    size = resolve(asked.instance, load_instances(beside(path, study.plan.instances)))
    if asked.threads > max(1, size.vcpus):
        raise BadInput(
            f"--threads {asked.threads}: more than {size.label} has vCPUs, which only wait for "
            "each other"
        )
    check_measurable(size, 1, host_facts.host_placement())
    if size.enforcement == "quota" and not enforces_quotas() and not size.is_container:
        raise CannotBeMeasured(f"{size.name}: a quota needs control groups, which this host denies")
    return Deployment(variant=variant, instance=size, threads=asked.threads)


def _reference(study: Study, path: Path, bundle: Bundle) -> list[Cell]:
    """The run's reference cell, unless it never visited one."""
    if not any(m.role == "reference" for m in bundle.measurements):
        return []
    catalogue = load_instances(beside(path, study.plan.instances))
    sizes: dict[str, InstanceType] = {
        spec: resolve(spec, catalogue) for spec in study.measure.instances
    }
    return [reference_cell(study.measure, bundle.variants, sizes)]


def _sharing(cell: Cell, known: Sequence[Measurement]) -> list[Cell]:
    """The cell that says what sharing a core costs its deployment, unless one was measured."""
    told = {m.deployment for m in known if m.role == "sharing" and told_by([m])}
    return [one for one in sharing_cells([cell]) if one.deployment not in told]


def _noops(cell: Cell, known: Sequence[Measurement], placement: Placement) -> list[Cell]:
    """Floor and ceiling at the cell's batch size, where the run has none; () if it has none at all.

    A floor of one batch size says nothing about another: bodies are of another length.
    """
    earlier = [m for m in known if m.role in ("floor", "ceiling")]
    if not earlier:
        return []
    (spec,) = earlier[0].deployment.variant.inputs
    noop = noop_variant(earlier[0].deployment.variant.workload, math.prod(spec.shape[1:]))
    made = []
    if not any(m.role == "floor" and _place(m) == _place(cell) for m in earlier):
        made += floor_cells([cell], cell, noop)
    if cell.batch not in {m.run.batch for m in earlier if m.role == "ceiling"}:
        made += ceiling_cells([cell.batch], cell, noop, placement)
    return made


def _place(one: Cell | Measurement) -> tuple[str, int]:
    batch = one.batch if isinstance(one, Cell) else one.run.batch
    return one.deployment.instance.label, batch


def _payloads(cell: Cell, stage: Stage, seed: int) -> Payloads:
    if cell.role not in ("floor", "ceiling"):
        return stage.payloads(cell)
    rows = noop_rows(cell.deployment.variant, cell.batch, seed)
    return make_payloads(cell.deployment, rows, cell.batch, seed)
