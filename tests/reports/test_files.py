"""report.json, and how the reports get into a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.histogram import Histogram
from reports import html, json_report
from reports.bundle import Bundle
from reports.tables import all_tables
from reports.write import write_reports
from serving.errors import BadInput


def test_json_carries_every_table(bundle: Bundle) -> None:
    """report.json holds each table of the report, row for row."""
    document = json.loads(json_report.render(bundle))
    tables = all_tables(bundle)
    assert list(document["tables"]) == [t.name for t in tables]
    for t in tables:
        assert document["tables"][t.name]["rows"] == [list(row) for row in t.rows]


def test_table_names_are_unique(bundle: Bundle) -> None:
    """No table hides another under its name."""
    names = [t.name for t in all_tables(bundle)]
    assert len(names) == len(set(names))


def test_json_has_quantiles_for_histograms(bundle: Bundle) -> None:
    """Histograms are replaced by their quantiles; the encoded form stays in the records."""
    text = json_report.render(bundle)
    assert '"encoded"' not in text
    record = json.loads(text)["records"]["measurements"][0]
    latency = bundle.measurements[0].due_to_done
    assert record["due_to_done"]["p50_ms"] == pytest.approx(1e3 * latency.quantile_s(0.5))
    assert record["due_to_done"]["count"] == latency.count


def test_json_has_no_quantile_of_too_few_samples(bundle: Bundle) -> None:
    """A p99 takes 368 of them; of fewer it is null."""
    first = bundle.measurements[0]
    few, enough = (Histogram.of([0.004] * n) for n in (367, 368))
    made = first.model_copy(update={"due_to_done": few, "sent_to_done": enough})
    text = json_report.render(bundle.model_copy(update={"measurements": (made,)}))
    (record,) = json.loads(text)["records"]["measurements"]
    assert record["due_to_done"]["p95_ms"] == pytest.approx(4, rel=1e-3)
    assert record["due_to_done"]["p99_ms"] is None
    assert record["sent_to_done"]["p99_ms"] == pytest.approx(4, rel=1e-3)


def test_json_is_stable(bundle: Bundle) -> None:
    """The same records give the same text, also after a round trip through JSON."""
    again = Bundle.model_validate_json(bundle.model_dump_json())
    assert json_report.render(bundle) == json_report.render(again)


def test_reports_are_written(run_folder: Path) -> None:
    """Three reports appear, readable, and nothing temporary stays behind."""
    before = set(run_folder.iterdir())
    written = write_reports(run_folder)
    assert [path.name for path in written] == ["report.md", "report.html", "report.json"]
    assert set(run_folder.iterdir()) - before == set(written)
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in written)


def test_picture_is_written_and_shown(run_folder: Path) -> None:
    """With a picture, report.md shows the file that was written."""
    written = write_reports(run_folder, picture=True)
    assert "latency.svg" in {path.name for path in written}
    assert "](latency.svg)" in (run_folder / "report.md").read_text()


def test_bad_record_writes_nothing(run_folder: Path) -> None:
    """A broken record is named with its line, and no report is half-written."""
    (run_folder / "bench.jsonl").write_text('{"variant": 1}\n')
    with pytest.raises(BadInput, match=r"bench\.jsonl:1"):
        write_reports(run_folder)
    assert not list(run_folder.glob("*report*"))


def test_failed_rendering_keeps_the_old_report(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a renderer breaks, the reports of before are still there."""
    (run_folder / "report.md").write_text("old")

    def broken(_: Bundle) -> str:
        raise RuntimeError

    monkeypatch.setattr(html, "render", broken)
    with pytest.raises(RuntimeError):
        write_reports(run_folder)
    assert (run_folder / "report.md").read_text() == "old"
