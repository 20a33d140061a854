"""A study from beginning to end: build, bench, serve and measure, plan, report.

Reads as the story it is. Each stage leaves its records in the run's folder and is
skipped when they are there, which is how an interrupted study goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from loadtests.ceiling import with_ceiling
from loadtests.cell import FULL, QUICK, Dwell
from loadtests.fleet import Fleet
from loadtests.judge import with_drift
from planner.prices import load_prices
from planner.records import Demand
from reports.bundle import StudyInfo
from reports.write import write_reports
from serving import host_facts
from serving.bench import bench
from serving.build import build_variants
from serving.cgroups import enforces_quotas
from serving.errors import BadInput, InvalidMeasurement
from serving.model_store import model_path
from serving.placement import CannotBeMeasured, divide
from serving.ray_host.client import RayHost
from serving.records import BenchRow, InstanceType, Variant
from serving.steps import Dataset
from serving.stub_variant import noop_variant
from serving.workloads import Workload, find_workload
from tonnage.cells import (
    Cell,
    ceiling_cells,
    duration_s,
    fit_budget,
    floor_cells,
    make_cells,
    reference_cell,
)
from tonnage.config import Study, beside
from tonnage.measuring import Measuring
from tonnage.planning import plan, study_demands, study_instances
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder

BUILD_S, START_S, REPORT_S = 15.0, 14.0, 12.0
STAGES = ("build", "bench", "measure", "plan")


@dataclass
class StudyRun:
    """One run of a study: its configuration, its folder, and how far it goes."""

    study: Study
    path: Path
    folder: RunFolder
    quick: bool = False
    budget_s: float | None = None
    until: str = STAGES[-1]
    quiet: bool = False
    _data: Dataset | None = field(default=None, init=False)

    @property
    def workload(self) -> Workload:
        """The workload's module."""
        return find_workload(self.study.workload, self.study.data.length)

    @property
    def dwell(self) -> Dwell:
        """How long each part of a cell takes."""
        return QUICK if self.quick else FULL

    def check(self) -> tuple[Mapping[str, InstanceType], list[Demand], Workload]:
        """Read everything the study names. Raises BadInput before anything is made."""
        instances = study_instances(self.study, self.path)
        demands = study_demands(self.study, self.path)
        load_prices(beside(self.path, self.study.plan.prices))
        workload = self.workload
        unknown = [name for name in self.study.variants if name not in workload.recipes]
        if unknown:
            raise BadInput(
                f"{self.path}: workload {workload.name} has no variant {unknown[0]!r}; "
                f"known are {', '.join(workload.recipes)}"
            )
        if workload.baseline not in self.study.variants:
            raise BadInput(f"{self.path}: 'variants' lacks the baseline, {workload.baseline!r}")
        return instances, demands, workload

    def run(self) -> list[str]:
        """Do all stages that are not done yet; returns the plan's warnings.

        Raises the errors of :mod:`serving.errors`.
        """
        instances, demands, workload = self.check()
        bench_s = self._bench_estimate()
        guess = self._guess(workload, instances)
        total = BUILD_S + bench_s + START_S + duration_s(guess, self.dwell) + REPORT_S
        if self.budget_s is not None:
            total = min(total, self.budget_s)
        with Steps(total, quiet=self.quiet) as steps:
            resumed = " (resumed)" if self.folder.has("variants.jsonl") else ""
            steps.say(
                f"{self.study.title}: about {_minutes(total)}, into {self.folder.path}{resumed}"
            )
            variants = self._build(workload, steps)
            if self.until == "build":
                return []
            self._bench(variants, bench_s, steps)
            if self.until == "bench":
                return []
            self._measure(variants, instances, demands, total - REPORT_S, steps)
            if self.until == "measure":
                return []
            return self._plan(demands, steps)

    def _bench_estimate(self) -> float:
        grid = self.study.bench
        if self.quick:
            return 3.0 * len(self.study.variants)
        per_variant = grid.seconds * len(grid.batches) * len(grid.threads)
        return len(self.study.variants) * (per_variant + 2.0)

    def _guess(self, workload: Workload, instances: Mapping[str, InstanceType]) -> list[Cell]:
        """The cells as they will be, from variants that are not built yet."""
        drafts = [
            Variant(
                workload=workload.name,
                name=name,
                runtime="stub",
                precision="",
                file="",
                sha256="",
                size_bytes=0,
                inputs=(),
                outputs=(),
            )
            for name in self.study.variants
        ]
        return self._cells(drafts, instances, [], None)[0]

    def data(self) -> Dataset:
        """The workload's data, read once."""
        if self._data is None:
            self._data = self.workload.load(self.study.data.source, self.study.seed)
        return self._data

    def _build(self, workload: Workload, steps: Steps) -> tuple[Variant, ...]:
        if self.folder.has("variants.jsonl"):
            made = self.folder.bundle().variants
            if all(model_path(variant).is_file() for variant in made):
                return made
        steps.step("build: reading data", BUILD_S)
        data = self.data()
        variants = build_variants(
            workload,
            self.study.variants,
            data,
            seed=self.study.seed,
            max_loss=self.study.quality.max_loss,
            providers=self.study.build.providers,
            progress=lambda name: steps.step(f"build: {name}", 0.0),
        )
        for name in (self.study.plan.instances, self.study.plan.profiles, self.study.plan.prices):
            self.folder.keep(Path(name).name, beside(self.path, name))
        self.folder.keep("study.toml", self.path)
        self.folder.write_one("study.json", self._info(data, ()))
        self.folder.write_lines("variants.jsonl", variants)
        for variant in variants:
            if variant.barred:
                steps.say(f"barred from recommendations: {variant.name} {variant.barred}")
        return tuple(variants)

    def _bench(self, variants: tuple[Variant, ...], estimate_s: float, steps: Steps) -> None:
        if self.folder.has("bench.jsonl"):
            return
        grid = self.study.bench
        if self.quick:
            ends = tuple(sorted({min(grid.batches), max(grid.batches)}))
            grid = grid.model_copy(update={"batches": ends, "threads": (1,), "seconds": 0.2})
        rows: list[BenchRow] = bench(
            variants,
            self.data().test,
            batches=grid.batches,
            threads=grid.threads,
            seconds=grid.seconds,
            progress=lambda name: steps.step(f"bench: {name}", estimate_s / len(variants)),
        )
        self.folder.write_lines("bench.jsonl", rows)

    def _cells(
        self,
        variants: list[Variant],
        instances: Mapping[str, InstanceType],
        demands: list[Demand],
        budget_s: float | None,
    ) -> tuple[list[Cell], list[str]]:
        grid = self.study.measure
        baseline = self.workload.baseline
        placement = divide(host_facts.physical_cores())
        cells, skipped = make_cells(
            grid, variants, baseline, instances, placement, quotas=enforces_quotas()
        )
        if not cells:
            raise CannotBeMeasured(f"none of the study's sizes can be measured here: {skipped[0]}")
        if self.quick:
            wanted = grid.reference
            cells = [
                c
                for c in cells
                if c.deployment.variant.name == wanted.variant
                and c.deployment.instance.name == wanted.instance
            ]
            skipped.append(f"quick run: only {wanted.variant} on {wanted.instance} is measured")
        reference = None if self.quick else reference_cell(grid, variants, instances)
        if reference is not None:
            model = reference.deployment.variant
            # A draft, of which only the number of cells is wanted, has no file yet.
            noop = noop_variant(model.workload, model.inputs) if model.file else model
            cells += floor_cells(grid, reference, noop)
            cells += ceiling_cells(grid, reference, noop, placement)
        order, dropped = fit_budget(
            cells,
            reference,
            grid.reference.repeats,
            seed=self.study.seed,
            dwell=self.dwell,
            budget_s=float("inf") if budget_s is None else budget_s,
            baseline=baseline,
            demanded=[d.batch for d in demands],
        )
        return order, skipped + dropped

    def _measure(
        self,
        variants: tuple[Variant, ...],
        instances: Mapping[str, InstanceType],
        demands: list[Demand],
        until_s: float,
        steps: Steps,
    ) -> None:
        if self.folder.has("measured.json"):
            return
        budget = None
        if self.budget_s is not None:
            budget = until_s - steps.elapsed_s() - START_S
        if self.folder.has("order.json"):  # resumed: what was dropped stays dropped
            every, _ = self._cells(list(variants), instances, demands, None)
            by_key = {cell.key: cell for cell in every}
            order = [by_key[key] for key in self.folder.order() if key in by_key]
        else:
            order, skipped = self._cells(list(variants), instances, demands, budget)
            for line in skipped:
                steps.say(f"not measured: {line}")
            info = self.folder.bundle().info
            updated = info.model_copy(update={"skipped": tuple(skipped)})
            self.folder.write_one("study.json", updated)
            self.folder.keep_order([cell.key for cell in order])
        finished = self.folder.finished_cells()
        steps.step("serve: starting Ray Serve, HAProxy and Locust", START_S)
        logs = self.folder.path / "logs"
        with (
            RayHost(logs / "ray.log") as host,
            Fleet(
                logs / "locust.log",
                workers=self.study.measure.workers,
                cpus=host.placement.platform_cpus,
            ) as fleet,
        ):
            environment = host.environment()
            self._same_environment(environment.content_hash())
            self.folder.write_one("environment.json", environment)
            slos = {demand.batch: demand.slo for demand in demands}
            measuring = Measuring(
                folder=self.folder,
                host=host,
                fleet=fleet,
                rows=self.data().test,
                dwell=self.dwell,
                seed=self.study.seed,
                slos=slos,
                steps=steps,
            )
            measuring.run(order, finished)
        # Drift and the ceiling can be judged only at the end, when all are known.
        judged = with_ceiling(with_drift(self.folder.measurements()))
        self.folder.write_lines("measurements.jsonl", judged)
        if not any(m.valid for m in self.folder.measurements()):
            first = self.folder.measurements()[0].faults[0]
            self.folder.finish()  # the same command shall begin anew, not stumble here again
            raise InvalidMeasurement(
                f"no measurement is valid; the first one: {first.code}: {first.detail} "
                f"(all of them: {self.folder.path / 'measurements.jsonl'})"
            )
        self.folder.write_lines("measured.json", [])

    def _same_environment(self, current: str) -> None:
        earlier = {m.environment for m in self.folder.measurements()}
        if earlier - {current}:
            raise InvalidMeasurement(
                f"{self.folder.path} was begun in another environment (host, versions or "
                "settings changed); start anew with --fresh"
            )

    def _plan(self, demands: list[Demand], steps: Steps) -> list[str]:
        steps.step("plan and report", REPORT_S)
        profiles, curves, answers, warnings = plan(self.folder, self.study, self.path, demands)
        self.folder.write_lines("profiles.jsonl", profiles)
        self.folder.write_lines("curves.jsonl", curves)
        self.folder.write_lines("recommendations.jsonl", answers)
        write_reports(self.folder.path)
        self.folder.finish()
        return warnings

    def _info(self, data: Dataset, skipped: tuple[str, ...]) -> StudyInfo:
        command = f"tonnage run {self.study.name}" + (" --quick" if self.quick else "")
        return StudyInfo(
            name=self.study.name,
            title=self.study.title,
            workload=self.study.workload,
            baseline=self.workload.baseline,
            config_hash=self.config_hash,
            seed=self.study.seed,
            quick=self.quick,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            dataset=data.description,
            metric=self.workload.metric,
            max_loss=self.study.quality.max_loss,
            skipped=skipped,
            reproduce=(command, f"tonnage report runs/{self.study.name}"),
            assumptions=(
                "Poisson arrivals; at most 70 % of the measured capacity is planned for.",
                "Plans count replicas only; what Ray and the ingress need comes on top.",
                "One replica runs one inference call at a time; HAProxy sends each request "
                "to the replica with the fewest in flight.",
                "Prices attach to this host's figures only through the CPU factors of "
                "prices.toml; those shipped are assumptions, not measurements.",
            ),
        )

    @property
    def config_hash(self) -> str:
        """Identifies the run that may be resumed: study, its files, speed and budget."""
        files = hashlib.sha256()
        for name in (self.study.plan.instances, self.study.plan.profiles, self.study.plan.prices):
            files.update(beside(self.path, name).read_bytes())
        speed = "quick" if self.quick else "full"
        budget = "" if self.budget_s is None else f"-{self.budget_s:g}s"
        return f"{self.study.content_hash()}-{files.hexdigest()[:8]}-{speed}{budget}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
