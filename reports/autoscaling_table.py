"""Autoscaling: what Ray Serve would be told, what that saves, and what a burst did."""

from __future__ import annotations

from planner.advice import AutoscalingAdvice, BurstReplay
from planner.records import Recommendation
from reports import formatting as f
from reports.table import Mark, Table, marked


def autoscaling(answer: Recommendation) -> Table:
    """Advice of one profile, setting by setting; no rows where the demand has no course."""
    advice, rows = answer.autoscaling, []
    if isinstance(advice, AutoscalingAdvice):
        rows = [(name, marked(value, Mark.PREDICTED)) for name, value in _settings(answer, advice)]
        rows.insert(4, ("Start-up", marked(_start_up(advice), Mark.MEASURED)))
    elif advice is not None:
        rows = [("Autoscaling", marked(advice.reason, Mark.REFUSED))]
        if advice.burst is not None:
            burst = _burst(answer, advice.burst)
            rows.append(("Best try", marked(burst, Mark.PREDICTED)))
    daily = answer.demand.daily
    return Table(
        name=f"autoscaling_{answer.demand.name}",
        title=f"{answer.demand.title}: following the load",
        header=("", "Advice"),
        rows=tuple(rows),
        mark=None,
        text_columns=(0, 1),
        notes=(
            f"Load: {daily.source}. Simulated request by request with the control law of Ray "
            "Serve's default policy, at the lower bound of what was measured; nothing of it was "
            "run. Machines are taken to come with their replicas and to leave with them.",
        )
        if daily
        else (),
    )


def sentence(answer: Recommendation) -> str:
    """The advice in one sentence; "" where the demand has no course over the day."""
    advice = answer.autoscaling
    if advice is None:
        return ""
    if not isinstance(advice, AutoscalingAdvice):
        kept = f.count_of(advice.static_replicas, "replica")
        return marked(f"keep {kept}: {advice.reason}", Mark.REFUSED)
    s = advice.settings
    return marked(
        f"{f.count(s.min_replicas)} to {f.count_of(s.max_replicas, 'replica')} by "
        f"{s.target_ongoing_requests:g} ongoing requests each: {_saved(advice)}; "
        f"{_burst(answer, advice.burst)}",
        Mark.PREDICTED,
    )


def _settings(answer: Recommendation, advice: AutoscalingAdvice) -> list[tuple[str, str]]:
    s = advice.settings
    return [
        ("Replicas", f"min_replicas {s.min_replicas}, max_replicas {s.max_replicas}"),
        (
            "Scales by",
            f"target_ongoing_requests {s.target_ongoing_requests:g}, "
            f"look_back_period_s {s.look_back_period_s:g}, "
            f"metrics_interval_s {s.metrics_interval_s:g}",
        ),
        (
            "Delays",
            f"upscale_delay_s {s.upscale_delay_s:g}, downscale_delay_s {s.downscale_delay_s:g}",
        ),
        (
            "Queue of a replica",
            f"max_ongoing_requests {f.count(advice.max_ongoing_requests)}, "
            f"max_queued_requests {f.count(advice.max_queued_requests)}",
        ),
        (
            "Calls",
            "max_batch_size 1, batch_wait_timeout_s 0: a free replica begins at once, and "
            "requests share no call",
        ),
        (
            "Over the day",
            f"{f.count(min(advice.replicas))} to {f.count(max(advice.replicas))} replicas, "
            f"{f.number(advice.mean_replicas)} on average, "
            f"against {f.count(advice.static_replicas)} all day",
        ),
        ("Cost", _saved(advice)),
        ("Burst", _burst(answer, advice.burst)),
    ]


def _saved(advice: AutoscalingAdvice) -> str:
    """Cost against that of the plan that holds the peak all day."""
    if advice.usd_per_month is None or advice.static_usd_per_month is None:
        share = advice.mean_replicas / advice.static_replicas
        return f"{f.percent(share)} of the replica hours of {advice.static_replicas} all day"
    share = advice.usd_per_month / advice.static_usd_per_month
    return (
        f"{f.usd_per_month(advice.usd_per_month)} against {f.usd(advice.static_usd_per_month)} "
        f"for {f.count_of(advice.static_replicas, 'replica')} all day ({f.percent(share)})"
    )


def _start_up(advice: AutoscalingAdvice) -> str:
    machine = (
        f", and {f.number(advice.machine_start_s)} s stated for a machine"
        if advice.machine_start_s
        else ""
    )
    return f"{f.number(advice.startup_s)} s a replica{machine}"


def _burst(answer: Recommendation, burst: BurstReplay) -> str:
    slo = answer.demand.slo
    quantile = f.ms(burst.quantile_ms) if burst.quantile_ms is not None else "never answered"
    refused = f", {f.count(burst.refused)} refused" if burst.refused else ""
    return (
        f"from {f.number(burst.from_rps)} to {f.rate(burst.to_rps)} in {burst.rise_s:g} s: "
        f"{f.quantile(slo.quantile)} {quantile}, {f.percent(burst.share_over)} of "
        f"{f.count(burst.n)} over {f.given(slo.limit_ms)} ms{refused}, with "
        f"{f.count(burst.replicas_before)} to {f.count_of(burst.most_replicas, 'replica')}"
    )
