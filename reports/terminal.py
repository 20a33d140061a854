"""What the command line prints: plain text, no colours, at most 100 columns."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from planner.recommend import best_on_host
from planner.records import Recommendation
from planner.track_record import TrackRecord
from reports import formatting as f
from reports import unjudged, words
from reports.autoscaling_table import sentence
from reports.batching_table import sentence as batching_sentence
from reports.bundle import Bundle
from reports.proven import claim_line, track_in_words
from reports.table import Table

WIDTH = 100
_LABEL = 11
_CELL = 40
_PROBES = 3


def recommendation_text(
    bundle: Bundle, report: str | None = None, *, prove: str | None = None
) -> str:
    """Say the result of a run: for each profile what to run, what it costs, how sure that is.

    ``report`` is where the full report lies, ``prove`` the run that is to be proven, both as the
    reader should type them.
    """
    title = bundle.info.title + (" (quick run: a smoke test)" if bundle.info.quick else "")
    parts = [_wrap(title) + "\n" + "=" * min(len(title), WIDTH)]
    parts += [_profile(bundle, answer) for answer in bundle.recommendations]
    if not bundle.recommendations:
        parts.append("No recommendation: this run has not been planned.")
    parts += [_wrap(f"Not judged: {line}.") for line in unjudged.of_study(bundle.measurements)]
    if report:
        # A path is never broken: it is there to be copied.
        parts.append(f"Report: {report}")
    if prove and any(answer.best for answer in bundle.recommendations):
        parts.append(f"Prove it: tonnage confirm {prove}")
    if bundle.claims and bundle.track_record:
        record = TrackRecord(points=bundle.track_record)
        parts.append(_wrap(f"The planner's track record: {track_in_words(record)}."))
    return "\n\n".join(parts) + "\n"


def table(t: Table) -> str:
    """Table with its title and notes, for the terminal."""
    body = tabulate(
        [list(row) for row in t.rows],
        headers=list(t.header),
        tablefmt="simple",
        disable_numparse=True,
        maxcolwidths=[_CELL if i in t.text_columns else None for i in range(len(t.header))],
        colalign=["left" if i in t.text_columns else "right" for i in range(len(t.header))]
        if t.rows
        else None,
    )
    title = t.title + (f" [{t.mark}]" if t.mark else "")
    return "\n".join((title, "", body, *(_wrap(note) for note in t.notes))) + "\n"


def _profile(bundle: Bundle, answer: Recommendation) -> str:
    wanted, best = answer.demand, answer.best
    lines = [_wrap(f"{wanted.title}: {words.demand(wanted)}")]
    if best is None:
        bound = words.binding(answer)
        said = f"no candidate holds this demand{', ' * bool(bound)}{bound} [refused]"
        lines.append(_item("nothing", said))
        for number, one in enumerate(words.nearest(answer)):
            lines.append(_item("" if number else "nearest", one))
    else:
        size = f"{f.vcpus(best.vcpus)}, {f.gib(best.memory_gib)} RAM in all"
        lines += [
            _item("run", words.configuration(best)),
            _item("", f"{size}; {words.kind_of_file(bundle, best)} {best.model_file}"),
            _item("cost", words.cost(best)),
            _item("latency", words.latency(best)),
        ]
        if best.margin not in answer.note:  # the planner's note often says it already
            lines.append(_item("margin", best.margin))
        if best.staffing:
            lines.append(_item("staffing", best.staffing))
        if best.predicted_size:
            lines.append(_item("size", best.predicted_size))
        if best.predicted_batch:
            lines.append(_item("batch size", best.predicted_batch))
        if best.predicted_length:
            lines.append(_item("length", best.predicted_length))
        if answer.autoscaling is not None:
            lines.append(_item("over a day", sentence(answer)))
        if answer.batching is not None:
            lines.append(_item("batched", batching_sentence(answer.batching)))
        host = best_on_host(answer)
        if host is not None and host is not best:
            lines.append(_item("this host", f"{words.configuration(host)}; {words.latency(host)}"))
        for number, other in enumerate(words.trade_offs(answer)):
            lines.append(_item("" if number else "trade-offs", other))
        inside = words.in_process(bundle, wanted, best)
        if inside:
            lines.append(_item("model only", inside))
    claimed = claim_line(bundle, wanted.name)
    if claimed is not None:
        lines.append(_item(claimed[0].lower(), claimed[1]))
    rejected = words.commonest(answer)
    if rejected:
        lines.append(_item("rejected", rejected))
    if answer.note:
        lines.append(_item("note", answer.note))
    # A command is never broken: it is there to be copied.
    lines += [f"  {'measure' if n == 0 else '':<{_LABEL}}{text}" for n, text in _next(answer)]
    return "\n".join(lines)


def _next(answer: Recommendation) -> list[tuple[int, str]]:
    """At most three commands that may change the answer, with what they may save."""
    return list(enumerate(words.probe(p) for p in answer.probes[:_PROBES]))


def _item(label: str, text: str) -> str:
    indent = " " * (2 + _LABEL)
    return _wrap(text, f"  {label:<{_LABEL}}", indent)


def _wrap(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
