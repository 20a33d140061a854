"""What was not judged of a run is said in every format, and only then."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtests.records import CpuUse, Fault, FaultCode, Measurement
from reports import html, json_report, markdown, terminal
from reports.bundle import Bundle
from reports.measured import measured_text
from reports.unjudged import of_study

CEILING = "what generator and ingress carry"
DRIFT = "the reference was not measured again and again"
DRIFTED = Fault(code=FaultCode.DRIFT, detail="0.7 x the level")


@pytest.fixture
def full(bundle: Bundle) -> tuple[Measurement, ...]:
    """A full study: both visits of the reference, and a no-op's ladder at every batch."""
    cells = {m.run.batch: m for m in bundle.measurements if m.run.mode == "closed"}
    busy = CpuUse(replica_s=1, ingress_s=1, generator_s=1, platform_busy=0.5)
    noops = (m.model_copy(update={"role": "floor", "cpu": busy}) for m in cells.values())
    return (*bundle.measurements, *noops)


def test_a_full_study_leaves_nothing_unsaid(full: tuple[Measurement, ...]) -> None:
    """Both were judged; a visit that was found to drift was judged all the same."""
    assert of_study(full) == ()
    marked = tuple(
        m.model_copy(update={"faults": (DRIFTED,)}) if m.role == "reference" else m for m in full
    )
    assert of_study(marked) == ()
    assert of_study([m for m in full if m.role != "cell"]) == ()


def test_a_quick_run_has_neither(full: tuple[Measurement, ...]) -> None:
    """Only cells: one sentence for each."""
    ceiling, floor, drift = of_study([m for m in full if m.role == "cell"])
    assert ceiling == f"{CEILING} was not measured, so the highest rates may be theirs, not " + (
        "the model's"
    )
    assert floor.startswith("no no-op was driven at these rates")
    assert drift.startswith(DRIFT)


def test_a_server_has_its_drift_judged(full: tuple[Measurement, ...]) -> None:
    """``run --cmd`` repeats its reference, and has no no-op; nothing stands before the server."""
    runs = [
        m.model_copy(update={"inference": "round trip"})
        for m in full
        if m.role in ("cell", "reference")
    ]
    (ceiling,) = of_study(runs)
    assert ceiling.startswith("what the generator carries was not measured")
    one_visit = [m for m in runs if m.role == "cell" or m.sequence == 0]
    assert of_study(one_visit)[1].startswith(DRIFT)


def test_batches_without_a_noop_are_named(full: tuple[Measurement, ...]) -> None:
    """A time budget drops no-ops first."""
    runs = [m for m in full if m.role != "floor" or m.run.batch == 100]
    (ceiling,) = of_study(runs)
    assert f"{CEILING} at batch 1, 6,000 was not measured" in ceiling


def test_every_format_says_it(bundle: Bundle, full: tuple[Measurement, ...]) -> None:
    """On the first screen, and as data; of a full study none of them does."""

    def shown(runs: Any) -> list[str]:
        changed = bundle.model_copy(update={"measurements": tuple(runs)})
        document = json.loads(json_report.render(changed))
        return [
            " ".join(terminal.recommendation_text(changed).split()),
            markdown.render(changed, {}).split("---")[0],
            html.render(changed).split('<div class="cards">')[0],
            " ".join(f"Not judged: {line}." for line in document["not_judged"]),
        ]

    for text in shown(m for m in full if m.role == "cell"):
        assert f"Not judged: {CEILING} was" in text
        assert f"Not judged: {DRIFT}" in text
    for text in shown(full):
        assert "Not judged" not in text


def test_a_deployment_of_ours_says_what_was_not_judged(bundle: Bundle) -> None:
    """Drift never is, of one run; the ceiling is where no-ops told it."""
    made = next(m for m in bundle.measurements if m.run.mode == "open" and m.valid)
    text = measured_text(made)
    assert f"  not judged {CEILING} was not measured" in text
    assert "  not judged no reference was measured before and after" in text
    held = measured_text(made.model_copy(update={"carried_rps": 2000.0}))
    assert CEILING not in held
    assert "  not judged no reference was measured before and after" in held
