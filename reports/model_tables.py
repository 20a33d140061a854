"""Tables about the model itself: its files, its speed in process, its quality."""

from __future__ import annotations

from reports import formatting as f
from reports.bundle import Bundle
from reports.table import Mark, Table
from serving.quality import METRIC_NAMES
from serving.records import COMMAND, BenchRow, Variant


def sizes(bundle: Bundle) -> Table:
    """Files of the variants and how much smaller each is (seed row C1)."""
    baseline = _variant(bundle, bundle.info.baseline)
    fp32 = next((v for v in bundle.variants if v.precision == "fp32" and v != baseline), None)
    rows = [
        (
            v.name,
            v.file,
            f"{v.runtime}, {v.precision}",
            f.file_size(v.size_bytes),
            _smaller(v, baseline),
            _smaller(v, fp32),
            v.sha256[:12],
        )
        for v in _files(bundle)
    ]
    against = fp32.name if fp32 else "fp32"
    return Table(
        name="sizes",
        title="Model files",
        header=(
            "Variant",
            "File",
            "Form",
            "Size",
            f"vs {bundle.info.baseline}",
            f"vs {against}",
            "SHA-256",
        ),
        rows=tuple(rows),
        mark=Mark.MEASURED,
        text_columns=(0, 1, 2, 6),
    )


def inference(bundle: Bundle) -> Table:
    """Latency and throughput in process at the largest batch (seed row C2)."""
    batch = max((row.batch for row in bundle.cpu_bench), default=0)
    cores = max((row.threads for row in bundle.cpu_bench if not row.oversubscribed), default=1)
    wanted = sorted({1, cores})
    rows = []
    for threads in wanted:
        chosen = _bench_at(bundle, batch, threads)
        for name, row in chosen.items():
            rows.append(
                (
                    name,
                    f.count(threads),
                    f.number(row.p50_ms),
                    f.number(row.p95_ms),
                    f.number(row.p99_ms),
                    f.compact(row.rows_per_s),
                    _speed_up(row, chosen.get(bundle.info.baseline)),
                    f.memory(row.peak_rss_bytes),
                )
            )
    return Table(
        name="inference",
        title=f"In-process inference, batch {f.count(batch)}",
        header=(
            "Variant",
            "Threads",
            "p50 (ms)",
            "p95 (ms)",
            "p99 (ms)",
            "Rows/s",
            f"vs {bundle.info.baseline}",
            "Peak RSS",
        ),
        rows=tuple(rows),
        mark=Mark.MEASURED,
        notes=(
            "No server and no network: one call after another in one process.",
            *_speed_ups_by_origin(bundle, batch, wanted),
        ),
    )


def quality(bundle: Bundle) -> Table:
    """Quality of every variant, its loss, and its parity with the original (seed row C3)."""
    baseline = _variant(bundle, bundle.info.baseline)
    metric = bundle.info.metric
    shown = _metrics_shown(bundle)
    rows = []
    for v in _files(bundle):
        q, p = v.quality, v.parity
        lost = None if v == baseline or baseline is None else difference(v, baseline, metric)
        rows.append(
            (
                v.name + (" (baseline)" if v == baseline else ""),
                *(f.metric(getattr(q, name, None)) for name in shown),
                f.delta(lost),
                f.tiny(p.max_abs_difference if p else None),
                f.tiny(p.mean_abs_difference if p else None),
                f"barred: {v.barred}" if v.barred else "passes",
            )
        )
    tested = max((v.quality.n_rows for v in bundle.variants if v.quality), default=0)
    return Table(
        name="quality",
        title=f"Fidelity on {f.count(tested)} generated rows"
        if is_fidelity(bundle)
        else f"Quality on {f.count(tested)} test rows",
        header=(
            "Variant",
            *(METRIC_HEADS[name] for name in shown),
            f"Delta {METRIC_NAMES[metric]}",
            "Parity max",
            "Parity mean",
            "Gate" if is_fidelity(bundle) else "Quality gate",
        ),
        rows=tuple(rows),
        mark=Mark.MEASURED,
        text_columns=(0, len(shown) + 4),
        notes=(
            f"The gate bars a variant that loses more than {bundle.info.max_loss:g} "
            f"{METRIC_NAMES[metric]}.",
            *_fidelity_note(shown),
            "Parity is the absolute difference from the original's answers, row by row.",
        ),
    )


def configurations(bundle: Bundle) -> Table:
    """In-process load test by variant, threads and batch (seed row C4)."""
    batches = sorted({row.batch for row in bundle.cpu_bench})
    cells = {(row.variant, row.threads, row.batch): row for row in bundle.cpu_bench}
    rows = []
    for variant, threads in dict.fromkeys((row.variant, row.threads) for row in bundle.cpu_bench):
        found = [cells.get((variant, threads, batch)) for batch in batches]
        over = any(row.oversubscribed for row in found if row)
        rows.append(
            (
                configuration_name(variant, threads),
                f.count(threads),
                *(_bench_figure(row) for row in found),
                "oversubscribed" if over else "",
            )
        )
    heads = (f"Batch {f.count(b)} ({'ms' if b == 1 else 'rows/s'})" for b in batches)
    return Table(
        name="configurations",
        title="In-process load test by configuration",
        header=("Configuration", "Threads", *heads, "Note"),
        rows=tuple(rows),
        mark=Mark.MEASURED,
        text_columns=(0, 2 + len(batches)),
        notes=(
            *best_lines(bundle),
            "Batch 1 is the median latency of a call; the other batches are rows per second.",
            "Oversubscribed: more threads than the host has cores, so not a size to choose by.",
        ),
    )


def best_lines(bundle: Bundle) -> tuple[str, ...]:
    """Lowest latency and the highest throughput in process, oversubscribed rows left out."""
    fair = [row for row in bundle.cpu_bench if not row.oversubscribed]
    singles = [row for row in fair if row.batch == 1]
    lines = []
    if singles:
        best = min(singles, key=lambda row: row.p50_ms)
        lines.append(
            f"Lowest latency in process (batch 1): {f.ms(best.p50_ms)}, "
            f"{configuration_name(best.variant, best.threads)} [{Mark.MEASURED}]"
        )
    if fair:
        best = max(fair, key=lambda row: row.rows_per_s)
        lines.append(
            f"Highest throughput in process (batch {f.count(best.batch)}): "
            f"{f.rows(best.rows_per_s)}, "
            f"{configuration_name(best.variant, best.threads)} [{Mark.MEASURED}]"
        )
    return tuple(lines)


def configuration_name(variant: str, threads: int) -> str:
    """Name of an in-process configuration, in the seed's form: ``onnx_fp32_cpu_2threads``."""
    return f"{variant}_cpu_{threads}thread" + ("" if threads == 1 else "s")


METRIC_HEADS = {
    "accuracy": "Accuracy",
    "auc": "AUC",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "fidelity": "Fidelity",
    "reproduced": "Fidelity",
}


def is_fidelity(bundle: Bundle) -> bool:
    """Whether variants are held against the original's answers, for want of labels."""
    return bundle.info.metric == "reproduced"


def _metrics_shown(bundle: Bundle) -> list[str]:
    """The measures of quality that some variant has, in the order of the table."""
    found = [v.quality for v in bundle.variants if v.quality]
    return [name for name in METRIC_HEADS if any(getattr(q, name) is not None for q in found)]


def _fidelity_note(shown: list[str]) -> tuple[str, ...]:
    if "reproduced" in shown:
        return (
            "Fidelity is the share of the variation of the original's answers to generated rows "
            "that a variant reproduces (R squared, worst output). It is no measure of quality.",
        )
    if "fidelity" in shown:
        return ("Fidelity is the share of rows that are decided as the baseline decides them.",)
    return ()


def difference(variant: Variant, baseline: Variant, metric: str) -> float | None:
    """What a variant gains over the baseline in a measure of quality; None if unknown."""
    now, before = (getattr(v.quality, metric, None) for v in (variant, baseline))
    return None if now is None or before is None else now - before


def _files(bundle: Bundle) -> list[Variant]:
    """The variants that are model files; the server of a user is none."""
    return [v for v in bundle.variants if v.runtime != COMMAND]


def _variant(bundle: Bundle, name: str) -> Variant | None:
    return next((v for v in bundle.variants if v.name == name), None)


def _smaller(variant: Variant, reference: Variant | None) -> str:
    if reference is None or variant == reference or not reference.size_bytes:
        return f.NOTHING
    change = variant.size_bytes / reference.size_bytes - 1
    return f"{f.percent(abs(change))} {'smaller' if change <= 0 else 'larger'}"


def _bench_at(bundle: Bundle, batch: int, threads: int) -> dict[str, BenchRow]:
    rows = (row for row in bundle.cpu_bench if (row.batch, row.threads) == (batch, threads))
    return {row.variant: row for row in rows}


def _speed_up(row: BenchRow, reference: BenchRow | None) -> str:
    if reference is None or row.variant == reference.variant:
        return f.NOTHING
    return f.ratio(row.rows_per_s / reference.rows_per_s)


def _speed_ups_by_origin(bundle: Bundle, batch: int, threads: list[int]) -> list[str]:
    """Seed's lines "ONNX vs sklearn 1.9x", "quantized vs ONNX 1.2x", per thread count.

    Each variant is held against the one that it was made from.
    """
    lines = []
    for slower, faster in ((v.made_from, v.name) for v in bundle.variants):
        found = []
        for n in threads:
            at = _bench_at(bundle, batch, n)
            if slower in at and faster in at:
                found.append(f"{_speed_up(at[faster], at[slower])} at {f.count_of(n, 'thread')}")
        if found:
            lines.append(f"{faster} against {slower}: {', '.join(found)}.")
    return lines


def _bench_figure(row: BenchRow | None) -> str:
    if row is None:
        return f.NOTHING
    return f.number(row.p50_ms) if row.batch == 1 else f.compact(row.rows_per_s)
