"""One load test in words: what was asked, what came back, and whether to believe it."""

from __future__ import annotations

from textwrap import fill

from loadtests.arrivals import Constant, Mix, Poisson, Ramp, Recorded, Steps
from loadtests.histogram import Histogram
from loadtests.max_load import MaxLoad, StopReason
from loadtests.objective import Slo, SloVerdict
from loadtests.quantiles import CONFIDENCE, Kind, quantiles_in
from loadtests.records import EndpointMeasurement, LoadRun, Measurement
from reports import formatting as f
from reports import unjudged

_WIDTH, _UNDER = 100, " " * 13
_ENDED = {
    StopReason.FOUND: "found",
    StopReason.CLIFF: "a cliff: it holds below and breaks down at once above",
    StopReason.CEILING_HOLDS: "it still holds at the most that can be measured here",
    StopReason.LOWEST_FAILS: "it fails at the lowest rate tried already",
    StopReason.BUDGET_SPENT: "the budget of requests is spent; give more with --budget",
    StopReason.NOT_BELIEVABLE: "a probe could not be believed; what is said was proven before it",
}
_ENDED_UNDECIDED = {
    StopReason.CEILING_HOLDS: "undecided at the most that can be measured here",
    StopReason.LOWEST_FAILS: "undecided at the lowest rate tried already",
}


def measured_text(m: Measurement | EndpointMeasurement) -> str:
    """Plain text for the terminal."""
    run = m.run
    lines = [
        f"{m.model_name} at {m.url}"
        if isinstance(m, EndpointMeasurement)
        else f"{m.deployment.variant.workload}: {m.deployment.label}",
        f"  load       {load_in_words(run)}, {batches_in_words(run)}, {run.duration_s:g} s",
        f"  answered   {f.count(m.ok)} of {f.count(m.offered)}, {f.rate(m.completed_rps)}",
    ]
    if m.errors or m.unsent or m.lost:
        parts = [f"{f.count(n)} x {name}" for name, n in sorted(m.errors.items())]
        parts += [f"{f.count(m.unsent)} never sent"] if m.unsent else []
        parts += [f"{f.count(m.lost)} lost with their load worker"] if m.lost else []
        lines.append(f"  failed     {', '.join(parts)}")
    rows: list[tuple[str, Kind, Histogram]] = [
        ("latency", "due_to_done", m.due_to_done),
        ("server", "sent_to_done", m.sent_to_done),
        ("late", "dispatch_lag", m.dispatch_lag),
    ]
    if isinstance(m, Measurement):
        rows += [("queue", "queue", m.queue), ("model", "service", m.service)]
    for label, kind, histogram in rows:
        found = quantiles_in(m.quantiles, kind, histogram)
        parts = [f"{f.quantile(q.quantile)} {f.measured_quantile(q, f.ms)}" for q in found]
        lines.append(f"  {label:<10} {', '.join(parts)}")
    if m.read_lag_p99_s is not None:
        lag = f.ms(1e3 * m.read_lag_p99_s)
        lines.append(f"  read       p99 {lag} after they had arrived, which is taken off")
    inside = "; queue, model: inside the replica" if isinstance(m, Measurement) else ""
    lines += [
        "             (latency: from due to done; server: from sent to done; "
        f"late: dispatch lag{inside})",
        f"             (ranges: {CONFIDENCE:.0%} intervals, "
        f"{'correlation counted' if m.quantiles else 'if requests were independent'})",
    ]
    if m.steady is not None:
        lines.append(f"  warm-up    {m.steady.reason} [{m.steady.method}]")
    if isinstance(m, Measurement):
        if m.floor_p99_s is not None:
            p99 = f.ms(1e3 * m.floor_p99_s)
            lines.append(f"  floor      at the platform's floor (its p99 is {p99})")
        lines += [f"  law        {law}" for law in m.broken_laws]
    lines += [f"  objective  {verdict_in_words(verdict)}" for verdict in m.verdicts]
    if isinstance(m, Measurement):
        # A floor is that of steady random traffic of one batch size: there a no-op was driven.
        floored = m.run.poisson and m.run.mix is None
        lines += _not_judged(ours=True, carried_rps=m.carried_rps, floored=floored)
    else:
        lines += _not_judged(ours=False, carried_rps=None)
    if m.valid:
        lines.append("  verdict    valid [measured]")
    else:
        lines.append("  verdict    INVALID [refused]: do not use these figures")
        lines += [f"             {fault.code}: {fault.detail}" for fault in m.faults]
    return "\n".join(lines) + "\n"


def max_load_text(found: MaxLoad, slo: Slo) -> str:
    """The result of a search for the highest load, and the probes behind it."""
    limit = f.objective(slo)
    rate, low, high = found.rate_rps, found.low_rps, found.high_rps
    ended = _ENDED[found.stop_reason]
    if rate == low > 0 and high is None:
        answer = f"at least {f.rate(rate)}"
    elif not rate and high is not None:
        answer = f"below {f.rate(high)}"
    elif low and high is not None:
        answer = f"{f.rate(rate)} ({f.rate(low)} to {f.rate(high)})"
    else:
        held = f"{f.rate(low)} held" if low else "no rate held"
        failed = "none failed for certain" if high is None else f"{f.rate(high)} failed"
        answer = f"{f'about {f.rate(rate)}, ' if rate else ''}undecided ({held}, {failed})"
        ended = _ENDED_UNDECIDED.get(found.stop_reason, ended)
    lines = [
        f"Highest load with {limit}: {answer} [measured]",
        f"  ended      {ended}",
        f"  effort     {f.count(len(found.probes))} probes, {f.count(found.samples)} requests",
    ]
    if found.not_believed is not None:
        lines.insert(2, f"             {found.not_believed}")
    if found.lowest_rps is not None:
        most = f.rate(found.ceiling_rps)
        lines.append(f"  range      from {f.rate(found.lowest_rps)} to {most}")
    if (about := found.about) is not None:
        ours = about.deployment
        what = ours.label if ours else f"{about.model_name} at {about.url}"
        rows = _rows_in_words(about.batch, about.mix)
        lines.append(f"  of         {what}, {rows}, timeout {about.timeout_s:g} s")
        carried = about.carried_rps
        lines += _not_judged(ours=ours is not None, carried_rps=carried, floored=False)
    return "\n".join(lines) + "\n"


def _not_judged(*, ours: bool, carried_rps: float | None, floored: bool = True) -> list[str]:
    left = unjudged.of_one(ours=ours, carried_rps=carried_rps, floored=floored)
    return [
        fill(line, _WIDTH, initial_indent="  not judged ", subsequent_indent=_UNDER)
        for line in left
    ]


def verdict_in_words(verdict: SloVerdict) -> str:
    """One sentence: the objective, what is known of it, and from how many requests."""
    return (
        f"{f.objective(verdict.slo)}: {verdict.verdict} at {f.share(verdict.confidence)}, "
        f"n = {f.count(verdict.n)}, {f.count(verdict.over)} over; {verdict.reason}"
    )


def load_in_words(run: LoadRun) -> str:
    """The traffic a run asked for."""
    if run.mode == "closed":
        return f"{f.count_of(run.users or 0, 'user')}, closed loop"
    if run.mode == "paced":
        return f"{f.rate(run.rate_rps)} due (paced)"
    match run.arrivals:
        case Constant():
            how = "evenly spaced"
        case Ramp():
            how = f"ramp from {run.arrivals.from_rps:g} to {run.arrivals.to_rps:g} req/s"
        case Steps():
            pieces = ", ".join(
                f"{s.rate_rps:g} req/s for {s.seconds:g} s" for s in run.arrivals.steps
            )
            how = f"steps: {pieces}"
        case Recorded():
            how = f"trace {run.arrivals.file}"
        case Poisson() | None:
            how = "Poisson"
    return f"{f.rate(run.rate_rps)} due ({how})"


def batches_in_words(run: LoadRun) -> str:
    """The rows of a request and how long they are, or the mix of them."""
    if isinstance(run.arrivals, Recorded) and run.arrivals.mean_batch is not None:
        sizes = f"the trace's batches, {f.number(run.mean_batch)} rows on average"
        return f"{sizes}, of {_inputs_in_words(run.mix)}" if run.mix else sizes
    tokens = "" if run.length is None else f" of {run.length:,} tokens"
    return _rows_in_words(run.batch, run.mix) + tokens


def _rows_in_words(batch: int, mix: Mix | None) -> str:
    if mix is None:
        return f"batch {batch:,}"
    total = sum(mix.weights)
    names = mix.inputs or ("",) * len(mix.batches)
    parts = [
        f"{weight / total:.0%} batch {size:,}{f' of {name}' if name else ''}"
        for size, weight, name in zip(mix.batches, mix.weights, names, strict=True)
    ]
    return ", ".join(parts)


def _inputs_in_words(mix: Mix) -> str:
    """The sources of the rows, with their shares over all batch sizes."""
    shares: dict[str, float] = {}
    for weight, name in zip(mix.weights, mix.inputs or (), strict=False):
        shares[name] = shares.get(name, 0.0) + weight / sum(mix.weights)
    return ", ".join(f"{share:.0%} {name}" for name, share in shares.items())
