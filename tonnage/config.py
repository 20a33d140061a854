"""A study's configuration, and where configuration files are found."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from planner.demands import trace_files
from serving.errors import BadInput
from serving.records import Record
from serving.toml_config import build_record, read_toml


class QualityGate(Record):
    """What a variant may lose against the baseline."""

    max_loss: float = Field(
        ge=0, default=0.003, description="of the workload's metric, as a fraction of one"
    )


_Tokens = Annotated[int, Field(ge=3)]  # two of them begin and end a text


class DataSource(Record):
    """Where the data is; None means where the workload expects it."""

    source: str | None = None
    length: _Tokens | None = Field(
        default=None, description="tokens a row, of workloads that read text"
    )


class BuildOptions(Record):
    """How variants are run, beside what their recipes say."""

    providers: tuple[str, ...] = Field(
        default=(), description="onnxruntime's execution providers by preference; empty: CPU"
    )


class BenchGrid(Record):
    """Grid of the in-process benchmark."""

    batches: tuple[int, ...] = Field(min_length=1)
    threads: tuple[int, ...] = Field(min_length=1)
    seconds: float = Field(gt=0, default=0.5)

    @property
    def variant_s(self) -> float:
        """About what one variant takes, its process included."""
        return self.seconds * len(self.batches) * len(self.threads) + 2.0

    @model_validator(mode="after")
    def _positive(self) -> Self:
        _check_positive(self)
        return self


class Reference(Record):
    """The cell that is repeated, so that drift shows; its length is the first of the grid's."""

    variant: str
    instance: str
    batch: int = Field(ge=1)
    repeats: int = Field(ge=0, default=3)


class MeasureGrid(Record):
    """Grid of the served measurements."""

    batches: tuple[int, ...] = Field(min_length=1)
    instances: tuple[str, ...] = Field(min_length=1)
    threads: tuple[int, ...] = Field(min_length=1, default=(1,))
    baseline_instances: tuple[str, ...] | None = None
    variants: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="those that are served; None means all"
    )
    workers: int = Field(ge=1, le=16, default=1)
    lengths: tuple[_Tokens, ...] = Field(
        default=(),
        exclude_if=lambda lengths: not lengths,
        description="tokens a row, of workloads that read text; empty: that of [data]",
    )
    reference: Reference

    @model_validator(mode="after")
    def _positive(self) -> Self:
        unknown = set(self.baseline_instances or ()) - set(self.instances)
        if unknown:
            raise ValueError(f"'baseline_instances' names {min(unknown)}, 'instances' does not")
        _check_positive(self)
        return self


def _check_positive(grid: BenchGrid | MeasureGrid) -> None:
    if min((*grid.batches, *grid.threads)) < 1:
        raise ValueError("'batches' and 'threads' hold whole numbers from 1 on")


class PlanFiles(Record):
    """Files the plan is made with; names are looked up beside the study, then among ours."""

    instances: str = "instances.toml"
    profiles: str = "profiles.toml"
    prices: str = "prices.toml"

    @property
    def names(self) -> tuple[str, str, str]:
        """All of them."""
        return self.instances, self.profiles, self.prices

    def content_hash_of_files(self, study_path: Path) -> str:
        """First 8 hex digits of the SHA-256 over what is in them."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(beside(study_path, name).read_bytes())
        for trace in trace_files(beside(study_path, self.profiles)):
            digest.update(trace.read_bytes() if trace.is_file() else b"")
        return digest.hexdigest()[:8]


class Study(Record):
    """One study, as its TOML file says it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    workload: str
    variants: tuple[str, ...] = Field(min_length=1)
    seed: int = Field(ge=0, default=0)
    quality: QualityGate = QualityGate()
    build: BuildOptions = BuildOptions()
    data: DataSource = DataSource()
    bench: BenchGrid
    measure: MeasureGrid
    plan: PlanFiles = PlanFiles()

    @model_validator(mode="after")
    def _known_variants(self) -> Self:
        unknown = sorted(set(self.measure.variants or ()) - set(self.variants))
        if unknown:
            raise ValueError(f"[measure] 'variants' names {unknown[0]}, 'variants' does not")
        return self


def shipped(name: str) -> Path:
    """Path of a configuration file that comes with Tonnage."""
    package = Path(__file__).parent
    inside = package / "configs"  # in an installed wheel; in a checkout it is a sibling
    return (inside if inside.is_dir() else package.parent / "configs") / name


def load_study(argument: str) -> tuple[Study, Path]:
    """Read a study given as a path or as the name of a shipped one; also its path.

    Raises BadInput naming file, key and what to change.
    """
    path = Path(argument)
    if not path.is_file():
        # The README's path works from any folder: it names a file that is shipped.
        candidates = [shipped(f"studies/{path.stem}.toml")]
        found = [c for c in candidates if c.is_file()]
        if not found or (path.suffix and path.name != found[0].name):
            known = ", ".join(sorted(p.stem for p in shipped("studies").glob("*.toml")))
            raise BadInput(
                f"{argument}: no such study file, nor a shipped study (those are: {known})"
            )
        path = found[0]
    return build_record(Study, read_toml(path), str(path)), path


def beside(study_path: Path, name: str) -> Path:
    """A file named in a study: beside it, or relative to here, or shipped."""
    for candidate in (study_path.parent / name, Path(name), shipped(name)):
        if candidate.is_file():
            return candidate
    raise BadInput(f"{study_path}: {name}: no such file beside the study, here, or shipped")
