"""Suites as the command line names them, whole or in part."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.suite import Suite
from serving.errors import InvalidMeasurement


def test_everything_is_measured_unless_it_is_said_otherwise() -> None:
    """No argument is every suite; a part is the beginning of names."""
    assert list(command.asked([])) == list(command.SUITES)
    assert command.asked(["planner:prediction_bert", "planner:grid"]) == {
        "planner": ("prediction_bert", "grid")
    }


@pytest.mark.parametrize("argument", ["nothing", "planner:nothing"])
def test_an_unknown_name_lists_those_known(argument: str) -> None:
    """Neither a suite nor a part is guessed."""
    with pytest.raises(SystemExit, match="known are"):
        command.asked([argument])


@pytest.mark.parametrize("piecemeal", [True, False])
def test_a_part_alone_is_measured_once_and_published_with_all(
    piecemeal: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One part prints what is known; only a piecemeal suite is published before its last."""
    made: list[str] = []

    def parts() -> Mapping[str, Callable[[], Any]]:
        return {name: lambda name=name: made.append(name) or {"of": name} for name in ("a1", "b1")}

    def render(results: Mapping[str, Any]) -> Sequence[str]:
        return [f"| {name} | - | {one['of']} |" for name, one in results.items()]

    module = SimpleNamespace(parts=parts, render=render)
    suite = Suite(title="Made", note="", modules=(module,), piecemeal=piecemeal)
    monkeypatch.setattr(command, "SUITES", {"made": suite})
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr("sys.argv", ["benchmarks", "made:a"])
    command.main()
    missing = "| b1 | - | not measured yet |"
    assert missing in capsys.readouterr().out
    text = tmp_path / "published" / "made" / "bench.md"
    assert text.is_file() == piecemeal
    assert not piecemeal or missing in text.read_text()
    monkeypatch.setattr("sys.argv", ["benchmarks", "made"])
    command.main()
    assert made == ["a1", "b1"]
    published = json.loads((tmp_path / "published" / "made" / "bench.json").read_text())
    assert published["b1"] == {"of": "b1"}
    monkeypatch.setattr(command, "code_hash", lambda: "newer")
    monkeypatch.setattr("sys.argv", ["benchmarks", "made:a"])
    command.main()
    assert made == ["a1", "b1", "a1"]
    published = json.loads((tmp_path / "published" / "made" / "bench.json").read_text())
    codes = {part: host["code"] == "newer" for part, host in published["by"].items()}
    assert codes == {"a1": True, "b1": False}
    assert "1 of 2 parts are from earlier code" in text.read_text()
    suite.modules[0].parts = lambda: {"a1": parts()["a1"], "b2": parts()["b1"]}
    capsys.readouterr()
    command.main()
    assert "b1; give TONNAGE_BENCH_POINT_S" in capsys.readouterr().err
    assert json.loads((tmp_path / "published" / "made" / "bench.json").read_text()) == published


@pytest.mark.parametrize("error", [InvalidMeasurement, ZeroDivisionError])
def test_a_part_that_cannot_be_measured_does_not_stop_the_others(
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its reason is printed, it is not kept, and what is published says that it is missing."""

    def refuse() -> Any:
        raise error("the host is noisy")

    module = SimpleNamespace(
        parts=lambda: {"a": refuse, "b": lambda: 1}, render=lambda found: [f"| {found} |"]
    )
    suite = Suite(title="Made", note="", modules=(module,), piecemeal=True)
    monkeypatch.setattr(command, "SUITES", {"made": suite})
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    command.main()
    printed = capsys.readouterr()
    assert "a: " in printed.err
    assert "the host is noisy" in printed.err
    assert "{'b': 1}" in printed.out
    assert "| a | - | not measured yet |" in (tmp_path / "published/made/bench.md").read_text()
