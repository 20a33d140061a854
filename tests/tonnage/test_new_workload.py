"""A new workload touches nothing else: the example of docs/workloads.md, as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import serving.workloads
from reports.comparison_table import comparison
from serving.workloads import known_workloads
from tonnage.cli_common import study_run

DOCS = Path(__file__).parents[2] / "docs" / "workloads.md"


def example(language: str) -> str:
    """The one block of that language in the docs."""
    (block,) = re.findall(
        rf"^```{language}\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE
    )
    return str(block)


def test_the_example_is_built_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two new files, and the study checks, builds, judges, benches and compares."""
    (tmp_path / "digits.py").write_text(example("python"))
    (tmp_path / "digits.toml").write_text(example("toml"))
    monkeypatch.setattr(serving.workloads, "__path__", [*serving.workloads.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "serving.workloads.digits", raising=False)
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert "digits" in known_workloads()
    made = study_run("digits.toml", False, None, True, tmp_path / "runs", until="bench")
    made.run()
    bundle = made.folder.bundle()
    baseline, onnx, int8 = bundle.variants
    assert baseline.quality is not None
    assert baseline.quality.accuracy is not None
    assert baseline.quality.accuracy > 0.9
    assert onnx.barred is None
    assert int8.size_bytes < 0.5 * onnx.size_bytes
    table = comparison(bundle)
    assert [row[0].partition(" ")[0] for row in table.rows] == ["sklearn", "onnx", "onnx_int8"]
    assert {"Size", "Compression", "CPU ms at 1", "Speed-up at 32", "Accuracy", "RAM"} <= set(
        table.header
    )
