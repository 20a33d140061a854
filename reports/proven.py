"""What was proven of the recommendations, and how good the planner has been so far."""

from __future__ import annotations

import textwrap
from datetime import date

from planner.claim import Claim, Judged, lapsed, of_another_plan
from planner.recommend import best_on_host
from planner.reproof import Reproof
from planner.track_record import TrackPoint, TrackRecord
from reports import formatting as f
from reports.bundle import Bundle
from reports.table import Mark, Section, Table, marked

WIDTH = 100
_LABEL = 11


def section(bundle: Bundle) -> Section:
    """The claims of the run, one for each profile that was confirmed."""
    if not bundle.claims:
        return Section(key="proven", title="Proven")
    return Section(
        key="proven", title="Proven", tables=(_claims(bundle), _deployments(bundle), _terms(bundle))
    )


def track_section(bundle: Bundle) -> Section:
    """Every prediction that was ever held against a confirmation, over all runs."""
    return Section(
        key="track-record",
        title="The planner's track record",
        tables=(_points(bundle),),
        items=(track_in_words(TrackRecord(points=bundle.track_record)),)
        if bundle.track_record
        else (),
    )


def claim_text(claim: Claim, title: str, file: str | None = None) -> str:
    """One claim for the terminal: the sentence in a line of its own, then what is behind it.

    ``file`` is where it lies, as the reader should type it.
    """
    lines = [claim.sentence, _item("profile", title), _item("because", claim.reason)]
    if claim.more_requests or claim.more_lost_requests:
        lines.append(_item("missing", missing_in_words(claim)))
    lines.append(_item("predicted", predicted_in_words(claim)))
    if claim.floor_p99_ms is not None:
        lines.append(_item("floor", floor_in_words(claim.floor_p99_ms)))
    lines += [_item("differs", line) for line in claim.differs]
    if claim.instead:
        lines.append(_item("instead", claim.instead))
    lines.append(_item("lapses", f"with {'; '.join(claim.lapses)}"))
    if file:
        lines.append(f"  {'file':<{_LABEL}}{file}")  # a path is never broken
    return "\n".join(lines) + "\n"


def floor_in_words(p99_ms: float) -> str:
    """What it means that a p99 is near that of a no-op."""
    return f"at the platform's floor: a no-op has a p99 of {f.ms(p99_ms)} at this rate"


def reproof_text(found: Reproof) -> str:
    """A claim that was proven again elsewhere, for the terminal."""
    lines = [found.sentence, _item("claimed", found.claimed), _item("because", found.reason)]
    if found.more_requests is not None:
        lines.append(_item("missing", f"about {f.count(found.more_requests)} more requests"))
    lines.append(_item("measured", _quantile(found.slo.quantile, found.judged)))
    lines += [_item("unchecked", line) for line in found.unchecked]
    if found.instead:
        lines.append(_item("instead", found.instead))
    return "\n".join(lines) + "\n"


def claim_line(bundle: Bundle, profile: str) -> tuple[str, str] | None:
    """What to call the claim about a profile, Proven or Lapsed, and the line that says it.

    None where nothing was confirmed.
    """
    claim = next((c for c in bundle.claims if c.profile == profile), None)
    if claim is None:
        return None
    if why := no_longer(bundle, claim):
        return "Lapsed", marked(f"{'; '.join(why)}. It was: {claim.sentence}", Mark.MEASURED)
    return "Proven", marked(claim.sentence, Mark.MEASURED)


def no_longer(bundle: Bundle, claim: Claim) -> list[str]:
    """Why a claim says nothing about what the run recommends today; [] while it does."""
    answer = next((a for a in bundle.recommendations if a.demand.name == claim.profile), None)
    variant = next((v for v in bundle.variants if v.name == claim.candidate.variant), None)
    if answer is None or variant is None or bundle.environment is None:
        return ["the run no longer holds what it is about"]
    plans = [plan for plan in (answer.best, best_on_host(answer)) if plan is not None]
    return [
        *lapsed(claim, _today(), bundle.environment, variant),
        *of_another_plan(claim, answer.demand, plans),
    ]


def predicted_in_words(claim: Claim) -> str:
    """``p99 30.0 ms (20.0-45.0) [predicted], 25.1 ms measured``."""
    said = "nothing, so far from what was measured"
    if claim.predicted is not None:
        said = f"{f.quantile(claim.slo.quantile)} {f.interval(claim.predicted, f.ms)}"
    return f"{said}; measured {_quantile(claim.slo.quantile, claim.judged)}"


def missing_in_words(claim: Claim) -> str:
    """How many more requests an undecided claim needs, and how long they take."""
    more, rate, where = claim.more_requests or 0, claim.held_rps, ""
    if not more:  # a run loses its replica half-way, and half of it is judged
        more, where = claim.more_lost_requests or 0, " after the loss of a replica"
        rate = (claim.killed_rps or claim.held_rps) / 2
    return (
        f"about {f.count(more)} more requests{where}, {f.number(more / rate / 60, 2)} min; confirm "
        "again with a longer --time-budget"
    )


def track_in_words(record: TrackRecord) -> str:
    """The summary of a track record, in one sentence."""
    error, inside = record.median_absolute_error, record.share_inside
    missed = len(record.misses)
    return (
        f"{f.count_of(len(record.points), 'prediction')} held against a confirmation: median "
        f"absolute error {f.percent(error)}, {f.percent(inside)} inside their interval, "
        f"{f.count(missed)} missed"
    )


def _claims(bundle: Bundle) -> Table:
    titles = {answer.demand.name: answer.demand.title for answer in bundle.recommendations}
    rows = tuple(
        (
            titles.get(claim.profile, claim.profile),
            f"{claim.verdict}, lapsed" if no_longer(bundle, claim) else claim.verdict,
            claim.sentence,
            f.interval(claim.predicted),
            f.number(claim.judged.measured_ms),
            claim.instead or f.NOTHING,
        )
        for claim in bundle.claims
    )
    return Table(
        name="claims",
        title="Claims, proven by load tests",
        header=(
            "Profile",
            "Verdict",
            "Claim",
            "Predicted (ms)",
            "Measured (ms)",
            "Recommended instead",
        ),
        rows=rows,
        mark=Mark.MEASURED,
        text_columns=(0, 1, 2, 5),
        notes=(
            "Predicted and measured: the objective's quantile over the deployments that were held.",
        ),
    )


def _deployments(bundle: Bundle) -> Table:
    rows = []
    for claim in bundle.claims:
        runs = [(f"deployment {i}", judged) for i, judged in enumerate(claim.each, 1)]
        runs += [("all deployments", claim.judged)]
        runs += [("a replica killed", claim.killed)] if claim.killed else []
        rows += [
            (
                claim.profile,
                name,
                judged.verdict,
                f.count(judged.n),
                f.count(judged.over),
                f.number(judged.effective_n),
                f.number(judged.measured_ms),
            )
            for name, judged in runs
        ]
    return Table(
        name="claim_runs",
        title="What the claims rest on",
        header=("Profile", "Run", "Verdict", "n", "Over", "Effective n", "Quantile (ms)"),
        rows=tuple(rows),
        mark=Mark.MEASURED,
        text_columns=(0, 1, 2),
        notes=(
            "Effective n: as many independent requests would say as much. A deployment by itself "
            "is judged more strictly, so that all of them together are as rarely wrong as one.",
        ),
    )


def _terms(bundle: Bundle) -> Table:
    rows = []
    for claim in bundle.claims:
        rows += [(claim.profile, "has lapsed", line) for line in no_longer(bundle, claim)]
        rows += [(claim.profile, "differs", line) for line in claim.differs]
        rows += [(claim.profile, "lapses with", line) for line in claim.lapses]
    return Table(
        name="claim_terms",
        title="What differs from the recommended target, and what makes a claim lapse",
        header=("Profile", "It", "What"),
        rows=tuple(rows),
        mark=Mark.STATED,
        text_columns=(0, 1, 2),
        long=True,
    )


def _points(bundle: Bundle) -> Table:
    record = TrackRecord(points=bundle.track_record)
    ordered = (*record.misses, *(p for p in record.points if p.inside))
    return Table(
        name="track_record",
        title="Predictions against confirmations: every miss first",
        header=(
            "Confirmed",
            "What",
            "Objective",
            "Predicted (ms)",
            "Measured (ms)",
            "Error",
            "Inside",
            "Claim",
        ),
        rows=tuple(_point(point) for point in ordered),
        mark=Mark.MEASURED,
        text_columns=(0, 1, 2, 6, 7),
        notes=("Error: the middle of the prediction over what was measured, less one.",),
    )


def _point(p: TrackPoint) -> tuple[str, ...]:
    what = f.with_threads(f"{p.replicas} x {p.instance}, {p.workload} {p.variant}", p.threads)
    rows = f"batch {f.count(p.batch)}" if p.mix is None else str(p.mix)
    rows += "" if p.length is None else f" of {f.count(p.length)} tokens"
    return (
        p.confirmed_on,
        f"{what}, {rows} at {f.given(p.rate_rps)} req/s",
        f"{f.quantile(p.quantile)} <= {f.given(p.limit_ms)} ms",
        f.interval(p.predicted),
        f.number(p.measured_ms),
        f.NOTHING if p.error is None else f"{100 * p.error:+.0f}%",
        "yes" if p.inside else "no",
        p.verdict,
    )


def _quantile(quantile: float, judged: Judged) -> str:
    if judged.measured_ms is None:
        return f"no {f.quantile(quantile)}: too many requests failed"
    return f"{f.quantile(quantile)} {f.ms(judged.measured_ms)}"


def _today() -> date:
    return date.today()


def _item(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"  {label:<{_LABEL}}",
        subsequent_indent=" " * (2 + _LABEL),
        break_on_hyphens=False,
    )
