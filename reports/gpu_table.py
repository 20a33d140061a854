"""The GPU verdict: how far CPUs reach, and what a GPU would have to cost to be worth a look."""

from __future__ import annotations

from planner.gpu import break_even_usd_per_hour, gpus_needed
from planner.reach import CpuReach
from planner.records import Demand
from reports import formatting as f
from reports.bundle import Bundle
from reports.table import Mark, Table, marked


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
    said = (
        f"CPUs hold up to {f.rate(reach.rate_rps)} of {f.count(reach.batch)} "
        f"row{'s' if reach.batch > 1 else ''} ({wanted.title}), {f.rows(reach.rows_per_s)}, with "
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
    return (marked(said, Mark.PREDICTED), *(() if measured else (none,)))


def reach_table(bundle: Bundle) -> Table:
    """Every profile and batch: the highest rate that CPUs hold, and its cost."""
    rows = []
    for wanted, reach in _reaches(bundle):
        demanded = wanted.rate_rps if reach.batch == wanted.batch else None
        rows.append(
            (
                wanted.title,
                ", ".join(f.objective(slo) for slo in wanted.slos),
                f.count(reach.batch),
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
        for gpu in bundle.bench:
            asked = (reach.batch, wanted.length)
            if gpu.device != "gpu" or (gpu.batch, gpu.length) != asked or not reach.rate_rps:
                continue
            here = [
                r.rows_per_s
                for r in bundle.cpu_bench
                if (r.variant, r.batch) == (gpu.variant, gpu.batch)
            ]
            faster = gpu.rows_per_s / max(here) if here else None
            rows.append(
                (
                    wanted.title,
                    gpu.variant,
                    f.count(gpu.batch),
                    marked(f.number(gpu.p50_ms), Mark.MEASURED),
                    marked(f.compact(gpu.rows_per_s), Mark.MEASURED),
                    marked(f.ratio(faster), Mark.MEASURED),
                    marked(f.count(gpus_needed(reach, gpu.rows_per_s)), Mark.PREDICTED),
                    marked(f.usd(break_even_usd_per_hour(reach, gpu.rows_per_s)), Mark.PREDICTED),
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
        notes=("In process: what serving adds is not in it.",),
    )


def _reaches(bundle: Bundle) -> list[tuple[Demand, CpuReach]]:
    return [(a.demand, reach) for a in bundle.recommendations for reach in a.cpu_reaches]


def _machines(reach: CpuReach) -> str:
    if not reach.rate_rps:
        return "no plan holds at any rate"
    return (
        f"{f.count(reach.instances)} x {reach.instance}, {reach.variant}, "
        f"{f.count_of(reach.replicas, 'replica')}"
    )
