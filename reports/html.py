"""report.html: one file that needs nothing else, with live plots, light and dark."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from planner.recommend import best_on_host
from planner.records import Plan, Recommendation
from reports import formatting as f
from reports import unjudged, words
from reports.bundle import Bundle
from reports.plots import figures
from reports.proven import claim_line
from reports.table import MEANINGS, Mark, split_mark
from reports.tables import sections


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """A predicted p99 against its limit, as percentages of the gauge's width."""

    low: float
    mid: float
    high: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class Card:
    """One profile's answer on the first screen."""

    title: str
    demand: str
    machines: str
    runs: str
    price: str
    per_million: str
    latency: tuple[tuple[str, str], ...]
    latency_mark: Mark
    gauge: Gauge | None
    limit: str
    margin: str
    in_process: str
    host: str
    claim: tuple[str, str] | None
    nearest: tuple[str, ...]
    rejected: str
    note: str


def render(bundle: Bundle) -> str:
    """Report as one HTML page. It loads nothing: script, style and data are inside."""
    # Imported late: only this page needs Plotly, and the other formats start faster.
    from plotly.offline import get_plotlyjs

    jinja = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.globals["split_mark"] = split_mark
    plots = figures(bundle)
    return jinja.get_template("report.html.j2").render(
        info=bundle.info,
        cards=[_card(bundle, answer) for answer in bundle.recommendations],
        unjudged=unjudged.of_study(bundle.measurements),
        sections=sections(bundle),
        plots=plots,
        figures={plot.name: plot.figure for plot in plots},
        meanings=MEANINGS,
        # Plotly's own code is trusted; everything else on the page is escaped.
        plotly=get_plotlyjs() if plots else "",
    )


def _card(bundle: Bundle, answer: Recommendation) -> Card:
    wanted, best, host = answer.demand, answer.best, best_on_host(answer)
    priced = best is not None and best.usd_per_month is not None
    figures_shown: tuple[tuple[str, str], ...] = ()
    if best:
        figures_shown = (
            ("p50", f.interval(best.p50_ms, f.ms)),
            ("p99", f.interval(best.p99_ms, f.ms)),
        )
    return Card(
        title=wanted.title,
        demand=words.demand(wanted),
        machines=words.machines(best) if best else "No candidate holds",
        runs=_runs(best) if best else "",
        price=f.usd(best.usd_per_month) if best and priced else "",
        per_million=f.usd_per_million(best.usd_per_million) if best and priced else "",
        latency=figures_shown,
        latency_mark=Mark(best.latency_basis) if best else Mark.REFUSED,
        gauge=_gauge(answer, best) if best else None,
        limit=f"limit {f.given(wanted.slo.limit_ms)} ms",
        margin=best.margin if best and best.margin not in answer.note else "",
        in_process=words.in_process(bundle, wanted, best) if best else "",
        host=f"{words.configuration(host)}; {words.latency(host)}"
        if host and host is not best
        else "",
        claim=claim_line(bundle, wanted.name),
        nearest=tuple(filter(None, (words.binding(answer), *words.nearest(answer)))),
        rejected=words.commonest(answer),
        note=answer.note,
    )


def _runs(plan: Plan) -> str:
    c = plan.candidate
    return f"{f.with_threads(c.variant, c.threads)} ({plan.model_file})"


def _gauge(answer: Recommendation, plan: Plan) -> Gauge | None:
    """None unless the objective is on p99: another quantile's limit is not p99's."""
    slo, p99 = answer.demand.slo, plan.p99_ms
    if slo.quantile != 0.99:
        return None
    full = max(1.12 * slo.limit_ms, 1.05 * p99.high)
    low, mid, high, limit = (100 * v / full for v in (p99.low, p99.mid, p99.high, slo.limit_ms))
    return Gauge(low=low, mid=mid, high=high, limit=limit)
