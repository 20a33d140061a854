"""What reports say of claims and of the planner's track record, word for word."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from loadtests.objective import Slo
from planner.claim import Claim, Judged
from planner.records import Interval
from planner.reproof import Reproof
from planner.track_record import TrackPoint
from reports import html, json_report, markdown, terminal
from reports.bundle import CLAIMS, TRACK_RECORD, Bundle, track_record_path
from reports.proven import claim_text, reproof_text, track_section
from reports.tables import sections

from .test_texts import _same_as_golden


def judged(n: int, over: int, verdict: str = "holds", ms: float | None = 2.31) -> Judged:
    return Judged(
        verdict=verdict,
        n=n,
        over=over,
        effective_n=0.6 * n,
        share_over=over / n,
        measured_ms=ms,
    )


def make_claim(bundle: Bundle, **changes: Any) -> Claim:
    """Half of the production plan, on the host of the synthetic run."""
    answer = bundle.recommendations[0]
    assert answer.best is not None
    values: dict[str, Any] = {
        "profile": "production",
        "model_name": "credit_onnx_int8",
        "verdict": "holds",
        "reason": "binomial rule over all deployments; none fails by itself",
        "slo": answer.demand.slo,
        "batch": 100,
        "rate_rps": 400.0,
        "held_rps": 200.0,
        "replicas": 2,
        "held_replicas": 1,
        "spare_replicas": 1,
        "candidate": answer.best.candidate,
        "instance": bundle.profiles[2].instance,
        "confidence": 0.99,
        "looks": 1,
        "deployments": 3,
        "judged": judged(3304, 12),
        "each": (judged(1101, 4), judged(1101, 3), judged(1102, 5, "undecided")),
        "killed": None,
        "killed_rps": None,
        "not_killed": "one replica only",
        "more_requests": None,
        "predicted": Interval(low=2, mid=2.5, high=3.25),
        "model_sha256": "ab12cd34" * 8,
        "config_hash": bundle.info.config_hash,
        "environment": bundle.environment,
        "measurement_ids": ("c1", "c2", "c3"),
        "confirmed_on": "2026-01-03",
        "lapses_after_days": 180,
        "differs": (
            "1 of 2 replicas were held, at their share of the rate; the router and the network of "
            "the whole were not loaded",
        ),
    }
    return Claim.of(**(values | changes))


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day after the claims were made."""
    monkeypatch.setattr("reports.proven._today", lambda: date(2026, 1, 4))


@pytest.fixture
def proven(bundle: Bundle) -> Bundle:
    """The synthetic run with a claim that holds, one that fails, and a track record."""
    held = make_claim(bundle)
    production, real_time, *others = bundle.recommendations
    asked = {"slo": held.slo, "batch": 100, "rate_rps": 400.0, "spare_replicas": 1}
    production, real_time = (
        answer.model_copy(
            update={"demand": answer.demand.model_copy(update=asked), "best": production.best}
        )
        for answer in (production, real_time)
    )
    lost = judged(2000, 93, "fails", None)
    failed = make_claim(
        bundle,
        profile="real-time",
        verdict="fails",
        reason="1 of 2 deployments fail by themselves",
        judged=judged(2000, 140, "fails", 71.5),
        deployments=2,
        each=(judged(1000, 130, "fails", 80.0), judged(1000, 10, "undecided", 20.0)),
        killed=lost,
        killed_rps=150.0,
        not_killed="",
        instead="with these runs as evidence 2 x sim-1, onnx_fp32, 1 thread; not proven yet",
    )
    points = [TrackPoint.of(claim, "credit") for claim in (held, failed)]
    return bundle.model_copy(
        update={
            "claims": (held, failed),
            "track_record": tuple(p for p in points if p),
            "recommendations": (production, real_time, *others),
        }
    )


def test_the_proven_sections_are_golden(proven: Bundle) -> None:
    """report.md has the claims, what they rest on, their terms, and every miss."""
    text = markdown.render(proven, {})
    begin = text.index("Proven\n")
    end = text.index("How to reproduce\n")
    _same_as_golden("proven.md.txt", text[begin:end])


def test_a_claim_is_golden(proven: Bundle) -> None:
    """The sentence stands alone in its line; what is behind it follows."""
    held, failed = proven.claims
    more = make_claim(
        proven,
        verdict="undecided",
        reason="the requests are too few, or too near the limit",
        judged=judged(300, 2, "undecided"),
        more_requests=24_000,
        predicted=None,
    )
    texts = [
        claim_text(held, "Production", "runs/credit/2026-01-02/claims/production.json"),
        claim_text(failed, "Real-time API"),
        claim_text(more, "Production"),
    ]
    assert texts[0].splitlines()[0] == held.sentence
    _same_as_golden("claims.txt", "\n".join(texts))


def test_a_claim_put_to_a_server_is_golden(proven: Bundle) -> None:
    """What was claimed, what the server showed, and what cannot be seen from outside."""
    found = Reproof.of(
        verdict="undecided",
        reason="the requests are too few, or too near the limit",
        claim="0123456789ab",
        claimed=proven.claims[0].sentence,
        url="http://staging:8000",
        model_name="credit_onnx_int8",
        slo=Slo(limit_ms=60),
        batch=100,
        rate_rps=400.0,
        confidence=0.99,
        looks=1,
        judged=judged(900, 2, "undecided"),
        more_requests=350,
        proven_on="2026-01-04",
        unchecked=("the CPU, which was Example CPU @ 2.5 GHz", "other deployments of the same"),
    )
    _same_as_golden("reproof.txt", reproof_text(found))


def test_the_terminal_says_what_was_proven(proven: Bundle) -> None:
    """Below its profile each claim; at the end the record; lines stay within 100 columns."""
    text = terminal.recommendation_text(proven, "report.html", prove="runs/credit/2026-01-02")
    flat = " ".join(text.split())
    for claim in proven.claims:
        assert f"proven {claim.sentence} [measured]" in flat
    assert "Prove it: tonnage confirm runs/credit/2026-01-02\n" in text
    assert "The planner's track record: 2 predictions held against a confirmation" in flat
    assert max(map(len, text.splitlines())) <= terminal.WIDTH


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda b: b, "181 days ago, and good for 180"),
        (lambda b: _demanding(b, rate_rps=500.0), "at 500 req/s of batch 100, 1 to spare, is"),
        (lambda b: _demanding(b, spare_replicas=2), "2 to spare, is demanded now"),
        (lambda b: _planning(b, replicas=3), "another plan is recommended now"),
        (lambda b: _serving(b, sha256="c" * 64), "the model file changed"),
    ],
)
def test_a_claim_that_lapsed_is_not_proven(
    proven: Bundle,
    change: Callable[[Bundle], Bundle],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By age, demand, plan or model: every report says that it lapsed, and why."""
    changed = change(proven)
    if changed is proven:
        monkeypatch.setattr("reports.proven._today", lambda: date(2026, 7, 3))
    text = " ".join(terminal.recommendation_text(changed).split())
    assert f"proven {proven.claims[0].sentence}" not in text
    assert why in text
    assert f"It was: {proven.claims[0].sentence}" in text
    assert "<b>Lapsed.</b>" in html.render(changed)
    assert "holds, lapsed" in markdown.render(changed, {})


def _demanding(bundle: Bundle, **changes: Any) -> Bundle:
    first, *others = bundle.recommendations
    first = first.model_copy(update={"demand": first.demand.model_copy(update=changes)})
    return bundle.model_copy(update={"recommendations": (first, *others)})


def _planning(bundle: Bundle, **changes: Any) -> Bundle:
    first, *others = bundle.recommendations
    assert first.best is not None
    first = first.model_copy(update={"best": first.best.model_copy(update=changes)})
    return bundle.model_copy(update={"recommendations": (first, *others)})


def _serving(bundle: Bundle, **changes: Any) -> Bundle:
    changed = tuple(v.model_copy(update=changes) for v in bundle.variants)
    return bundle.model_copy(update={"variants": changed})


def test_every_format_has_the_claims(proven: Bundle) -> None:
    """HTML as a section, JSON as records and tables."""
    page = html.render(proven)
    assert 'id="proven"' in page
    assert 'id="track-record"' in page
    assert "<b>Proven.</b>" in page
    document = json.loads(json_report.render(proven))
    assert document["records"]["claims"][0]["sentence"] == proven.claims[0].sentence
    assert len(document["tables"]["track_record"]["rows"]) == 2


def test_without_claims_nothing_is_said(bundle: Bundle) -> None:
    """A run that was not confirmed has neither section, and nobody is sent to prove nothing."""
    assert not {"proven", "track-record"} & {section.key for section in sections(bundle)}
    nothing = bundle.model_copy(update={"recommendations": bundle.recommendations[2:]})
    assert "Prove it" not in terminal.recommendation_text(nothing, prove="runs/credit")


def test_a_record_of_other_runs_is_shown(proven: Bundle) -> None:
    """It is the planner's, not the run's; misses come first."""
    alone = proven.model_copy(update={"claims": ()})
    section = track_section(alone)
    assert [row[6] for row in section.tables[0].rows] == ["no", "yes"]
    assert "1 missed" in section.items[0]


def test_claims_and_record_are_read_from_the_files(run_folder: Path, proven: Bundle) -> None:
    """Claims by profile in the run's folder, the record beside all runs of all studies."""
    assert track_record_path(Path("/x/runs/credit/now"), "credit") == Path("/x/runs") / TRACK_RECORD
    assert track_record_path(Path("/x/moved"), "credit") == Path("/x/moved") / TRACK_RECORD
    (run_folder / CLAIMS).mkdir()
    for claim in proven.claims:
        (run_folder / CLAIMS / f"{claim.profile}.json").write_text(claim.model_dump_json())
    lines = "".join(point.model_dump_json() + "\n" for point in proven.track_record)
    (run_folder / TRACK_RECORD).write_text(lines)
    found = Bundle.read(run_folder)
    assert found.claims == proven.claims
    assert found.track_record == proven.track_record
