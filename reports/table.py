"""A table as plain data, and the mark that says what each of its figures is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """What a figure is. Every figure in a report belongs to one of these."""

    MEASURED = "measured"
    PREDICTED = "predicted"
    REFUSED = "refused"
    STATED = "stated"


MEANINGS = {
    Mark.MEASURED: "timed, counted or read on this host in this run",
    Mark.PREDICTED: "computed from measurements, with the range it may be in",
    Mark.REFUSED: "no figure, because none could be trusted; the reason is given",
    Mark.STATED: "an input that was given (a demand, a limit, a list price), or arithmetic on it",
}


def marked(text: str, mark: Mark) -> str:
    """Cell or sentence that says itself what it is: ``8.1 ms [predicted]``."""
    return f"{text} [{mark}]".lstrip()


def split_mark(text: str) -> tuple[str, Mark | None]:
    """Take the mark off the end of a text; None when it carries none."""
    for mark in Mark:
        if text.endswith(f"[{mark}]"):
            return text.removesuffix(f"[{mark}]").rstrip(), mark
    return text, None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of strings under a header, ready for any renderer.

    ``mark`` holds for all figures of the table; None means that cells carry their own.
    ``text_columns`` are aligned left, all others right. ``long`` is a complete list
    that a reader opens when needed.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    mark: Mark | None
    text_columns: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()
    long: bool = False

    def __post_init__(self) -> None:
        """Refuse a table whose rows do not fit its header."""
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.name}: {len(row)} cells under {len(self.header)} headings")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A numbered part of the report: tables, figures, sentences, commands."""

    key: str
    title: str
    tables: tuple[Table, ...] = ()
    plots: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
