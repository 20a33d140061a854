"""The report's figures, as Plotly's JSON and as one static picture for a README."""

from __future__ import annotations

import io
from dataclasses import dataclass
from html import escape

from planner.records import Interval, Recommendation, ServiceProfile
from reports import formatting as f
from reports import plot_parts as draw
from reports import words
from reports.bundle import Bundle
from reports.lines import Line, latency_lines
from reports.plot_parts import Figure

# Dark enough on white, light enough on black, told apart by colour-blind readers.
COLOURS = ("#2a7fba", "#d5762a", "#3a9b6f", "#9a6fc4", "#b8554f", "#8a8a3c")
_SYMBOL = {"cpuset": "circle", "quota": "circle-open"}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One figure: ``group`` is the place in the report that asks for it."""

    name: str
    group: str
    title: str
    caption: str
    figure: Figure


def figures(bundle: Bundle) -> tuple[Plot, ...]:
    """Latency against rate for each profile, then throughput against vCPU for each request."""
    latencies = (_latency(bundle, answer) for answer in bundle.recommendations)
    asked = sorted({(p.batch, p.length or 0) for p in bundle.profiles})
    throughputs = (_throughput(bundle, batch, length or None) for batch, length in asked)
    return (*(p for p in latencies if p), *throughputs)


def static_svg(bundle: Bundle) -> str:
    """First latency figure as SVG text; "" when there is nothing to draw.

    Needs matplotlib, which only development installs: raises ImportError without it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    drawn = ((answer, latency_lines(bundle, answer)) for answer in bundle.recommendations)
    answer, lines = next(((a, found) for a, found in drawn if found), (None, ()))
    if answer is None:
        return ""
    # A fixed salt and no date: the same records draw the same file. Paths instead of
    # fonts, so that it looks the same wherever it is shown.
    with mpl.rc_context({"svg.hashsalt": "tonnage", "svg.fonttype": "path", "font.size": 10}):
        canvas = Canvas(figsize=(8, 4.8), layout="constrained")
        axes = canvas.add_subplot()
        for colour, line in zip(COLOURS, lines, strict=False):
            x = [p.rate_rps for p in line.curve.points]
            p99 = [p.p99_ms for p in line.curve.points]
            axes.fill_between(
                x, [i.low for i in p99], [i.high for i in p99], color=colour, alpha=0.18, lw=0
            )
            axes.plot(x, [i.mid for i in p99], color=colour, label=f"{line.name}: p99 predicted")
            p50 = [p.p50_ms.mid for p in line.curve.points]
            axes.plot(x, p50, color=colour, ls=":", label="p50 predicted")
            if line.points:
                rates = [p.rate_rps for p in line.points]
                axes.plot(
                    rates, [p.p99_ms for p in line.points], "o", color=colour, label="p99 measured"
                )
                axes.plot(
                    rates,
                    [p.p50_ms for p in line.points],
                    "o",
                    color=colour,
                    mfc="white",
                    label="p50 measured",
                )
            else:
                for _ in range(2):  # empty entries keep the legend at one column a deployment
                    axes.plot([], [], " ", label=" ")
        slo = answer.demand.slo
        limit = f"{f.quantile(slo.quantile)} limit {f.given(slo.limit_ms)} ms"
        axes.axhline(slo.limit_ms, color="#777777", ls="--", lw=1)
        axes.annotate(
            limit,
            (1, slo.limit_ms),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=9,
        )
        axes.set_yscale("log")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("Requests per second")
        axes.set_ylabel("Latency, due to done (ms)")
        axes.set_title(_latency_title(answer), loc="left", fontsize=11)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        canvas.legend(fontsize=8, frameon=False, ncols=max(1, len(lines)), loc="outside lower left")
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _latency_title(answer: Recommendation) -> str:
    wanted = answer.demand
    asked = words.requests(wanted.batch, wanted.mix, wanted.length)
    return f"{wanted.title}: latency against rate, {asked}"


def _latency(bundle: Bundle, answer: Recommendation) -> Plot | None:
    lines = latency_lines(bundle, answer)
    if not lines:
        return None
    traces = [t for c, line in zip(COLOURS, lines, strict=False) for t in _traces(line, c)]
    slo = answer.demand.slo
    limit = f"{f.quantile(slo.quantile)} limit {f.given(slo.limit_ms)} ms"
    layout = draw.layout("Requests per second", "Latency, due to done (ms)")
    layout["yaxis"] |= {"type": "log", "dtick": "D2", "tickformat": "~g"}
    layout["shapes"] = [draw.rule("y", slo.limit_ms)]
    layout["annotations"] = [draw.label(limit, x=1, xref="paper", y=slo.limit_ms, log_y=True)]
    best = answer.best
    if best and any(line.curve.replicas == best.replicas for line in lines):
        rate = answer.demand.rate_rps
        layout["shapes"].append(draw.rule("x", rate))
        text = f"demand {f.given(rate)} req/s"
        layout["annotations"].append(draw.label(text, x=rate, y=1, yref="paper", side="left"))
    return Plot(
        name=f"latency_{answer.demand.name}",
        group="latency",
        title=_latency_title(answer),
        caption="Lines are predicted (band: interval of p99), markers are measured. "
        + "; ".join(line.measured_range for line in lines)
        + ". Beyond that the curve is extrapolated. All at the speed of this host.",
        figure={"data": traces, "layout": layout},
    )


def _traces(line: Line, colour: str) -> list[Figure]:
    """Band and line of p99, dotted line of p50, then the measured points as markers."""
    points = line.curve.points
    rates = [p.rate_rps for p in points]
    p99 = [p.p99_ms for p in points]
    # Plotly reads a little HTML in its texts: a name must stay a name.
    name = escape(line.name)
    band = {
        "x": rates + rates[::-1],
        "y": [i.high for i in p99] + [i.low for i in reversed(p99)],
        "fill": "toself",
        "fillcolor": draw.faded(colour),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": name,
        "mode": "lines",
        "type": "scatter",
    }
    traces: list[Figure] = [
        band,
        draw.trace(f"{name}: p99 predicted", name, rates, [i.mid for i in p99], colour)
        | {"text": [f.interval(i, f.ms) for i in p99], "hovertemplate": "%{x:.4~g} req/s: %{text}"},
        draw.trace(
            "p50 predicted", name, rates, [p.p50_ms.mid for p in points], colour, dash="dot"
        ),
    ]
    if line.points:
        at = [p.rate_rps for p in line.points]
        marker = {"color": colour, "size": 9, "line": {"color": colour, "width": 2}}
        hollow = marker | {"symbol": "circle-open"}
        for label, values, look in (
            ("p99 measured", [p.p99_ms for p in line.points], marker),
            ("p50 measured", [p.p50_ms for p in line.points], hollow),
        ):
            trace = draw.trace(label, name, at, values, colour) | {
                "mode": "markers",
                "marker": look,
            }
            traces.append(trace)
    return traces


def _throughput(bundle: Bundle, batch: int, length: int | None) -> Plot:
    """Measured capacity of one replica against its vCPUs, with the best threads of each size."""
    best: dict[tuple[str, float, str], ServiceProfile] = {}
    for p in (p for p in bundle.profiles if (p.batch, p.length) == (batch, length)):
        key = (p.variant.name, p.instance.vcpus, p.instance.enforcement)
        if key not in best or p.capacity_rps > best[key].capacity_rps:
            best[key] = p
    variants = list(dict.fromkeys(p.variant.name for p in bundle.profiles))
    traces = []
    for variant in dict.fromkeys(key[0] for key in best):
        chosen = [best[key] for key in sorted(best) if key[0] == variant]
        colour = COLOURS[variants.index(variant) % len(COLOURS)]
        y = [p.capacity_rps * batch for p in chosen]
        trace = draw.trace(
            escape(variant), escape(variant), [p.instance.vcpus for p in chosen], y, colour
        )
        symbols = [_SYMBOL[p.instance.enforcement] for p in chosen]
        trace["mode"] = "lines+markers"
        trace["marker"] = {
            "color": colour,
            "size": 9,
            "symbol": symbols,
            "line": {"color": colour, "width": 2},
        }
        trace["error_y"] = _bars([p.capacity_interval for p in chosen], y, batch)
        trace["text"] = [
            escape(f"{p.instance.label}, {f.count_of(p.threads, 'thread')}: {f.rows(value)}")
            for p, value in zip(chosen, y, strict=True)
        ]
        trace["hovertemplate"] = "%{text}"
        traces.append(trace)
    layout = draw.layout("vCPU of one replica", "Rows per second")
    layout["yaxis"] |= {"rangemode": "tozero", "tickformat": "~s"}
    return Plot(
        name=f"throughput_{batch}" + ("" if length is None else f"_{length}"),
        group="throughput",
        title=f"Rows/s against vCPU, {words.requests(batch, None, length)}",
        caption="Measured: best valid closed-loop rung of one replica with the best thread count "
        "of its size. Filled: whole CPUs (cpuset); hollow: a quota.",
        figure={"data": traces, "layout": layout},
    )


def _bars(intervals: list[Interval], values: list[float], batch: int) -> Figure:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, i.high * batch - v) for i, v in zip(intervals, values, strict=True)],
        "arrayminus": [max(0.0, v - i.low * batch) for i, v in zip(intervals, values, strict=True)],
        "thickness": 1,
    }
