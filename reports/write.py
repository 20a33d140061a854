"""Writes the reports of a run into its folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from reports import html, json_report, markdown
from reports.bundle import Bundle
from reports.plots import figures, static_svg

PICTURE = "latency.svg"


def write_reports(folder: Path, *, picture: bool = False) -> list[Path]:
    """Read the records in ``folder`` and write report.md, report.html and report.json there.

    ``picture`` also writes the first latency figure as latency.svg and shows it in
    report.md; it needs matplotlib. Everything is rendered before the first file is
    written, and each file appears whole or not at all. Raises BadInput when a record
    can't be read.
    """
    bundle = Bundle.read(folder)
    texts: dict[str, str] = {}
    plots: dict[str, str] = {}
    svg = static_svg(bundle) if picture else ""
    if svg:
        texts[PICTURE] = svg
        first = next(plot for plot in figures(bundle) if plot.group == "latency")
        plots[first.name] = PICTURE
    texts["report.md"] = markdown.render(bundle, plots)
    texts["report.html"] = html.render(bundle)
    texts["report.json"] = json_report.render(bundle)
    return [_write(folder / name, text) for name, text in texts.items()]


def _write(path: Path, text: str) -> Path:
    """Write beside the target and rename: a reader never sees half a report."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        # mkstemp's files are private; a report is to be read like any other file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path
