"""The one table over all variants of a model: size, speed, quality and memory side by side."""

from __future__ import annotations

from reports import formatting as f
from reports.bundle import Bundle
from reports.model_tables import METRIC_HEADS, difference
from reports.table import Mark, Table
from serving.quality import METRIC_NAMES
from serving.records import BenchRow, Variant


def comparison(bundle: Bundle) -> Table:
    """A row a variant; ratios are against the baseline, times are of one thread."""
    info = bundle.info
    baseline = next((v for v in bundle.variants if v.name == info.baseline), None)
    batches = sorted({row.batch for row in bundle.bench})
    on_gpu = any(row.device == "gpu" for row in bundle.bench)
    rows = [_row(bundle, v, baseline, batches, on_gpu) for v in bundle.variants]
    gpu_heads = [*(f"GPU ms at {f.count(b)}" for b in batches), "VRAM"] if on_gpu else []
    return Table(
        name="comparison",
        title=f"Variants against {info.baseline}",
        header=(
            "Variant",
            "Made by",
            "Size",
            "Compression",
            *(f"CPU ms at {f.count(b)}" for b in batches),
            *(f"Speed-up at {f.count(b)}" for b in batches),
            "Rows/s",
            METRIC_HEADS[info.metric],
            f"Delta {METRIC_NAMES[info.metric]}",
            "RAM",
            *gpu_heads,
        ),
        rows=tuple(rows) if bundle.bench else (),
        mark=Mark.MEASURED,
        text_columns=(0, 1),
        notes=(
            "In process, one thread: median milliseconds of a call at each batch size. "
            "Rows per second at the best of them.",
            "RAM is the peak of a process that holds this variant alone, its libraries included.",
            *([] if on_gpu else ["No GPU is present, so there are no GPU columns."]),
        ),
    )


def _row(
    bundle: Bundle,
    variant: Variant,
    baseline: Variant | None,
    batches: list[int],
    on_gpu: bool,
) -> tuple[str, ...]:
    metric = bundle.info.metric
    times = _by_batch(bundle, variant.name, "cpu")
    before = _by_batch(bundle, bundle.info.baseline, "cpu")
    is_base = variant == baseline
    lost = None if is_base or baseline is None else difference(variant, baseline, metric)
    smaller = baseline.size_bytes / variant.size_bytes if baseline and variant.size_bytes else None
    cells = [
        variant.name + (" (barred)" if variant.barred else ""),
        _made_by(variant),
        f.file_size(variant.size_bytes),
        f.NOTHING if is_base else f.ratio(smaller),
        *(f.number(times[b].p50_ms) if b in times else f.NOTHING for b in batches),
        *(
            f.ratio(before[b].p50_ms / times[b].p50_ms)
            if b in times and b in before and not is_base
            else f.NOTHING
            for b in batches
        ),
        f.compact(max((row.rows_per_s for row in times.values()), default=None)),
        f.metric(getattr(variant.quality, metric, None)),
        f.delta(lost),
        f.memory(max((row.peak_rss_bytes for row in times.values()), default=None)),
    ]
    if on_gpu:
        there = _by_batch(bundle, variant.name, "gpu")
        cells += [f.number(there[b].p50_ms) if b in there else f.NOTHING for b in batches]
        held = [row.gpu_memory_bytes for row in there.values() if row.gpu_memory_bytes]
        cells.append(f.memory(max(held, default=None)))
    return tuple(cells)


def _made_by(variant: Variant) -> str:
    origin = f"{variant.made_from}: " if variant.made_from else ""
    return f"{origin}{variant.method}" if variant.method else f.NOTHING


def _by_batch(bundle: Bundle, variant: str, device: str) -> dict[int, BenchRow]:
    wanted = [row for row in bundle.bench if (row.variant, row.device) == (variant, device)]
    least = min((row.threads for row in wanted), default=1)
    return {row.batch: row for row in wanted if row.threads == least}
