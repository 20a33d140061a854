"""A study from beginning to end: build, bench, serve and measure, plan, report.

Reads as the story it is. Each stage leaves its records in the run's folder and is
skipped when they are there, which is how an interrupted study goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from loadtests.ceiling import with_ceiling
from loadtests.drift import with_drift
from loadtests.dwell import FULL, QUICK, Dwell
from loadtests.fleet import Fleet
from loadtests.floor import with_floor
from loadtests.http_call import HttpCall
from loadtests.payloads import Payloads, make_payloads
from planner.demands import trace_files
from planner.lengths import lengths_needed
from planner.prices import load_prices
from planner.records import Demand
from reports.bundle import StudyInfo
from serving import host_facts
from serving.bench import bench
from serving.build import build_variants
from serving.cgroups import enforces_quotas
from serving.errors import BadInput, InvalidMeasurement
from serving.instances import as_toml, load_instances
from serving.model_store import model_path
from serving.placement import CannotBeMeasured
from serving.records import CONTAINER, BenchRow, InstanceType, Variant
from serving.steps import Dataset
from serving.stub_variant import NOOP, noop_rows, noop_variant
from serving.workloads import OfAnyLength, Workload, find_workload
from tonnage.cells import (
    Cell,
    ceiling_cells,
    draft_variants,
    duration_s,
    fit_budget,
    floor_cells,
    make_cells,
    reference_cell,
    sharing_cells,
)
from tonnage.config import Study, beside
from tonnage.durations import in_words
from tonnage.measuring import Measuring
from tonnage.planned import write_planned
from tonnage.planning import ASSUMPTIONS, study_demands, study_instances
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder
from tonnage.stage import Stage, StartedHost, ray_host

BUILD_S, START_S, REPORT_S = 15.0, 14.0, 12.0
STAGES = ("build", "bench", "measure", "plan")


@dataclass
class StudyRun:
    """One run of a study: its configuration, its folder, and how far it goes.

    ``call`` is how somebody else's server is asked; ``command`` what reproduces a study that
    is no file of its own.
    """

    study: Study
    path: Path
    folder: RunFolder
    quick: bool = False
    budget_s: float | None = None
    until: str = STAGES[-1]
    quiet: bool = False
    call: HttpCall | None = None
    command: str | None = None
    own: Workload | None = None
    notes: tuple[str, ...] = ()
    assumptions: ClassVar[tuple[str, ...]] = ASSUMPTIONS
    most_replicas: ClassVar[int | None] = None
    _data: dict[int | None, Dataset] = field(default_factory=dict, init=False)

    @property
    def workload(self) -> Workload:
        """The workload's module, or the user's own model in its place."""
        return self.own or find_workload(self.study.workload, self.study.data.length)

    @property
    def dwell(self) -> Dwell:
        """How long each part of a cell takes."""
        return QUICK if self.quick else FULL

    @property
    def judged(self) -> tuple[str, str]:
        """The variant that others are compared with, and the metric that the gate watches."""
        return self.workload.baseline, self.workload.metric

    def check(self) -> tuple[Mapping[str, InstanceType], list[Demand]]:
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
        for length in self.study.measure.lengths:
            self._of_length(length)
        return instances, demands

    def run(self) -> list[str]:
        """Do all stages that are not done yet; returns the plan's warnings.

        Raises the errors of :mod:`serving.errors`.
        """
        instances, demands = self.check()
        bench_s = self._bench_estimate()
        guess = self._guess(instances)
        total = BUILD_S + bench_s + START_S + duration_s(guess, self.dwell) + REPORT_S
        if self.budget_s is not None:
            total = min(total, self.budget_s)
        with Steps(total, quiet=self.quiet) as steps:
            resumed = " (resumed)" if self.folder.has("variants.jsonl") else ""
            steps.say(
                f"{self.study.title}: about {in_words(total)}, into {self.folder.path}{resumed}"
            )
            variants = self._build(steps)
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
        return (3.0 if self.quick else self.study.bench.variant_s) * len(self.study.variants)

    def _guess(self, instances: Mapping[str, InstanceType]) -> list[Cell]:
        """The cells as they will be, from variants that are not built yet."""
        drafts = draft_variants(self.study.workload, self.study.variants)
        return self._cells(drafts, instances, [], None)[0]

    def data(self, length: int | None = None) -> Dataset:
        """The workload's data, read once; with rows of another ``length`` than [data] has."""
        if length not in self._data:
            workload = self.workload if length is None else self._of_length(length)
            self._data[length] = workload.load(self.study.data.source, self.study.seed)
        return self._data[length]

    def _of_length(self, length: int) -> Workload:
        return find_workload(self.study.workload, length, "'lengths' under [measure]")

    def _numbers_a_row(self) -> int:
        """Of the longest rows: what the platform carries of them, it carries of shorter ones."""
        rows = self.data(max(self.study.measure.lengths, default=None)).test
        return max(1, sum(values[:1].size for values in rows.values()))

    def _build(self, steps: Steps) -> tuple[Variant, ...]:
        if self.folder.has("variants.jsonl"):
            made = self.folder.bundle().variants
            if all(model_path(variant).is_file() for variant in made):
                return made
        steps.step("build: reading data", BUILD_S)
        data = self.data()
        variants = build_variants(
            self.workload,
            self.study.variants,
            data,
            seed=self.study.seed,
            max_loss=self.study.quality.max_loss,
            providers=self.study.build.providers,
            progress=lambda name: steps.step(f"build: {name}", 0.0),
        )
        self._keep(data.description, variants)
        for variant in variants:
            if variant.barred:
                steps.say(f"barred from recommendations: {variant.name} {variant.barred}")
        return tuple(variants)

    def _keep(self, description: str, variants: Sequence[Variant]) -> None:
        """Leave the study, the files that it names, and its variants in the run's folder."""
        for name in self.study.plan.names:
            self.folder.keep(Path(name).name, beside(self.path, name))
        for trace in trace_files(beside(self.path, self.study.plan.profiles)):
            shutil.copy(trace, self.folder.path / trace.name)
        self._keep_container()
        self.folder.keep("study.toml", self.path)
        self.folder.write_one("study.json", self._info(description))
        self.folder.write_lines("variants.jsonl", variants)

    def _keep_container(self) -> None:
        """Note in the kept catalogue what ``container`` was: elsewhere it is something else."""
        kept = self.folder.path / Path(self.study.plan.instances).name
        if CONTAINER in self.study.measure.instances and CONTAINER not in load_instances(kept):
            made = study_instances(self.study, self.path)[CONTAINER]
            kept.write_text(f"{kept.read_text()}\n{as_toml(made)}")

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
        workload = self.workload
        if self.study.measure.lengths and isinstance(workload, OfAnyLength):
            rows = [row.model_copy(update={"length": workload.length}) for row in rows]
        self.folder.write_lines("bench.jsonl", rows)

    def _cells(
        self,
        variants: list[Variant],
        instances: Mapping[str, InstanceType],
        demands: list[Demand],
        budget_s: float | None,
    ) -> tuple[list[Cell], list[str]]:
        grid = self.study.measure
        placement = host_facts.host_placement()
        cells, skipped = make_cells(
            grid, variants, self.judged[0], instances, placement, quotas=enforces_quotas()
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
            reference = None
        else:
            cells += sharing_cells(cells)
            reference = reference_cell(grid, variants, instances)
        if reference is not None and self.call is None:
            model = reference.deployment.variant
            # A draft, of which only the number of cells is wanted, has no file yet.
            noop = model.model_copy(update={"name": NOOP})
            if model.file:
                noop = noop_variant(model.workload, self._numbers_a_row())
            cells += floor_cells(cells, reference, noop)
            cells += ceiling_cells(grid.batches, reference, noop, placement)
        order, dropped = fit_budget(
            cells,
            reference,
            grid.reference.repeats,
            seed=self.study.seed,
            dwell=self.dwell,
            budget_s=float("inf") if budget_s is None else budget_s,
            baseline=self.judged[0],
            demanded=[batch for d in demands for batch in d.batches],
            lengths=lengths_needed(demands, grid.lengths),
            bench=() if budget_s is None else self.folder.bundle().bench,
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
        steps.step("serve: starting what serves, and Locust", START_S)
        logs = self.folder.path / "logs"
        with (
            self._host(logs) as host,
            Fleet(
                logs / "locust.log",
                workers=self.study.measure.workers,
                cpus=host.placement.platform_cpus,
            ) as fleet,
        ):
            environment = host.environment()
            self._same_environment(environment.content_hash())
            self.folder.write_one("environment.json", environment)
            slos = {(d.batch, d.length): d.slo for d in demands if d.mix is None}
            measuring = Measuring(
                folder=self.folder,
                host=host,
                fleet=fleet,
                payloads=self._payloads,
                call=self.call,
                dwell=self.dwell,
                seed=self.study.seed,
                slos=slos,
                steps=steps,
            )
            measuring.run(order, finished)
        # Drift, ceiling and floor can be judged only at the end, when all are known.
        made = with_floor(with_ceiling(with_drift(self.folder.measurements())))
        self.folder.write_lines("measurements.jsonl", made)
        if not any(m.valid for m in made):
            self.folder.finish()  # the same command shall begin anew, not stumble here again
            if not made:
                raise CannotBeMeasured(f"nothing fits: {self.folder.bundle().info.skipped[-1]}")
            first = made[0].faults[0]
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

    def stage(self) -> Stage:
        """Where what this run recommends can be proven."""
        return Stage(
            host=self._host,
            payloads=self._payloads,
            workers=self.study.measure.workers,
            call=self.call,
            most_replicas=self.most_replicas,
        )

    def _host(self, logs: Path) -> StartedHost:
        return ray_host(logs)

    def _payloads(self, cell: Cell) -> Payloads:
        rows = self.data(cell.length).test
        if cell.role in ("floor", "ceiling"):
            rows = noop_rows(cell.deployment.variant, cell.batch, self.study.seed)
        return make_payloads(cell.deployment, rows, cell.batch, self.study.seed)

    def _plan(self, demands: list[Demand], steps: Steps) -> list[str]:
        steps.step("plan and report", REPORT_S)
        warnings = write_planned(self.folder, self.study, self.path, demands)
        self.folder.finish()
        return warnings

    def _info(self, description: str) -> StudyInfo:
        command = self.command or f"tonnage run {self.study.name}"
        command += " --quick" if self.quick and not self.command else ""
        return StudyInfo(
            name=self.study.name,
            title=self.study.title,
            workload=self.study.workload,
            baseline=self.judged[0],
            config_hash=self.config_hash,
            seed=self.study.seed,
            quick=self.quick,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            dataset=description,
            metric=self.judged[1],
            max_loss=self.study.quality.max_loss,
            reproduce=(command, f"tonnage report runs/{self.study.name}"),
            assumptions=(*self.assumptions, *self.notes),
        )

    @property
    def config_hash(self) -> str:
        """Identifies the run that may be resumed: study, its files, speed and budget."""
        files = self.study.plan.content_hash_of_files(self.path)
        speed = "quick" if self.quick else "full"
        budget = "" if self.budget_s is None else f"-{self.budget_s:g}s"
        return f"{self.study.content_hash()}-{files}-{speed}{budget}"
