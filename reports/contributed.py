"""Results that teams hand in: one TOML file each, checked, for the table over all models."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from serving.errors import BadInput
from serving.records import Record
from serving.toml_config import build_record, read_toml

ORIGINAL = "original"
_ROUNDING = 5e-4  # of figures that people copy with three digits


class Result(Record):
    """One way to compress a model, and what it measured. Megabytes are millions of bytes.

    What was not measured is left out. ``precision``, ``recall`` and ``f1`` belong to the
    contributor's own test set; ``fidelity`` is the share of rows that are decided as the
    original decides them, and no measure of quality.
    """

    method: str = Field(min_length=1, max_length=60)
    weights_mb: float = Field(gt=0)
    cpu_ms: float | None = Field(default=None, gt=0)
    gpu_ms: float | None = Field(default=None, gt=0)
    ram_mb: float | None = Field(default=None, gt=0)
    vram_mb: float | None = Field(default=None, gt=0)
    accuracy: float | None = Field(default=None, ge=0, le=1)
    precision: float | None = Field(default=None, ge=0, le=1)
    recall: float | None = Field(default=None, ge=0, le=1)
    f1: float | None = Field(default=None, ge=0, le=1)
    fidelity: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.gpu_ms is None) != (self.vram_mb is None):
            raise ValueError("gpu_ms and vram_mb belong together; give both or neither")
        three = (self.precision, self.recall, self.f1)
        if any(value is None for value in three) and any(value is not None for value in three):
            raise ValueError("precision, recall and f1 belong together; give all or none")
        # No average of per-class F1 values lies above the better of both averages.
        best = max(self.precision or 0.0, self.recall or 0.0)
        if self.f1 is not None and self.f1 > best + _ROUNDING:
            raise ValueError("f1 is above precision and recall, which cannot be")
        return self


class Submission(Record):
    """What one team measured on one model, on one host."""

    team: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,39}$")
    model: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    source: str = Field(min_length=10, description="where the figures are from, to look them up")
    dataset: str = Field(min_length=3)
    host: str = Field(min_length=3, description="CPU, and GPU where one was used")
    threads: int | None = Field(ge=1, default=None, description="None where it is not known")
    batch: int = Field(ge=1, default=1)
    result: tuple[Result, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_an_original(self) -> Self:
        methods = [result.method for result in self.result]
        if ORIGINAL not in methods:
            raise ValueError(f"no [[result]] has method = {ORIGINAL!r}; ratios are against it")
        if twice := [m for m in methods if methods.count(m) > 1]:
            raise ValueError(f"method {twice[0]!r} is there twice")
        return self

    @property
    def original(self) -> Result:
        """What the others are compared with."""
        return next(r for r in self.result if r.method == ORIGINAL)


def read_submission(path: Path) -> Submission:
    """Read and check one file. BadInput names the key and what to change."""
    table = read_toml(path)
    results = table.get("result")
    for number, result in enumerate(results if isinstance(results, list) else (), 1):
        build_record(Result, result, f"{path}: [[result]] {number}")
    return build_record(Submission, table, str(path))


def read_submissions(folder: Path) -> list[Submission]:
    """All files of a folder, by name. BadInput also when a team hands in a model twice."""
    found: dict[tuple[str, str], Path] = {}
    made = []
    for path in sorted(folder.glob("*.toml")):
        submission = read_submission(path)
        key = (submission.team, submission.model)
        if key in found:
            raise BadInput(
                f"{path}: {submission.team} already has {submission.model} in "
                f"{found[key].name}; put the results into one file"
            )
        found[key] = path
        made.append(submission)
    return made
