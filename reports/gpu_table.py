"""The GPU verdict: how far CPUs reach, and what a GPU would have to cost to be worth a look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from planner.gpu import break_even_usd_per_hour, gpus_needed, rows_per_s_of
from planner.reach import CpuReach
from planner.records import Demand
from reports import formatting as f
from reports import words
from reports.bundle import Bundle
from reports.table import Mark, Table, marked
from serving.records import BenchRow


def verdict(bundle: Bundle) -> tuple[str, ...]:
    """The verdict in words; no figure for a GPU is ever made up."""
    measured = any(row.device == "gpu" for row in bundle.bench)
    none = marked("No GPU was measured, so no GPU figure is given.", Mark.REFUSED)
    reaches = [found for found in _reaches(bundle) if found[1].rate_rps]
    if not reaches:
        unknown = "What a GPU would have to beat is not known from this run either."
        return () if measured else (none, unknown)
    wanted, reach = max(reaches, key=lambda found: found[1].rows_per_s)
    price = reach.gpu_usd_per_hour
    rows = f"{f.count(reach.batch)} row{'s' if reach.batch > 1 else ''}"
    if reach.mix is not None:
        rows = words.requests(reach.batch, reach.mix)
    said = (
        f"CPUs hold up to {f.rate(reach.rate_rps)} of {rows} "
        f"({wanted.title}), {f.rows(reach.rows_per_s)}, with "
        f"{f.count_of(reach.replicas, 'replica')}"
    )
    if price is None:
        said += "; without a price for them nothing says what a GPU may cost"
    else:
        said += (
            f", for {f.usd(reach.usd_per_hour)} per hour. A GPU for more than {f.usd(price)} per "
            "hour cannot be cheaper up to there, however fast it is; below that price, or above "
            "that rate, one is worth measuring"
        )
    refused = _refused(bundle) if measured else (none,)
    return (marked(said, Mark.PREDICTED), *refused)


def reach_table(bundle: Bundle) -> Table:
    """Every profile and batch: the highest rate that CPUs hold, and its cost."""
    rows = []
    for wanted, reach in _reaches(bundle):
        demanded = wanted.rate_rps if reach.batch == wanted.batch else None
        rows.append(
            (
                wanted.title,
                ", ".join(f.objective(slo) for slo in wanted.slos),
                _batch(reach),
                f.number(demanded),
                f.number(reach.rate_rps) if reach.rate_rps else "none",
                f.compact(reach.rows_per_s) if reach.rate_rps else f.NOTHING,
                _machines(reach),
                f.usd(reach.usd_per_hour),
                f.usd(reach.usd_per_million),
                f.usd(reach.gpu_usd_per_hour),
            )
        )
    return Table(
        name="gpu_reach",
        title="How far CPUs reach",
        header=(
            "Profile",
            "Objective",
            "Batch",
            "Demanded (req/s)",
            "CPUs hold (req/s)",
            "Rows/s",
            "With",
            "Per hour",
            "Per million rows",
            "GPU worth measuring below (per hour)",
        ),
        rows=tuple(rows),
        mark=Mark.PREDICTED,
        text_columns=(0, 1, 6),
        notes=(
            "The highest rate that some plan within the profile's max_replicas holds at the upper "
            "bound of its latency, and the cheapest plan at that rate. The last column is its "
            "cost, shared among the GPUs that spare replicas would ask for.",
        ),
    )


def measured_table(bundle: Bundle) -> Table:
    """What GPUs did in process, where there are any, beside the CPU."""
    rows = []
    for wanted, reach in _reaches(bundle):
        for variant, gpu in _gpus(bundle, wanted, reach):
            if not reach.rate_rps:
                continue
            p50_ms = gpu[reach.batch].p50_ms if reach.mix is None else None  # that of no request
            rows_per_s = _rows_per_s(gpu, reach)
            if rows_per_s is None:
                continue
            here = _fastest_cpu(bundle, variant, reach)
            rows.append(
                (
                    wanted.title,
                    variant,
                    _batch(reach),
                    marked(f.number(p50_ms), Mark.MEASURED) if p50_ms else f.NOTHING,
                    marked(f.compact(rows_per_s), Mark.MEASURED),
                    marked(f.ratio(rows_per_s / here if here else None), Mark.MEASURED),
                    marked(f.count(gpus_needed(reach, rows_per_s)), Mark.PREDICTED),
                    marked(f.usd(break_even_usd_per_hour(reach, rows_per_s)), Mark.PREDICTED),
                )
            )
    return Table(
        name="gpu_measured",
        title="GPUs in process",
        header=(
            "Profile",
            "Variant",
            "Batch",
            "GPU p50 (ms)",
            "GPU rows/s",
            "Against the CPU",
            "GPUs for what CPUs hold, at least",
            "Cheaper below (per hour)",
        ),
        rows=tuple(rows),
        mark=None,
        text_columns=(0, 1),
        notes=(
            "In process: what serving adds is not in it. Of a mix, rows per second are those of "
            "its batch sizes one after the other, by weight.",
        )
        if any(reach.mix for _, reach in _reaches(bundle))
        else ("In process: what serving adds is not in it.",),
    )


def _reaches(bundle: Bundle) -> list[tuple[Demand, CpuReach]]:
    return [(a.demand, reach) for a in bundle.recommendations for reach in a.cpu_reaches]


def _gpus(
    bundle: Bundle, wanted: Demand, reach: CpuReach
) -> Iterator[tuple[str, dict[int, BenchRow]]]:
    """A variant, and what a GPU did at the batch sizes of a reach with so many threads."""
    batches = (reach.batch,) if reach.mix is None else reach.mix.batches
    found: dict[tuple[str, int], dict[int, BenchRow]] = {}
    for row in bundle.bench:
        if row.device == "gpu" and row.batch in batches and row.length == wanted.length:
            found.setdefault((row.variant, row.threads), {})[row.batch] = row
    yield from ((variant, benched) for (variant, _), benched in found.items())


def _rows_per_s(benched: Mapping[int, BenchRow], reach: CpuReach) -> float | None:
    return rows_per_s_of(reach, {batch: row.rows_per_s for batch, row in benched.items()})


def _fastest_cpu(bundle: Bundle, variant: str, reach: CpuReach) -> float | None:
    """Rows a second of the variant on CPUs, with the best number of threads."""
    by_threads: dict[int, dict[int, BenchRow]] = {}
    for row in bundle.cpu_bench:
        if row.variant == variant:
            by_threads.setdefault(row.threads, {})[row.batch] = row
    found = (_rows_per_s(benched, reach) for benched in by_threads.values())
    return max((rate for rate in found if rate is not None), default=None)


def _refused(bundle: Bundle) -> tuple[str, ...]:
    """A sentence for each mix of which no GPU was measured at every batch size."""
    said = []
    for wanted, reach in _reaches(bundle):
        if reach.mix is None or not reach.rate_rps:
            continue
        gpus = list(_gpus(bundle, wanted, reach))
        if not any(_rows_per_s(gpu, reach) for _, gpu in gpus):
            said.append(
                f"{wanted.title}: no GPU was measured at every batch size of the mix, so nothing "
                "says how many it would take."
            )
    return tuple(marked(line, Mark.REFUSED) for line in said)


def _batch(reach: CpuReach) -> str:
    said = words.requests(reach.batch, reach.mix)
    return said.removeprefix("batch ")


def _machines(reach: CpuReach) -> str:
    if not reach.rate_rps:
        return "no plan holds at any rate"
    return (
        f"{f.count(reach.instances)} x {reach.instance}, {reach.variant}, "
        f"{f.count_of(reach.replicas, 'replica')}"
    )
