"""Tables of what was measured through the serving path, cell by cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from statistics import median
from typing import NamedTuple, Self

from loadtests.floor import at_floor, floor_p50_s, has_floor
from loadtests.histogram import Histogram
from loadtests.quantiles import quantiles_in
from loadtests.records import LadderEnd, Measurement
from reports import formatting as f
from reports.bundle import Bundle
from reports.table import Mark, Table, marked

_ENDED = {
    LadderEnd.GAIN_SMALL: "the last doubling brought less than 5 %",
    LadderEnd.THROUGHPUT_FELL: "the last doubling cost throughput",
    LadderEnd.NO_ANSWERS: "nobody was answered",
    LadderEnd.MOST_USERS: "the most that are tried, more may bring more",
    LadderEnd.TIMEOUT: "twice as many would wait for longer than a request may take",
}

_FEW = 3  # runs of a cell against which something speaks are told one by one, more in short


class Cell(NamedTuple):
    """What a row is about. ``length`` is a column only where a run has more than one."""

    variant: str
    instance: str
    threads: int
    batch: int
    length: int | None
    replicas: int

    @classmethod
    def of(cls, m: Measurement) -> Self:
        """The cell that a run measured."""
        variant, instance, threads, batch = m.key
        return cls(variant, instance, threads, batch, m.run.length, m.deployment.replicas)

    def names(self, lengths: bool) -> tuple[str, ...]:
        """The columns that name it; ``lengths`` says whether its length is one of them."""
        size = self.instance if self.replicas == 1 else f"{self.replicas} x {self.instance}"
        tokens = (f.count(self.length),) if lengths else ()
        return self.variant, size, f.count(self.threads or None), f.count(self.batch), *tokens


def _header(lengths: bool) -> tuple[str, ...]:
    return ("Variant", "Instance", "Threads", "Batch", *(("Tokens",) if lengths else ()), "Basis")


def _shown(cells: Mapping[Cell, object]) -> bool:
    """Whether there is more than one length to tell apart."""
    return len({cell.length for cell in cells}) > 1


@lru_cache(maxsize=4096)
def quantiles_ms(histogram: Histogram) -> tuple[float, float, float]:
    """p50, p95 and p99 in milliseconds; cached, as decoding is what costs time here."""
    p50, p95, p99 = histogram.quantiles_s((0.5, 0.95, 0.99))
    return 1e3 * p50, 1e3 * p95, 1e3 * p99


def capacities(bundle: Bundle) -> Table:
    """One row a cell: what it carries in a closed loop, and what a request costs it."""
    cells = _cells(bundle)
    lengths = _shown(cells)
    return Table(
        name="served_capacity",
        title="Served: capacity of one deployment, and what a request costs",
        header=(
            *_header(lengths),
            "Capacity (req/s)",
            "Rows/s",
            "Users",
            "Paced p50 (ms)",
            "Model p50 (ms)",
            "Overhead p50 (ms)",
            "Floor p50 (ms)",
            "Replica CPU (ms/req)",
            "Ingress CPU (ms/req)",
            "Generator (cores)",
            "Throttled",
            "Peak memory",
            "Samples and faults",
        ),
        rows=tuple(
            _capacity_row(cell, runs, bundle.measurements, lengths) for cell, runs in cells.items()
        ),
        mark=None,
        text_columns=(0, 1, 4 + lengths, 17 + lengths),
        notes=(
            "Capacity is the best valid rung of a ladder of closed-loop users, doubled until that "
            "brings less than 5 %; a ladder that ended otherwise says how.",
            "Paced p50 is one request at a time from due to done; "
            "Model p50 is the time inside the replica in the same run.",
            "Overhead is p50 from sent to done less Model p50: generator, ingress and the "
            "replica's own work. Floor is p50 from sent to done of a no-op, alone on a replica of "
            "that size and batch: what of the overhead is nobody's model.",
            "Throttled is the share of CFS periods in which the quota ran out, at capacity.",
        ),
    )


def open_runs(bundle: Bundle) -> Table:
    """One row an open-loop run: latency from when requests were due, at its rate."""
    cells = _cells(bundle)
    lengths = _shown(cells)
    rows = [
        _open_row(cell, m, bundle.measurements, lengths)
        for cell, runs in cells.items()
        for m in sorted(runs, key=lambda m: m.offered_rps)
        if m.run.mode == "open"
    ]
    return Table(
        name="served_latency",
        title="Served: latency under open-loop load",
        header=(
            *_header(lengths),
            "Offered (req/s)",
            "Utilisation",
            "p50 (ms)",
            "p95 (ms)",
            "p99 (ms)",
            "Sent-to-done p99 (ms)",
            "Dispatch lag p99 (ms)",
            "Throttled",
            "Failed",
            "Samples or faults",
        ),
        rows=tuple(rows),
        mark=None,
        text_columns=(0, 1, 4 + lengths, 14 + lengths),
        notes=(
            "Poisson arrivals on a seeded schedule; p50, p95 and p99 count from the due time.",
            "Ranges are 95% intervals by order statistics, correlation counted where the record "
            "has it; 'needs N': refused, so many samples bound that percentile from above.",
            "Utilisation is used CPU over granted CPU of the replica.",
            "At the platform's floor: a no-op replica of that size, at that batch, is nearly as "
            "slow at about that rate.",
            *_without_floor(cells, bundle.measurements),
        ),
    )


def start_ups(bundle: Bundle) -> Table:
    """One row a deployment: how long it takes from the order to the first answer."""
    found: dict[Cell, dict[float, Measurement]] = {}
    for m in bundle.measurements:
        if m.startup_s is not None and m.role in ("cell", "reference"):
            deployment = Cell.of(m)._replace(batch=1, length=None)
            # All runs of one deployment carry its one start.
            found.setdefault(deployment, {})[m.startup_s] = m
    rows = []
    for deployment, starts in found.items():
        runs = list(starts.values())
        rows.append(
            (
                *deployment.names(lengths=False)[:3],
                f.number(_median(m.startup_s for m in runs)),
                f.number(_median(m.worker_start_s for m in runs)),
                f.number(_median(m.model_load_s for m in runs)),
                f.count(len(runs)),
            )
        )
    return Table(
        name="startup",
        title="Served: start-up time",
        header=(
            "Variant",
            "Instance",
            "Threads",
            "Start-up (s)",
            "Ray and imports (s)",
            "Model (s)",
            "Starts",
        ),
        rows=tuple(rows),
        mark=Mark.MEASURED,
        text_columns=(0, 1),
        notes=(
            "Start-up is from the order to deploy until the ingress passes on a first answer; "
            "medians over the starts.",
            "Of it, Ray and imports is from the start of the replica's process until the model's "
            "turn; Model is loading and warming it up. The rest is Ray's scheduling.",
        ),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def load_in_words(m: Measurement) -> str:
    """Say what traffic a run asked for: "8 users", "open 400 req/s", "paced 50 req/s"."""
    if m.run.users is not None:
        return f.count_of(m.run.users, "user")
    return f"{m.run.mode} {f.given(m.run.rate_rps or 0)} req/s"


def last_rung_in_words(m: Measurement) -> str:
    """The traffic of a run and, where it is the last rung of a ladder, why: "8 users: ..."."""
    return f"{load_in_words(m)}: {_ENDED[m.ladder_end]}" if m.ladder_end else load_in_words(m)


def best_rung(runs: Iterable[Measurement]) -> Measurement | None:
    """Pick the valid closed-loop run that completed most requests per second."""
    closed = (m for m in runs if m.run.mode == "closed" and m.valid)
    return max(closed, key=lambda m: m.completed_rps, default=None)


def _cells(bundle: Bundle) -> dict[Cell, list[Measurement]]:
    """Measurements by cell, in a readable order; repeats of the reference are left to drift."""
    cells: dict[Cell, list[Measurement]] = {}
    ordered = sorted(bundle.measurements, key=lambda m: (m.role != "cell", m.sequence))
    known: set[Cell] = set()
    for m in ordered:
        cell = Cell.of(m)
        if m.role == "cell":
            known.add(cell)
        if m.role == "cell" or (m.role == "reference" and cell not in known):
            cells.setdefault(cell, []).append(m)
    names = [v.name for v in bundle.variants]

    def place(cell: Cell) -> tuple[int, int, int, float, str, int, int]:
        size = cells[cell][0].deployment.instance
        variant = names.index(cell.variant) if cell.variant in names else len(names)
        within = (variant, size.vcpus, cell.instance, cell.threads, cell.replicas)
        return (cell.batch, cell.length or 0, *within)

    return {cell: cells[cell] for cell in sorted(cells, key=place)}


def _without_floor(cells: Iterable[Cell], every: tuple[Measurement, ...]) -> tuple[str, ...]:
    """A note of the sizes and batches of which no no-op says how slow the platform is."""
    asked = dict.fromkeys((cell.instance, cell.batch) for cell in cells)
    bare = [one for one in asked if not has_floor(every, one[1], one[0])]
    if not bare:
        return ()
    where = "any size"
    if len(bare) < len(asked):
        where = "; ".join(f"{size}, batch {f.count(batch)}" for size, batch in bare)
    return (f"No no-op was driven at the rates of {where}: of a floor nothing is said there.",)


def _capacity_row(
    cell: Cell, runs: list[Measurement], every: tuple[Measurement, ...], lengths: bool
) -> tuple[str, ...]:
    best = best_rung(runs)
    paced = next((m for m in runs if m.run.mode == "paced" and m.valid), None)
    shown: tuple[str, ...] = (f.NOTHING,) * 3
    costs: tuple[str, ...] = (f.NOTHING,) * 5
    if best:
        shown = (f.number(best.completed_rps), f.compact(best.rows_per_s), f.count(best.run.users))
        costs = (
            f.number(best.replica_cpu_ms),
            f.number(over(1e3 * best.cpu.ingress_s, best.ok)),
            f.number(best.cpu.generator_s / best.elapsed_s),
            _throttled(best),
            f.memory(max(m.peak_memory_bytes for m in runs if m.valid)),
        )
    model_ms = overhead_ms = None
    if paced and paced.tells_service:
        model_ms = quantiles_ms(paced.service)[0]
        overhead_ms = quantiles_ms(paced.sent_to_done)[0] - model_ms
    floor_s = floor_p50_s(every, cell.batch, cell.instance)
    ladder = [m for m in runs if m.run.mode != "open"]
    return (
        *cell.names(lengths),
        # The row is about capacity: without a valid rung it is refused, whatever else is known.
        marked("", Mark.MEASURED if best else Mark.REFUSED),
        *shown,
        f.number(quantiles_ms(paced.due_to_done)[0] if paced else None),
        f.number(model_ms),
        f.number(overhead_ms),
        f.number(None if floor_s is None else 1e3 * floor_s),
        *costs,
        _samples_and_faults(ladder),
    )


def _samples_and_faults(runs: list[Measurement]) -> str:
    """Sum of the believed samples, how users ended if unusually, then what is not believed."""
    if not any(m.run.mode == "closed" for m in runs):
        return "no closed-loop run"
    samples = sum(m.ok for m in runs if m.valid)
    usual = (None, LadderEnd.GAIN_SMALL)
    ended = (f"ladder ended at {last_rung_in_words(m)}" for m in runs if m.ladder_end not in usual)
    broken = [f"{load_in_words(m)} breaks a law: {law}" for m in runs for law in m.broken_laws]
    if len(broken) > _FEW:
        broken = [f"laws are broken {len(broken)} times; the first: {broken[0]}"]
    return "; ".join((f"n = {f.count(samples)}", *ended, *_refused(runs), *broken))


def _refused(runs: Iterable[Measurement]) -> Iterator[str]:
    """Each refused run and why; of many, which the page has no room for, a line for each fault."""
    faulty = [m for m in runs if not m.valid]
    if len(faulty) <= _FEW:
        yield from (f"{load_in_words(m)} refused: {reasons(m)}" for m in faulty)
        return
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for m in faulty:
        counts.update({fault.code for fault in m.faults})
        for fault in m.faults:
            first.setdefault(fault.code, fault.detail)
    found = ", ".join(
        f"{code.replace('_', ' ')} in {n} (the first: {first[code]})"
        for code, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    yield f"{len(faulty)} runs refused: {found}"


def _open_row(
    cell: Cell, m: Measurement, every: tuple[Measurement, ...], lengths: bool
) -> tuple[str, ...]:
    shown: tuple[str, ...] = (f.NOTHING,) * 6
    if m.valid:
        shown = (
            f.percent(m.utilisation),
            *map(f.measured_quantile, quantiles_in(m.quantiles, "due_to_done", m.due_to_done)),
            f.measured_quantile(quantiles_in(m.quantiles, "sent_to_done", m.sent_to_done)[2]),
            f.measured_quantile(quantiles_in(m.quantiles, "dispatch_lag", m.dispatch_lag)[2]),
        )
    failed = m.offered - m.ok
    return (
        *cell.names(lengths),
        marked("", Mark.MEASURED if m.valid else Mark.REFUSED),
        f.number(m.offered_rps),
        *shown,
        _throttled(m),
        f.count(failed),
        _remarks(m, every) if m.valid else reasons(m),
    )


def _remarks(m: Measurement, every: tuple[Measurement, ...]) -> str:
    parts = [f"n = {f.count(m.due_to_done.count)}"]
    floor = at_floor(m, every)
    if floor is not None:
        parts.append(f"at the platform's floor (its p99 is {f.ms(1e3 * floor)})")
    parts += [f"{f.objective(v.slo)} {v.verdict}" for v in m.verdicts]
    if m.steady is not None and (m.steady.index or not m.steady.steady):
        parts.append(m.steady.reason)
    return "; ".join(parts)


def basis(m: Measurement) -> str:
    """Say what the figures of a run are: measured with their number, or refused and why."""
    if m.valid:
        return marked(f"n = {f.count(m.due_to_done.count)}", Mark.MEASURED)
    return marked(reasons(m), Mark.REFUSED)


def reasons(m: Measurement) -> str:
    """List the faults of a run with the figures behind them."""
    return ", ".join(f"{fault.code.replace('_', ' ')}: {fault.detail}" for fault in m.faults)


def _throttled(m: Measurement) -> str:
    t = m.throttling
    return f.percent(t.throttled_periods / t.periods) if t.periods else f.NOTHING


def over(value: float, base: float) -> float | None:
    """Quotient; None where there is nothing to divide by."""
    return value / base if base else None
