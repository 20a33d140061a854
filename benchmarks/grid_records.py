"""The grid: which configurations are measured exhaustively, and the records of it.

Dwell, rates and limits were fixed before anything was measured; the rates are for a host on
which one CPU carries a few hundred requests a second of the smallest models here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import Field

from loadtests.records import FaultCode, Measurement
from planner.candidates import size_name
from planner.profile import fell_behind
from reports.bundle import read_lines
from serving.errors import InvalidMeasurement
from serving.instances import load_instances
from serving.records import Deployment, InstanceType, Record
from tonnage.config import shipped

FOLDER = Path(__file__).parents[1] / "reports" / "published" / "planner" / "grid"
DWELL_S = 12.0

SHAPES = (
    ("sim-0.25", 1, 1),
    ("sim-0.25", 1, 2),
    ("sim-0.25", 1, 3),
    ("sim-0.25", 1, 4),
    ("sim-0.5", 1, 1),
    ("sim-0.5", 1, 2),
    ("sim-1", 1, 1),
    ("sim-1:quota", 1, 1),
)
"""(size, threads, replicas): all that one CPU holds; more threads than CPUs only wait for each
other, and the product measures none."""


@dataclass(frozen=True)
class Grid:
    """Three variants of a workload on every shape: 24 configurations.

    A demand is one of ``rates_rps`` with one of ``limits_ms`` on its p99.
    """

    workload: str
    variants: tuple[str, ...]
    batch: int
    rates_rps: tuple[float, ...]
    limits_ms: tuple[float, ...]


GRIDS = {
    grid.workload: grid
    for grid in (
        Grid(
            "credit",
            ("sklearn", "onnx_fp32", "onnx_int8"),
            6000,
            (25, 60, 120, 200),
            (25, 60, 150),
        ),
        Grid(
            "lenet",
            ("torch", "onnx", "openvino_int8"),
            64,
            (25, 60, 120, 220),
            (20, 50, 150),
        ),
        Grid(
            "cifar_cnn",
            ("torch", "onnx", "onnx_int8_static"),
            64,
            (10, 25, 50, 90),
            (40, 100, 250),
        ),
    )
}

Key = tuple[str, str, int, int]
"""(variant, size, threads, replicas)."""


class GridRecord(Record):
    """All that was measured of one configuration.

    ``truth`` are the open-loop runs at the grid's rates, rising, until the server fell behind;
    ``seconds`` is what deploying and making them took, the repeats of runs that could not be
    believed left out. ``cell`` is the product's own measurement of a cell, made of one replica,
    and ``cell_seconds`` what deploying and that took. ``ladder_seconds`` is what deploying and
    measuring the no-ops took by which all of these are judged, once for many configurations.
    """

    workload: str
    deployment: Deployment
    batch: int
    rates_rps: tuple[float, ...]
    dwell_s: float
    environment: str
    ladder_seconds: float = Field(gt=0)
    seconds: float = Field(gt=0)
    truth: tuple[Measurement, ...]
    cell_seconds: float = Field(ge=0, default=0.0)
    cell: tuple[Measurement, ...] = ()

    @property
    def key(self) -> Key:
        """What identifies it within its workload."""
        d = self.deployment
        return (d.variant.name, spec_of(d.instance), d.threads, d.replicas)

    @property
    def vcpus(self) -> float:
        """What it costs: the vCPUs of all replicas."""
        return self.deployment.instance.vcpus * self.deployment.replicas

    def holds(self, rate_rps: float, limit_ms: float) -> bool | None:
        """Whether its p99 at one of the grid's rates was within the limit; None: not known."""
        for run in self.truth:
            if behind(run) and (run.run.rate_rps or 0) <= rate_rps * 1.001:
                return False
            if abs((run.run.rate_rps or 0) / rate_rps - 1) < 1e-3:
                return run_holds(run, limit_ms) if run.valid else None
        return None


@cache
def host_sizes() -> dict[str, InstanceType]:
    """The sizes of the shipped catalogue that are cut out of this host."""
    catalogue = load_instances(shipped("instances.toml"))
    return {name: size for name, size in catalogue.items() if size.is_host_size}


def spec_of(instance: InstanceType) -> str:
    """A host size as one asks for it: ``sim-1``, or ``sim-1:quota``."""
    return size_name(instance.label, host_sizes())


def behind(run: Measurement) -> bool:
    """Whether the server could not keep up, and neither the host nor a load worker was why.

    A backlog says so if nothing but failed requests is beside it, and so does a tenth of all
    requests without an answer, those left out whose load worker was lost.
    """
    but_errors = tuple(fault for fault in run.faults if fault.code != FaultCode.ERRORS)
    overloaded = fell_behind(run.model_copy(update={"faults": but_errors}))
    return overloaded or run.ok < 0.9 * (run.offered - run.lost)


def run_holds(run: Measurement, limit_ms: float, quantile: float = 0.99) -> bool:
    """Whether at most one in a hundred requests was late; one that failed is late."""
    failed = max(0, run.offered - run.ok)
    late = run.due_to_done.count_above(limit_ms / 1e3) + failed
    return late <= (1 - quantile) * (run.due_to_done.count + failed)


def path_of(workload: str) -> Path:
    """Where the records of a workload are kept."""
    return FOLDER / f"{workload}.jsonl"


def read_grid(workload: str) -> list[GridRecord]:
    """What was measured so far."""
    path = path_of(workload)
    drop_unfinished(path)
    return list(read_lines(path, GridRecord))


def drop_unfinished(path: Path) -> None:
    """Forget a last line that was cut short."""
    if path.is_file() and not (text := path.read_text()).endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1])


def append(path: Path, line: str) -> None:
    """One more line, at once on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


def keys_of(grid: Grid) -> list[Key]:
    """All of its configurations."""
    return [(variant, *shape) for variant in grid.variants for shape in SHAPES]


def whole_grid(workload: str) -> list[GridRecord]:
    """All records of a workload; InvalidMeasurement while there are not all of them."""
    records = read_grid(workload)
    missing = set(keys_of(GRIDS[workload])) - {record.key for record in records}
    if missing:
        raise InvalidMeasurement(
            f"{len(missing)} configurations of {workload} are not measured yet; run "
            f"planner:grid_{workload}"
        )
    return records
