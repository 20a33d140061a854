"""A run's folder: its files of records, written so that an interruption costs one cell."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from loadtests.records import Measurement
from reports.bundle import Bundle, StudyInfo, read_lines, read_one
from serving.errors import BadInput
from serving.records import Record

R = TypeVar("R", bound=Record)

FINISHED = "finished"


class RunFolder:
    """Files of one run. Whole files appear by rename, measurements by appended lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, base: Path, study: str) -> Self:
        """A new folder ``<base>/<study>/<time>``."""
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        path = base / study / stamp
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            path = base / study / f"{stamp}.{os.getpid()}"
            path.mkdir()
        except OSError as error:
            raise BadInput(f"{path}: cannot be created ({error.strerror}); set --runs") from None
        return cls(path)

    @classmethod
    def unfinished(cls, base: Path, study: str, config_hash: str) -> Self | None:
        """The newest run of this very configuration that was interrupted, if there is one.

        A run that another process is still working on is not interrupted.
        """
        for path in sorted((base / study).glob("*/study.json"), reverse=True):
            folder = cls(path.parent)
            try:
                info = read_one(path, StudyInfo)
            except BadInput:
                continue
            if info.config_hash != config_hash or folder.has(FINISHED):
                continue
            if folder.lock():
                return folder
        return None

    def lock(self) -> bool:
        """Take the run for this process; False when another one has it. Released at exit."""
        handle = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        return True

    @staticmethod
    def is_run(argument: Path) -> bool:
        """Whether there is a run in a folder, or below it; a study's name is none."""
        return argument.is_dir() and next(argument.glob("**/study.json"), None) is not None

    @classmethod
    def existing(cls, argument: Path) -> Self:
        """An existing run: the folder itself, or the newest one below it that measured."""
        if (argument / "study.json").is_file():
            return cls(argument)
        measured = list(argument.glob("**/measurements.jsonl"))
        found = measured or list(argument.glob("**/study.json"))
        if not found:
            raise BadInput(
                f"{argument}: holds no run (no study.json); give a folder such as runs/credit"
            )
        return cls(max(found, key=lambda path: path.parent.name).parent)

    def has(self, name: str) -> bool:
        """Whether a stage has left its file."""
        return (self.path / name).is_file()

    def write_one(self, name: str, record: Record) -> None:
        """Write a record as a whole JSON file."""
        self._replace(name, record.model_dump_json(indent=1) + "\n")

    def write_lines(self, name: str, records: Iterable[Record]) -> None:
        """Write records as a whole JSON Lines file."""
        self._replace(name, "".join(record.model_dump_json() + "\n" for record in records))

    def append(self, name: str, record: Record) -> None:
        """Append one record; on disk when this returns."""
        with (self.path / name).open("a") as stream:
            stream.write(record.model_dump_json() + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def keep_order(self, keys: list[str]) -> None:
        """Keep the order of the cells: a resumed run follows it."""
        self._replace("order.json", json.dumps(keys))

    def order(self) -> list[str]:
        """Keys of the cells in the order kept."""
        return list(json.loads((self.path / "order.json").read_text()))

    def finished_cells(self) -> list[str]:
        """Keys of the cells that are complete, in order, repeats included."""
        return list(self._cells())

    def finish_cell(self, key: str) -> None:
        """Note that all measurements of a cell are on disk."""
        state = {"cells": [*self._cells(), key], "measurements": len(self.measurements())}
        self._replace("cells.json", json.dumps(state))

    def drop_unfinished(self) -> None:
        """Forget the measurements of a cell that was cut short; it will be measured again."""
        path = self.path / "cells.json"
        complete = json.loads(path.read_text())["measurements"] if path.is_file() else 0
        made = self.measurements()
        if len(made) > complete:
            self.write_lines("measurements.jsonl", made[:complete])

    def _cells(self) -> list[str]:
        path = self.path / "cells.json"
        return list(json.loads(path.read_text())["cells"]) if path.is_file() else []

    def measurements(self) -> tuple[Measurement, ...]:
        """All measurements on disk."""
        return self.records("measurements.jsonl", Measurement)

    def records(self, name: str, kind: type[R]) -> tuple[R, ...]:
        """All records of a JSON Lines file. A last line cut short by a crash is left out."""
        path = self.path / name
        if path.is_file() and not (text := path.read_text()).endswith("\n") and text:
            self._replace(path.name, text[: text.rfind("\n") + 1])
        return read_lines(path, kind)

    def bundle(self) -> Bundle:
        """Everything in the folder."""
        return Bundle.read(self.path)

    def keep(self, name: str, source: Path) -> None:
        """Keep a copy of a configuration file: the run is planned with what it was run with."""
        self._replace(name, source.read_text())

    def finish(self) -> None:
        """Mark the run as complete."""
        (self.path / FINISHED).touch()

    def _replace(self, name: str, text: str) -> None:
        draft = self.path / f".{name}.draft"
        draft.write_text(text)
        os.replace(draft, self.path / name)
