"""Dynamic batching: best plans whose replicas answer waiting requests together."""

from __future__ import annotations

from collections.abc import Sequence

from planner.records import BatchChoice, Recommendation
from reports import formatting as f
from reports.table import Mark, Table, marked


def batching(answers: Sequence[Recommendation]) -> Table:
    """One row for each profile whose best plan shares calls; none where none does."""
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
        title="Best plans with dynamic batching",
        header=(
            "Profile",
            "max_batch",
            "batch_wait_ms",
            "Replicas",
            "Replicas of the cheapest plan without",
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
            "The quantile is that with the spare replicas gone. Nothing was measured batched: "
            "'tonnage confirm' deploys it so, and proves it.",
        ),
    )


def sentence(choice: BatchChoice) -> str:
    """What batching does for the best plan, in one sentence."""
    without = "no plan without it holds"
    if choice.instead_of is not None:
        without = f"the cheapest plan without it has {f.count_of(choice.instead_of, 'replica')}"
    batches = ", ".join(map(f.count, choice.measured_batches))
    return marked(
        f"up to {f.count(choice.max_batch)} requests a call, {_waiting(choice)}: "
        f"{f.interval(choice.latency_ms, f.ms)} by batches {batches}, whose law is off by "
        f"{f.percent(choice.residual)}; {without}",
        Mark.PREDICTED,
    )


def _waiting(choice: BatchChoice) -> str:
    if not choice.batch_wait_ms:
        return "as many as wait"
    return f"waiting {f.ms(choice.batch_wait_ms)} at most"
