"""A workload's study as the bench publishes it: run once, gone on with, or said to have failed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import study_report
from benchmarks.study_report import publish_report


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Reports without records, and the commands that were run: none succeeds of itself."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=3)

    def write(folder: Path, *, picture: bool) -> None:
        (folder / "report.md").write_text(f"report of {folder.name}")

    monkeypatch.setattr(study_report.subprocess, "run", run)
    monkeypatch.setattr(study_report, "write_reports", write)
    return commands


def run_of(state: Path, time: str, *, finished: bool = True) -> None:
    folder = state / "study" / "net" / time
    folder.mkdir(parents=True)
    if finished:
        (folder / "finished").touch()


def test_a_finished_run_is_published_and_not_repeated(tmp_path: Path, ran: list[list[str]]) -> None:
    """The newest finished run's report is copied; nothing is measured again."""
    for time in ("2026-01-01", "2026-01-02"):
        run_of(tmp_path / "state", time)
    run_of(tmp_path / "state", "2026-01-03", finished=False)
    assert publish_report("net", tmp_path / "state", tmp_path / "net")
    assert ran == []
    assert (tmp_path / "net" / "report.md").read_text() == "report of 2026-01-02"


def test_a_run_that_fails_publishes_nothing(
    tmp_path: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study is tried, with runs kept where an interrupted one is found again.

    Its folder, which the report's commands name, is no path of this machine.
    """
    monkeypatch.chdir(tmp_path)
    assert not publish_report("net", tmp_path / "state", tmp_path / "net")
    assert ran[0][-4:] == ["run", "net", "--runs", "state/study"]
    assert not (tmp_path / "net").exists()
