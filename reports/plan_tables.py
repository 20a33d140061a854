"""Tables of what is recommended and of everything that was not."""

from __future__ import annotations

from collections import Counter

from planner.recommend import best_on_host
from planner.records import Plan, Recommendation
from reports import formatting as f
from reports import words
from reports.batching_table import sentence
from reports.bundle import Bundle
from reports.table import Mark, Table, marked

_POINTS = (
    "Capacity is the lower bound over all replicas at the utilisation cap; "
    "cost is the list price of the machines, whatever their load."
)
_PARETO = (
    "Pareto set: no other plan listed is at least as good in cost, upper bound of the p99, "
    "quality and in how much goes with one instance; plans without a price are a set of their own."
)


def recommendation(bundle: Bundle, answer: Recommendation) -> Table:
    """Chosen plan beside the best on this host's own sizes, property by property (C5)."""
    wanted, best, host = answer.demand, answer.best, best_on_host(answer)
    columns: list[tuple[str, Plan | None]] = [("Recommended", best)] if best else []
    if host and host is not best:
        columns.append(("Best on this host's sizes", host))
    columns = columns or [("Recommended", None)]
    rows: list[tuple[str, ...]] = []
    if any(plan for _, plan in columns):
        described = [_properties(bundle, answer, plan) for _, plan in columns if plan]
        for label in described[0]:
            cells = [properties[label] for properties in described]
            if any(cells):
                rows.append((label, *cells))
    else:
        rows.append(("Plan", marked(words.commonest(answer) or "none was tried", Mark.REFUSED)))
        if bound := words.binding(answer):
            rows.append(("Why", marked(bound, Mark.REFUSED)))
        for number, one in enumerate(words.nearest(answer)):
            rows.append(("" if number else "Nearest that works", one))
    return Table(
        name=f"recommendation_{wanted.name}",
        title=f"{wanted.title} (batch {_range(wanted.batch_range)})",
        header=("", *(title for title, _ in columns)),
        rows=tuple(rows),
        mark=None,
        text_columns=tuple(range(1 + len(columns))),
        notes=tuple(filter(None, (answer.note, _POINTS if answer.best else ""))),
    )


def alternatives(answer: Recommendation) -> Table:
    """Every plan that was worked out, in the planner's order: cheapest first."""
    plans = [answer.best, *answer.alternatives] if answer.best else list(answer.alternatives)
    rows = [
        (
            words.machines(p)
            + words.shared_calls(p)
            + (f" (predicted {p.predicted})" if p.predicted else ""),
            p.candidate.variant,
            f.count(p.candidate.threads or None),
            "yes" if p.pareto else "",
            marked("", Mark(p.latency_basis)),
            f.interval(p.p50_ms),
            f.interval(p.p99_ms),
            f.number(p.capacity_rps),
            f.percent(p.utilisation),
            f.usd(p.usd_per_month),
            f.usd(p.usd_per_million),
        )
        for p in plans
    ]
    return Table(
        name=f"plans_{answer.demand.name}",
        title=f"{answer.demand.title}: the cheapest plans that hold",
        header=(
            "Machines",
            "Variant",
            "Threads",
            "Pareto set",
            "Latency is",
            "p50 (ms)",
            "p99 (ms)",
            "Capacity (req/s)",
            "Utilisation",
            "Per month",
            "Per million rows",
        ),
        rows=tuple(rows),
        mark=None,
        text_columns=(0, 1, 3, 4),
        notes=(_POINTS, _PARETO),
        long=True,
    )


def rejection_summary(answer: Recommendation) -> Table:
    """Rejected candidates by what they fail on, with one example each."""
    counts = Counter(r.bottleneck for r in answer.rejections)
    rows = []
    for bottleneck, n in counts.most_common():
        example = next(r for r in answer.rejections if r.bottleneck == bottleneck)
        c = example.candidate
        where = f.with_threads(f"{c.variant} on {c.instance}", c.threads)
        rows.append(
            (bottleneck.value, words.rejected_for(bottleneck), f.count(n), where, example.reason)
        )
    return Table(
        name=f"rejected_{answer.demand.name}",
        title=f"{answer.demand.title}: {f.count_of(len(answer.rejections), 'rejected candidate')}",
        header=("Bottleneck", "Meaning", "Candidates", "For example", "Reason"),
        rows=tuple(rows),
        mark=Mark.REFUSED,
        text_columns=(0, 1, 3, 4),
    )


def rejections(answer: Recommendation) -> Table:
    """Every rejected candidate with its reason."""
    rows = [
        (
            r.candidate.variant,
            r.candidate.instance,
            r.candidate.size,
            f.count(r.candidate.threads or None),
            r.bottleneck.value,
            r.reason,
        )
        for r in answer.rejections
    ]
    return Table(
        name=f"rejections_{answer.demand.name}",
        title=f"{answer.demand.title}: every rejected candidate",
        header=("Variant", "Instance", "Replica size", "Threads", "Bottleneck", "Reason"),
        rows=tuple(rows),
        mark=Mark.REFUSED,
        text_columns=(0, 1, 2, 4, 5),
        long=True,
    )


def _properties(bundle: Bundle, answer: Recommendation, plan: Plan) -> dict[str, str]:
    """Properties of one column; "" where it has nothing to say."""
    wanted, c = answer.demand, plan.candidate
    basis = Mark(plan.latency_basis)
    priced = plan.usd_per_month is not None
    return {
        "Demand": marked(words.demand(wanted), Mark.STATED),
        "Configuration": words.configuration(plan),
        "Resources": f"{f.vcpus(plan.vcpus)}, {f.gib(plan.memory_gib)} RAM in all",
        "Replicas": f"{f.count(plan.replicas)}" + _spare(wanted.spare_replicas),
        "Memory per replica": marked(f.gib(plan.replica_memory_gib), Mark.PREDICTED),
        words.kind_of_file(bundle, plan).capitalize(): plan.model_file,
        "Expected p50": marked(f.interval(plan.p50_ms, f.ms), basis),
        "Expected p99": marked(f.interval(plan.p99_ms, f.ms), basis),
        "Margin": plan.margin,
        "In process": words.in_process(bundle, wanted, plan),
        "Demanded throughput": marked(f.rows(plan.rows_per_s), Mark.STATED),
        "Capacity, at least": marked(
            f"{f.rate(plan.capacity_rps)}, {f.rows(plan.capacity_rps * wanted.mean_batch)}",
            Mark.PREDICTED,
        ),
        "Staffing": marked(plan.staffing, Mark.PREDICTED) if plan.staffing else "",
        "Size": marked(plan.predicted_size, Mark.PREDICTED) if plan.predicted_size else "",
        "Batch size": marked(plan.predicted_batch, Mark.PREDICTED) if plan.predicted_batch else "",
        "Length": marked(plan.predicted_length, Mark.PREDICTED) if plan.predicted_length else "",
        "Dynamic batching": _batching(answer, plan),
        "Ingress": marked(plan.ingress, Mark.PREDICTED) if plan.ingress else "",
        "Kept of each instance": marked(plan.kept, Mark.STATED) if plan.kept else "",
        "Utilisation": marked(f.percent(plan.utilisation), Mark.PREDICTED),
        "Monthly cost": marked(f.usd(plan.usd_per_month), Mark.STATED)
        if priced
        else marked("no price", Mark.REFUSED),
        "Cost per million rows": marked(f.usd(plan.usd_per_million), Mark.STATED)
        if priced
        else marked("no price", Mark.REFUSED),
        "Price basis": plan.price_basis,
        "Replica size": "" if c.size == c.instance else f"as measured on {c.size}",
    }


def _batching(answer: Recommendation, plan: Plan) -> str:
    choice = answer.batching
    return sentence(choice) if choice is not None and plan is answer.best else ""


def _range(ends: tuple[int, int]) -> str:
    low, high = ends
    return f.count(low) if low == high else f"{f.count(low)}-{f.count(high)}"


def _spare(spare: int) -> str:
    return f", of which {spare} to spare" if spare else ""
