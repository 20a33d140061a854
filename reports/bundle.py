"""Everything a report is made of, read from the files of one run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, ValidationError

from loadtests.records import Measurement
from planner.claim import Claim
from planner.records import Curve, Recommendation, ServiceProfile
from planner.track_record import TrackPoint
from serving.errors import BadInput
from serving.records import SCHEMA_VERSION, BenchRow, Environment, Record, Variant

R = TypeVar("R", bound=Record)

CLAIMS = "claims"
"""Folder of a run in which there is a claim for each profile that was confirmed."""

TRACK_RECORD = "track_record.jsonl"


class StudyInfo(Record):
    """What was studied, and what was left out."""

    name: str
    title: str
    workload: str
    baseline: str = Field(description="name of the variant that others are compared with")
    config_hash: str
    seed: int
    quick: bool = False
    started_at: str
    dataset: str = Field(description="which data, from where, how many rows")
    metric: str = Field(default="auc", description="field of Quality that the gate watches")
    max_loss: float
    skipped: tuple[str, ...] = Field(default=(), description="cells left out, each with why")
    reproduce: tuple[str, ...] = Field(default=(), description="commands that reproduce the run")
    assumptions: tuple[str, ...] = ()


class Bundle(Record):
    """All records of one run. Optional parts are empty when their stage has not run."""

    info: StudyInfo
    environment: Environment | None = None
    variants: tuple[Variant, ...] = ()
    bench: tuple[BenchRow, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    profiles: tuple[ServiceProfile, ...] = ()
    curves: tuple[Curve, ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    claims: tuple[Claim, ...] = ()
    track_record: tuple[TrackPoint, ...] = Field(
        default=(), description="of the planner, over all runs beside this one"
    )

    @property
    def cpu_bench(self) -> tuple[BenchRow, ...]:
        """The in-process figures of the CPU, which is what replicas are made of."""
        return tuple(row for row in self.bench if row.device == "cpu")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a run folder. Raises BadInput naming the file and line that is wrong."""
        info = read_one(folder / "study.json", StudyInfo)
        environment = folder / "environment.json"
        return cls(
            info=info,
            environment=read_one(environment, Environment) if environment.exists() else None,
            variants=read_lines(folder / "variants.jsonl", Variant),
            bench=read_lines(folder / "bench.jsonl", BenchRow),
            measurements=read_lines(folder / "measurements.jsonl", Measurement),
            profiles=read_lines(folder / "profiles.jsonl", ServiceProfile),
            curves=read_lines(folder / "curves.jsonl", Curve),
            recommendations=read_lines(folder / "recommendations.jsonl", Recommendation),
            claims=tuple(
                read_one(path, Claim) for path in sorted((folder / CLAIMS).glob("*.json"))
            ),
            track_record=read_lines(track_record_path(folder, info.name), TrackPoint),
        )


def track_record_path(folder: Path, study: str) -> Path:
    """The planner's track record: beside the runs of all studies, or in the run's own folder.

    Runs lie in ``<runs>/<study>/<time>``; one that was moved keeps its own record.
    """
    path = folder.absolute()
    return (path.parents[1] if path.parent.name == study else path) / TRACK_RECORD


def read_one(path: Path, kind: type[R]) -> R:
    """Read one JSON record; BadInput when it is missing or not one."""
    if not path.exists():
        raise BadInput(f"{path}: no such file; is {path.parent} a run folder of Tonnage?")
    text = _text(path)
    if not text.strip():
        raise BadInput(f"{path}: is empty; restore it, or make it again")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise BadInput(f"{path}: {_first(error)}") from None


def read_lines(path: Path, kind: type[R]) -> tuple[R, ...]:
    """Read a JSON Lines file of records; a missing file is an empty one."""
    if not path.exists():
        return ()
    records = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise BadInput(f"{path}:{number}: {_first(error)}") from None
    return tuple(records)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path}: not text from byte {error.start} on, so no records; restore it, or make it "
            "again"
        ) from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, in words; another version before all else."""
    errors = error.errors()
    other = next((e for e in errors if e["loc"][-1:] == ("schema_version",)), None)
    if other is not None:
        return (
            f"written by a Tonnage of schema version {other['input']}, and this one reads "
            f"{SCHEMA_VERSION}; read it with that one, or make it again"
        )
    item = errors[0]
    where = ".".join(map(str, item["loc"])) or "record"
    return f"{where}: {item['msg']}"
