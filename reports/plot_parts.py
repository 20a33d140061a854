"""Building blocks of the Plotly figures: plain JSON, no Plotly import needed."""

from __future__ import annotations

import math
from typing import Any

Figure = dict[str, Any]
_GRID = "rgba(128,128,128,0.22)"


def trace(
    name: str, group: str, x: list[float], y: list[float], colour: str, dash: str = "solid"
) -> Figure:
    """One line of milliseconds against requests per second, unless changed by its user."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "legendgroup": group,
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 2, "dash": dash},
        "hovertemplate": "%{x:.4~g} req/s: %{y:.3~g} ms",
    }


def faded(colour: str) -> str:
    """Colour of a band behind a line of ``colour``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def layout(x: str, y: str) -> Figure:
    """Transparent, so that the page's own light or dark shows through."""
    axis = {"gridcolor": _GRID, "zeroline": False, "automargin": True, "rangemode": "tozero"}
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}, "rangemode": "normal"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hoverlabel": {"namelength": -1},
    }


def rule(axis: str, value: float) -> Figure:
    """Dashed line across the plot at ``value`` of ``axis``."""
    along = "x" if axis == "y" else "y"
    return {
        "type": "line",
        f"{axis}0": value,
        f"{axis}1": value,
        f"{along}0": 0,
        f"{along}1": 1,
        f"{along}ref": "paper",
        "line": {"color": "rgba(128,128,128,0.9)", "width": 1, "dash": "dash"},
    }


def label(
    text: str,
    *,
    x: float,
    y: float,
    side: str = "right",
    xref: str = "x",
    yref: str = "y",
    log_y: bool = False,
) -> Figure:
    """Text without an arrow with its ``side`` at x: on top of y, or hanging from the edge."""
    return {
        "text": text,
        "x": x,
        "xref": xref,
        # Plotly wants the exponent where an annotation meets a logarithmic axis.
        "y": math.log10(y) if log_y else y,
        "yref": yref,
        "xanchor": side,
        "yanchor": "top" if yref == "paper" else "bottom",
        "showarrow": False,
        "font": {"size": 12},
    }
