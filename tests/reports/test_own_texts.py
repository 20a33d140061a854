"""What reports say of a model and of a server that have no study."""

from __future__ import annotations

from typing import Any

from reports import html, markdown, terminal
from reports.bundle import Bundle
from serving.records import COMMAND, Quality

COMMAND_LINE = "uvicorn app:app --port {port}"


def as_server(bundle: Bundle) -> Bundle:
    """The synthetic run, as if every variant were a command that is asked from outside."""

    def changed(record: Any) -> Any:
        return record.model_copy(update={"runtime": COMMAND, "file": COMMAND_LINE})

    def plan(p: Any) -> Any:
        candidate = p.candidate.model_copy(update={"threads": 0})
        return p.model_copy(update={"candidate": candidate, "model_file": COMMAND_LINE})

    answers = tuple(
        a.model_copy(
            update={
                "best": a.best and plan(a.best),
                "alternatives": tuple(map(plan, a.alternatives)),
            }
        )
        for a in bundle.recommendations
    )
    runs = tuple(
        m.model_copy(
            update={
                "inference": "round trip",
                "deployment": m.deployment.model_copy(update={"threads": 0}),
            }
        )
        for m in bundle.measurements
    )
    return bundle.model_copy(
        update={
            "variants": tuple(map(changed, bundle.variants)),
            "recommendations": answers,
            "measurements": runs,
            "bench": (),
        }
    )


def test_a_server_is_named_by_its_command(bundle: Bundle) -> None:
    """No model file, no threads of ours, no quality; the command in every format."""
    server = as_server(bundle)
    printed = terminal.recommendation_text(server)
    assert f"command {COMMAND_LINE}" in printed
    assert "thread" not in printed.split("rejected")[0]
    text = markdown.render(server, {})
    assert "Command" in text
    assert "Model files" not in text
    assert "Quality on" not in text
    assert COMMAND_LINE in html.render(server)


def test_a_server_does_not_tell_its_service_time(bundle: Bundle) -> None:
    """The column of the time inside the replica is empty; the round trip has one of its own."""
    text = markdown.render(as_server(bundle), {})
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    header = next(line for line in lines if "Model p50 (ms)" in line)
    columns = [cell.strip() for cell in header.split("|")]
    row = [cell.strip() for cell in lines[lines.index(header) + 1].split("|")]
    assert row[columns.index("Model p50 (ms)")] == "-"
    assert row[columns.index("Paced p50 (ms)")] != "-"


def test_fidelity_is_not_called_quality(bundle: Bundle) -> None:
    """A model without labels is held against its original, and the report says so."""
    variants = tuple(
        v.model_copy(update={"quality": Quality(n_rows=64, reproduced=0.998)})
        for v in bundle.variants
    )
    info = bundle.info.model_copy(update={"metric": "reproduced", "max_loss": 0.05})
    text = markdown.render(bundle.model_copy(update={"variants": variants, "info": info}), {})
    assert "Fidelity on 64 generated rows" in text
    assert "no measure of quality" in text
    assert "Quality on" not in text
    assert "AUC" not in text
