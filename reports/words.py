"""The report's sentences: what a recommendation says when it is read aloud."""

from __future__ import annotations

from collections import Counter

from loadtests.arrivals import Mix
from planner.constraint import Change, Constraint
from planner.measuring import MEASURE_IT
from planner.records import (
    Bottleneck,
    Demand,
    Nearest,
    Plan,
    Probe,
    Recommendation,
)
from reports import formatting as f
from reports.bundle import Bundle
from reports.table import Mark, marked
from serving.records import COMMAND, BenchRow


def demand(wanted: Demand) -> str:
    """Demand: "batch 100 at 400 req/s, p99 at most 60 ms", and what else it asks for."""
    limits = (f"{f.quantile(s.quantile)} at most {f.given(s.limit_ms)} ms" for s in wanted.slos)
    said = [
        f"{requests(wanted.batch, wanted.mix, wanted.length)} at {f.given(wanted.rate_rps)} req/s",
        *limits,
    ]
    if wanted.spare_replicas:
        said.append(f"{f.count_of(wanted.spare_replicas, 'replica')} to spare")
    if wanted.error_budget is not None:
        said.append(f"at most {f.share(wanted.error_budget)} fail")
    said += [f"{measure} at least {least:g}" for measure, least in wanted.min_quality.items()]
    if wanted.max_replica_memory_gib is not None:
        said.append(f"at most {f.gib(wanted.max_replica_memory_gib)} a replica")
    if wanted.region is not None:
        said.append(f"prices of {wanted.region}")
    return ", ".join(said)


def requests(batch: int, mix: Mix | None, length: int | None = None) -> str:
    """Requests: "batch 100", or "batch 1 (70%), 100 (30%)", perhaps "of 64 tokens"."""
    said = f"batch {f.count(batch)}"
    if mix is not None:
        said = f"batch {', '.join(f'{f.count(b)} ({f.percent(s)})' for b, s in mix.shares.items())}"
    return said + ("" if length is None else f" of {f.count(length)} tokens")


def nearest(answer: Recommendation) -> tuple[str, ...]:
    """What would work where nothing does, a line for each change that is enough by itself.

    Where none is, for two that are enough together.
    """
    if answer.nearest is None:
        return ()
    if not answer.nearest:
        failed = {r.bottleneck for r in answer.rejections}
        failed -= {Bottleneck.UNMEASURED, Bottleneck.INVALID}
        if answer.rejections and not failed:
            return ("nothing is known that could hold it; measure it first",)
        if failed == {Bottleneck.QUALITY} and answer.demand.min_quality:
            return (
                "no variant is known to be as good; leave min_quality out to see what else binds",
            )
        return ("no change of one figure is enough, nor of two",)
    return tuple(_nearest(one) for one in answer.nearest)


def _nearest(one: Nearest) -> str:
    changes = [one] if one.besides is None else [one.besides, one]
    said = ", and ".join(_change(change) for change in changes)
    return marked(f"{said}: {configuration(one.plan)}", Mark.PREDICTED)


def _change(one: Change) -> str:
    works, asked = one.works, one.asked
    return {
        Constraint.RATE: f"up to {f.given(works)} req/s instead of {f.given(asked)}",
        Constraint.LIMIT: f"{one.of} at most {f.given(works)} ms instead of {f.given(asked)} ms",
        Constraint.REPLICAS: f"max_replicas = {works:.0f} instead of {asked:.0f}",
        Constraint.QUALITY: f"{one.of} at least {works:g} instead of {asked:g}",
        Constraint.MEMORY: f"{works:g} GiB a replica instead of {asked:g} GiB",
    }[one.constraint]


def binding(answer: Recommendation) -> str:
    """Which constraints keep everything from holding; "" where that was not searched."""
    if not answer.nearest:
        return ""
    names = [_binds(one) for one in answer.nearest]
    if answer.nearest[0].besides is not None:
        return f"bound by {'; or by '.join(names)}: both have to give way"
    if len(names) == 1:
        return f"bound by {names[0]} alone"
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"bound by {listed}; relaxing any one of them is enough"


def _binds(one: Nearest) -> str:
    changes = [one] if one.besides is None else [one.besides, one]
    return " and ".join(f"{c.of} {c.constraint}".strip() for c in changes)


def machines(plan: Plan) -> str:
    """Say what is bought: "2 x sim-1", or "1 x c7i.large with 2 replicas of sim-1"."""
    c = plan.candidate
    if c.instance == c.size:
        return f"{f.count(plan.replicas)} x {c.size}"
    held = f.count_of(plan.replicas, "replica")
    return f"{f.count(plan.instances)} x {c.instance} with {held} of {c.size}"


def configuration(plan: Plan) -> str:
    """Say what is bought and what runs on it."""
    c = plan.candidate
    return f.with_threads(f"{machines(plan)}, {c.variant}", c.threads) + shared_calls(plan)


def shared_calls(plan: Plan) -> str:
    """How many requests a call answers, where it may be several."""
    most = plan.candidate.max_batch
    return f", up to {f.count(most)} requests a call" if most > 1 else ""


def kind_of_file(bundle: Bundle, plan: Plan) -> str:
    """Say what the replicas hold: the file of a model, or the command of a server."""
    variant = next((v for v in bundle.variants if v.name == plan.candidate.variant), None)
    return "command" if variant is not None and variant.runtime == COMMAND else "model file"


def latency(plan: Plan) -> str:
    """Both quantiles of a plan with their interval and what they rest on."""
    figures = f"p50 {f.interval(plan.p50_ms, f.ms)}, p99 {f.interval(plan.p99_ms, f.ms)}"
    return marked(figures, Mark(plan.latency_basis))


def cost(plan: Plan) -> str:
    """Monthly cost and cost per million rows, or why there is none."""
    if plan.usd_per_month is None:
        return marked(plan.price_basis, Mark.REFUSED)
    month, million = f.usd_per_month(plan.usd_per_month), f.usd_per_million(plan.usd_per_million)
    return marked(f"{month}, {million}", Mark.STATED)


def answer(recommendation: Recommendation) -> str:
    """One sentence that answers one demand, or says that nothing holds it and why."""
    wanted, best = recommendation.demand, recommendation.best
    if best is None:
        why = "; ".join(filter(None, (commonest(recommendation), binding(recommendation))))
        return marked(
            f"{wanted.title} ({demand(wanted)}): no candidate holds" + (f"; {why}" if why else ""),
            Mark.REFUSED,
        )
    price = (
        f"for {f.usd_per_month(best.usd_per_month)} ({f.usd_per_million(best.usd_per_million)})"
        if best.usd_per_month is not None
        else "without a price"
    )
    return (
        f"{wanted.title} ({demand(wanted)}): run {configuration(best)} {price}; "
        f"expect {latency(best)}"
    )


def commonest(recommendation: Recommendation) -> str:
    """How many candidates were rejected, and what most of them failed on."""
    if not recommendation.rejections:
        return ""
    counts = Counter(r.bottleneck for r in recommendation.rejections)
    # Of as many, what was tried and failed says more than what was never measured.
    bottleneck = max(counts, key=lambda b: (counts[b], b != Bottleneck.UNMEASURED))
    n, total = counts[bottleneck], len(recommendation.rejections)
    alike = (r for r in recommendation.rejections if r.bottleneck == bottleneck)
    example = max(alike, key=lambda r: MEASURE_IT in r.reason)  # the first that says what to do
    most = "all" if n == total else f"most ({f.count(n)})"
    return (
        f"{f.count_of(total, 'candidate')} rejected, {most} for {bottleneck}"
        f" (e.g. {example.candidate.variant} on {example.candidate.instance}: {example.reason})"
    )


def trade_offs(recommendation: Recommendation, most: int = 3) -> tuple[str, ...]:
    """Other plans of the Pareto set: dearer, and better in something; the cheapest of them."""
    best = recommendation.best
    if best is None:
        return ()
    alike = [
        p
        for p in recommendation.pareto
        if p is not best and (p.usd_per_month is None) == (best.usd_per_month is None)
    ]
    return tuple(_trade_off(plan) for plan in alike[:most])


def _trade_off(plan: Plan) -> str:
    cost = "no price" if plan.usd_per_month is None else f.usd_per_month(plan.usd_per_month)
    points = round(100 * (plan.quality_loss or 0.0), 1)
    loss = f", {points:g} points of quality less" if points > 0 else ""
    return f"{configuration(plan)}: {cost}, p99 up to {f.ms(plan.p99_ms.high)}{loss}"


def probe(cell: Probe) -> str:
    """A cell worth measuring: its command, and what it may change."""
    if cell.saving_usd_per_month is None:
        worth = "may give an answer"
    else:
        worth = f"may save {f.usd_per_month(cell.saving_usd_per_month)}"
    return f"{cell.command}  # {cell.seconds:.0f} s, {worth}"


def in_process(bundle: Bundle, wanted: Demand, plan: Plan) -> str:
    """Bare model call against its own limit; "" when the demand states none."""
    if wanted.in_process_limit_ms is None:
        return ""
    row = _bench_row(bundle, wanted, plan.candidate.variant, plan.candidate.threads)
    limit = f"limit {f.given(wanted.in_process_limit_ms)} ms"
    if row is None:
        return marked(f"not benched in process ({limit})", Mark.REFUSED)
    verdict = "within" if row.p50_ms <= wanted.in_process_limit_ms else "beyond"
    return marked(
        f"p50 {f.ms(row.p50_ms)}, p99 {f.ms(row.p99_ms)} in process; median {verdict} the {limit}",
        Mark.MEASURED,
    )


def rejected_for(bottleneck: Bottleneck) -> str:
    """Say what a bottleneck means, in the words of the report."""
    return {
        Bottleneck.QUALITY: "loses too much quality",
        Bottleneck.UNMEASURED: "not measured here, and not predictable from what was",
        Bottleneck.INVALID: "its measurements can't be trusted",
        Bottleneck.MEMORY: "does not fit in memory",
        Bottleneck.CAPACITY: "can't carry the rate",
        Bottleneck.LATENCY: "misses the latency objective",
        Bottleneck.COST: "costs more than plans that hold, or has no price",
    }[bottleneck]


def _bench_row(bundle: Bundle, wanted: Demand, variant: str, threads: int) -> BenchRow | None:
    same = (r for r in bundle.cpu_bench if (r.variant, r.threads) == (variant, threads))
    return next((r for r in same if (r.batch, r.length) == wanted.request), None)
