"""One table over all models and ways to compress them: ours, and what teams handed in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from reports import formatting as f
from reports.contributed import ORIGINAL, Result, Submission, read_submissions
from reports.table import Mark, Table
from serving.errors import BadInput
from serving.records import BenchRow, Variant

CONTRIBUTED = "contributed"
_BENCH = "bench.json"
_OURS = "tonnage"
_HEADER = (
    "Model",
    "Method",
    "Weights",
    "Times smaller",
    "CPU ms",
    "Times faster",
    "GPU ms",
    "RAM",
    "VRAM",
    "Accuracy",
    "Precision",
    "Recall",
    "F1",
    "Fidelity",
    "By",
    "",
)


@dataclass(frozen=True)
class Row:
    """A result, the original that it is compared with, who measured it and where."""

    submission: Submission
    result: Result
    mark: Mark


def read_rows(published: Path) -> list[Row]:
    """All rows, sorted by model, ours before the others'. BadInput names the file that is wrong.

    ``published`` holds a folder a workload with its ``bench.json``, and the folder
    ``contributed`` with the files that teams hand in.
    """
    benches = (_ours(path) for path in sorted(published.glob(f"*/{_BENCH}")))
    ours = [made for made in benches if made]
    theirs = read_submissions(published / CONTRIBUTED)
    groups = [(s, Mark.MEASURED) for s in ours] + [(s, Mark.STATED) for s in theirs]
    groups.sort(key=lambda group: (group[0].model, group[1] is not Mark.MEASURED, group[0].team))
    return [Row(s, result, mark) for s, mark in groups for result in s.result]


def table_of(rows: Sequence[Row]) -> Table:
    """The table; every row says by whom it was measured."""
    return Table(
        name="all_models",
        title="Models and ways to compress them",
        header=_HEADER,
        rows=tuple(_cells(row) for row in rows),
        mark=None,
        text_columns=(0, 1, 14, 15),
        notes=tuple(_notes(rows)),
    )


def _cells(row: Row) -> tuple[str, ...]:
    result, base = row.result, row.submission.original
    is_base = result is base
    faster = base.cpu_ms / result.cpu_ms if base.cpu_ms and result.cpu_ms else None
    return (
        row.submission.model,
        result.method,
        _megabytes(result.weights_mb),
        f.NOTHING if is_base else f.ratio(base.weights_mb / result.weights_mb),
        f.number(result.cpu_ms),
        f.NOTHING if is_base else f.ratio(faster, 2),
        f.number(result.gpu_ms),
        _megabytes(result.ram_mb),
        _megabytes(result.vram_mb),
        f.metric(result.accuracy),
        f.metric(result.precision),
        f.metric(result.recall),
        f.metric(result.f1),
        f.metric(result.fidelity),
        row.submission.team,
        f"[{row.mark}]",
    )


def _megabytes(value: float | None) -> str:
    return f.file_size(None if value is None else 1e6 * value)


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    yield "Ratios are against the original of the same rows, never across teams or hosts."
    yield "MB are millions of bytes; RAM is the peak of the process that holds the model."
    yield "Fidelity is the share of rows decided as the original decides them, not its quality."
    for submission in dict.fromkeys(row.submission for row in rows):
        threads = f.count_of(submission.threads, "thread") if submission.threads else "? threads"
        yield (
            f"{submission.team}, {submission.model}: {submission.dataset}; {submission.host}; "
            f"{threads}, batch {submission.batch}. Source: {submission.source}."
        )


def _ours(path: Path) -> Submission | None:
    """What ``python -m benchmarks.workloads`` wrote, in the form of a submission.

    None for a bench of something else, which names no workload.
    """
    try:
        document = json.loads(path.read_text())
        if "workload" not in document:
            return None
        variants = [Variant.model_validate(item) for item in document["variants"]]
        rows = [BenchRow.model_validate(row) for repeat in document["rows"] for row in repeat]
        host = str(document["host"]["cpu"])
        baseline = next(v for v in variants if not v.made_from)
        return Submission(
            team=_OURS,
            model=str(document["workload"]),
            source=f"reports/published/{path.parent.name}/{_BENCH}",
            dataset=f"{baseline.quality.n_rows if baseline.quality else 0:,} test rows",
            host=host,
            threads=1,
            result=tuple(_result(v, v is baseline, rows) for v in variants),
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration, ValidationError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"{path}: not written by this version of the bench ({first}); run it again: "
            f"python -m benchmarks.workloads {path.parent.name}"
        ) from None


def _result(variant: Variant, is_base: bool, rows: Sequence[BenchRow]) -> Result:
    quality = variant.quality
    # Where the driver does not say how much memory was held, the time stays out as well: this
    # table has both or neither.
    on_gpu = [row for row in _at_one(variant, rows, "gpu") if row.gpu_memory_bytes]
    return Result(
        method=ORIGINAL if is_base else variant.name,
        weights_mb=variant.size_bytes / 1e6,
        cpu_ms=_middle([r.p50_ms for r in _at_one(variant, rows, "cpu")]),
        gpu_ms=_middle([row.p50_ms for row in on_gpu]),
        ram_mb=_middle([r.peak_rss_bytes / 1e6 for r in _at_one(variant, rows, "cpu")]),
        vram_mb=_middle([(row.gpu_memory_bytes or 0) / 1e6 for row in on_gpu]),
        accuracy=quality.accuracy if quality else None,
        precision=quality.precision if quality else None,
        recall=quality.recall if quality else None,
        f1=quality.f1 if quality else None,
        fidelity=quality.fidelity if quality and not is_base else None,
    )


def _at_one(variant: Variant, rows: Sequence[BenchRow], device: str) -> list[BenchRow]:
    wanted = (variant.name, device, 1, 1)
    return [r for r in rows if (r.variant, r.device, r.batch, r.threads) == wanted]


def _middle(values: Sequence[float]) -> float | None:
    return median(values) if values else None
