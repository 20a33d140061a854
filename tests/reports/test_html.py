"""report.html stands alone, and what it shows can't turn into markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from reports import html
from reports.bundle import Bundle
from reports.plots import figures, static_svg

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&{{7*7}}"


class _Page(HTMLParser):
    """Tags, attributes and text of a page, scripts and styles apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.styles.append(data)
        elif self._inside != "script":
            self.words.append(data)


@pytest.fixture(scope="module")
def page(bundle: Bundle) -> str:
    return html.render(bundle)


def test_loads_nothing(page: str) -> None:
    """No element, style sheet or policy of the page can fetch anything."""
    found = _Page(page)
    for tag, attributes in found.tags:
        assert tag not in {"link", "iframe", "object", "embed", "img", "base"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import", "".join(found.styles))
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_plotly_is_inside_once(page: str) -> None:
    """The plotting library is in the page, one copy of it."""
    assert page.count("plotly.js v") == 1


def test_every_mark_is_shown(page: str) -> None:
    """Measured, predicted, refused and stated figures are told apart by badges."""
    for mark in ("measured", "predicted", "refused", "stated"):
        assert f'<span class="badge {mark}">{mark}</span>' in page


def test_every_rejection_is_listed(page: str, bundle: Bundle) -> None:
    """The complete list of rejections is in the page, folded."""
    words = " ".join(_Page(page).words)
    assert "<details>" in page
    for answer in bundle.recommendations:
        assert all(r.reason in words for r in answer.rejections)


def test_hostile_names_stay_text(hostile: Callable[[str], Bundle]) -> None:
    """Names from outside appear as they are and never as elements or scripts."""
    text = html.render(hostile(HOSTILE))
    found = _Page(text)
    assert not any(tag == "img" for tag, _ in found.tags)
    assert not any(name.startswith("on") for _, a in found.tags for name in a)
    assert sum(tag == "script" for tag, _ in found.tags) == 3
    assert any(HOSTILE in word for word in found.words)


def test_figures_are_valid(bundle: Bundle, page: str) -> None:
    """Plotly accepts every figure, and the page carries the same ones."""
    plots = figures(bundle)
    for plot in plots:
        go.Figure(plot.figure)
    match = re.search(r'id="figures">(.*?)</script>', page)
    assert match is not None
    assert json.loads(match.group(1)).keys() == {plot.name for plot in plots}


def test_measured_points_belong_to_one_replica(bundle: Bundle) -> None:
    """Markers appear beside the curve of one replica only, as one replica was measured."""
    production = next(p for p in figures(bundle) if p.name == "latency_production")
    groups = {t["legendgroup"] for t in production.figure["data"] if t["mode"] == "markers"}
    assert groups == {"1 x sim-1 (cpuset), onnx_int8, 1 thread"}


def test_an_empty_run_renders(bundle: Bundle) -> None:
    """A run that has not been planned gives a page without plots."""
    assert "has not been planned" in html.render(Bundle(info=bundle.info))


def test_static_picture_is_reproducible(bundle: Bundle) -> None:
    """The same records draw the same SVG, and no records draw none."""
    first = static_svg(bundle)
    assert first.lstrip().startswith("<?xml")
    assert first == static_svg(bundle)
    assert static_svg(Bundle(info=bundle.info)) == ""
