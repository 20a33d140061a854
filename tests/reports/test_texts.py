"""What report.md and the terminal say, word for word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reports import markdown, terminal
from reports.bundle import Bundle
from reports.tables import all_tables

GOLDEN = Path(__file__).parent / "golden"


def _same_as_golden(name: str, text: str) -> None:
    """Compare with golden/<name>; ``TONNAGE_REGENERATE=1 pytest tests/reports`` rewrites it."""
    path = GOLDEN / name
    if os.environ.get("TONNAGE_REGENERATE"):
        path.write_text(text)
    assert text == path.read_text()


def test_markdown_is_golden(bundle: Bundle) -> None:
    """report.md of the synthetic run is the committed text."""
    _same_as_golden("report.md.txt", markdown.render(bundle, {}))


def test_terminal_is_golden(bundle: Bundle) -> None:
    """The result on stdout is the committed text."""
    text = terminal.recommendation_text(bundle, "runs/credit/2026-01-02/report.html")
    _same_as_golden("terminal.txt", text)


def test_first_screen_answers(bundle: Bundle) -> None:
    """The recommendation of every profile stands before the first section."""
    first = markdown.render(bundle, {}).split("\n---\n")[0]
    assert all(answer.demand.title in first for answer in bundle.recommendations)
    assert "USD 65.19 per month" in first


def test_terminal_is_plain_and_narrow(bundle: Bundle) -> None:
    """The result has no control characters and no line beyond 100 columns."""
    text = terminal.recommendation_text(bundle, "report.html")
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) <= terminal.WIDTH


def test_terminal_table(bundle: Bundle) -> None:
    """A table for the terminal carries its title, its mark and every row."""
    found = next(t for t in all_tables(bundle) if t.name == "sizes")
    text = terminal.table(found)
    assert text.startswith("Model files [measured]")
    assert all(row[0] in text for row in found.rows)


def test_hostile_names_stay_text_in_markdown(hostile: object) -> None:
    """A name with Markdown and HTML in it can't break a table or become a link."""
    assert callable(hostile)
    parts = markdown.render(hostile("a|b <img src=x> [c](http://d) ```"), {}).split("````")
    assert len(parts) == 3, "the commands are in a fence that theirs can't close"
    text = parts[0] + parts[2]
    assert "<img" not in text.replace("\\<img", "")
    assert "[c](" not in text.replace("\\[c\\](", "")
    header, *_ = (line for line in text.splitlines() if line.startswith("| Variant"))
    row = next(line for line in text.splitlines() if line.startswith("| a\\|b"))
    assert row.replace("\\|", "").count("|") == header.count("|")


def test_pictures_are_placed(bundle: Bundle) -> None:
    """A picture that is passed in is shown in the section of the load tests."""
    text = markdown.render(bundle, {"latency_production": "latency.svg"})
    assert "![latency production](latency.svg)" in text
    assert "The plots are in" not in text


def test_an_empty_run_renders(bundle: Bundle) -> None:
    """A run of which only the study is known says that it has no recommendation."""
    empty = Bundle(info=bundle.info)
    assert "has not been planned" in markdown.render(empty, {})
    assert "has not been planned" in terminal.recommendation_text(empty)


@pytest.mark.parametrize("column", ["p99 (ms)", "p50 (ms)"])
def test_refused_figures_are_withheld(bundle: Bundle, column: str) -> None:
    """A measurement with a fault shows its reason instead of its latency."""
    found = next(t for t in all_tables(bundle) if t.name == "served_latency")
    refused = [row for row in found.rows if "[refused]" in row]
    assert refused
    for row in refused:
        assert row[found.header.index(column)] == "-"
        assert "lag p99 4.2 ms" in row[-1]
