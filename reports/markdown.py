"""report.md: the answer on the first screen, then the tables behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tabulate import tabulate

from reports import unjudged
from reports.bundle import Bundle
from reports.table import MEANINGS, Section, Table, split_mark
from reports.tables import answers, sections

# A complete list up to this length is still read as a list; a longer one is left to
# report.html and report.json.
_LONG_LIST = 12
# What Markdown or the HTML inside it would take for markup.
_SPECIAL = re.compile(r"([\\`*|<>&#\[\]])|(?<!\w)(_)|(_)(?!\w)")


def render(bundle: Bundle, plots: Mapping[str, str]) -> str:
    """Report as Markdown.

    ``plots`` maps the name of a figure to the picture that shows it, as a path
    relative to the report; without any, the reader is sent to report.html.
    """
    parts = [f"# {_escape(bundle.info.title)}", *_first_screen(bundle)]
    for number, section in enumerate(sections(bundle), 1):
        parts += ["---", f"## {number}. {section.title}", *_body(section, plots)]
    return "\n\n".join(parts) + "\n"


def render_table(table: Table) -> str:
    """One table as Markdown, with its title and notes."""
    return "\n\n".join(_table(table))


def _first_screen(bundle: Bundle) -> list[str]:
    titles = (answer.demand.title for answer in bundle.recommendations)
    answered = [
        f"- **{_escape(title)}** {_text(line.removeprefix(title).strip())}"
        for title, line in zip(titles, answers(bundle), strict=True)
    ]
    kind = " This is a quick run: a smoke test, not a basis for a purchase."
    left = (f"Not judged: {line}." for line in unjudged.of_study(bundle.measurements))
    meanings = ", ".join(f"**[{mark}]** {meaning}" for mark, meaning in MEANINGS.items())
    return [
        "\n".join(answered) or "No recommendation yet: this run has not been planned.",
        f"Study `{bundle.info.name}`, started {_escape(bundle.info.started_at)}, "
        f"data: {_escape(bundle.info.dataset)}.{kind if bundle.info.quick else ''}",
        *left,
        f"How to read a figure: {meanings}.",
    ]


def _body(section: Section, plots: Mapping[str, str]) -> list[str]:
    parts = []
    if section.code:
        parts.append(_code(section.code))
    shown = [name for name in plots if name.split("_")[0] in section.plots]
    parts += [f"![{name.replace('_', ' ')}]({plots[name]})" for name in shown]
    if section.plots and not shown:
        parts.append("The plots are in `report.html`.")
    for table in section.tables:
        parts += _table(table)
    if section.items:
        parts.append("\n".join(f"- {_text(item)}" for item in section.items))
    return parts


def _code(lines: tuple[str, ...]) -> str:
    """Commands in a fence that is longer than any run of backticks in them."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((f"{fence}bash", *lines, fence))


def _table(table: Table) -> list[str]:
    title = f"### {_escape(table.title)}" + (f" [{table.mark}]" if table.mark else "")
    if table.long and len(table.rows) > _LONG_LIST:
        return [title, f"{len(table.rows)} rows: see `report.html` or `report.json`."]
    body = tabulate(
        [[_text(cell) for cell in row] for row in table.rows],
        headers=[_escape(head) for head in table.header],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left" if i in table.text_columns else "right" for i in range(len(table.header))],
    )
    notes = [_text(note) for note in table.notes]
    return [title, body, *(["  \n".join(notes)] if notes else [])]


def _text(text: str) -> str:
    """Escaped, with the mark in bold so that the eye finds it."""
    plain, mark = split_mark(text)
    shown = _escape(plain)
    return f"{shown} **[{mark}]**".strip() if mark else shown


def _escape(text: str) -> str:
    return _SPECIAL.sub(lambda m: "\\" + m.group(0), text.replace("\n", " "))
