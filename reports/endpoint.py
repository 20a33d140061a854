"""A load test of somebody else's server, in words."""

from __future__ import annotations

from loadtests.records import EndpointMeasurement
from reports import formatting as f

_QUANTILES = (0.5, 0.95, 0.99)


def endpoint_text(m: EndpointMeasurement) -> str:
    """Plain text for the terminal: what was asked, what came back, and whether to believe it."""
    run = m.run
    load = (
        f"{run.users} users, closed loop"
        if run.mode == "closed"
        else f"{f.rate(run.rate_rps)} req/s due ({'Poisson' if run.mode == 'open' else 'paced'})"
    )
    lines = [
        f"{m.model_name} at {m.url}",
        f"  load       {load}, batch {run.batch:,}, {run.duration_s:g} s",
        f"  answered   {f.count(m.ok)} of {f.count(m.offered)}, {f.rate(m.completed_rps)} req/s",
    ]
    if m.errors or m.unsent:
        parts = [f"{f.count(n)} x {name}" for name, n in sorted(m.errors.items())]
        parts += [f"{f.count(m.unsent)} never sent"] if m.unsent else []
        lines.append(f"  failed     {', '.join(parts)}")
    for label, histogram in (
        ("latency", m.due_to_done),
        ("server", m.sent_to_done),
        ("late", m.dispatch_lag),
    ):
        p50, p95, p99 = (f.ms(1e3 * q) for q in histogram.quantiles_s(_QUANTILES))
        lines.append(f"  {label:<10} p50 {p50}, p95 {p95}, p99 {p99}")
    lines.append(
        "             (latency: from due to done; server: from sent to done; late: dispatch lag)"
    )
    if m.valid:
        lines.append("  verdict    valid [measured]")
    else:
        lines.append("  verdict    INVALID [refused]: do not use these figures")
        lines += [f"             {fault.code}: {fault.detail}" for fault in m.faults]
    return "\n".join(lines) + "\n"
