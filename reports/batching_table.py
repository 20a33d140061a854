"""Dynamic batching: where fewer replicas would do if waiting requests shared calls."""

from __future__ import annotations

from collections.abc import Sequence

from planner.records import BatchChoice, Recommendation
from reports import formatting as f
from reports.table import Mark, Table, marked


def batching(answers: Sequence[Recommendation]) -> Table:
    """One row for each profile that batching helps; none where it helps nowhere."""
    rows = [
        (
            answer.demand.title,
            f.count(choice.max_batch),
            f.number(choice.batch_wait_ms),
            f.count(choice.replicas),
            f.count(choice.instead_of),
            f.interval(choice.latency_ms),
            f.usd(choice.usd_per_month),
            ", ".join(map(f.count, choice.measured_batches)),
            f.percent(choice.residual),
        )
        for answer in answers
        if (choice := answer.batching) is not None
    ]
    return Table(
        name="batching",
        title="Fewer replicas with dynamic batching",
        header=(
            "Profile",
            "max_batch",
            "batch_wait_ms",
            "Replicas",
            "Instead of",
            "Quantile of the objective (ms)",
            "Per month",
            "From batches",
            "Law off by",
        ),
        rows=tuple(rows),
        mark=Mark.PREDICTED,
        text_columns=(0, 7),
        notes=(
            "Replicas that answer up to max_batch waiting requests in one call. The time of a "
            "batch that was not measured lies on a line between those that were; how far that is "
            "off was found by leaving measured ones out (25% is assumed where only two were). "
            "Not measured as deployed: try it with 'tonnage serve --max-batch'.",
        ),
    )


def sentence(choice: BatchChoice) -> str:
    """What batching would do, in one sentence."""
    price = f" for {f.usd_per_month(choice.usd_per_month)}" if choice.usd_per_month else ""
    return marked(
        f"{f.count_of(choice.replicas, 'replica')} instead of {f.count(choice.instead_of)}{price} "
        f"with up to {f.count(choice.max_batch)} requests a call, waiting "
        f"{f.ms(choice.batch_wait_ms)} at most: {f.interval(choice.latency_ms, f.ms)}",
        Mark.PREDICTED,
    )
