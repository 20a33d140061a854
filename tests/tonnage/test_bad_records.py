"""A run whose records do not belong together, or cannot be read, is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from serving.errors import BadInput
from serving.records import Environment
from tonnage.config import load_study
from tonnage.planning import plan, study_demands
from tonnage.run_folder import RunFolder

PUBLISHED = Path(__file__).parents[2] / "reports" / "published" / "credit" / "report.json"
Runs = Callable[..., RunFolder]
Edit = Callable[[Path], object]

OTHER_ENVIRONMENT = "0123456789ab"


def planned(folder: RunFolder) -> list[str]:
    """Plan as the command line does; the warnings."""
    study, path = load_study(str(folder.path / "study.toml"))
    return plan(folder, study, path, study_demands(study, path))[2]


def replaced(name: str, old: str, new: str, times: int = -1) -> Edit:
    def edit(path: Path) -> None:
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new, times))

    return edit


def written(name: str, data: bytes) -> Edit:
    return lambda path: (path / name).write_bytes(data)


def strange(times: int) -> Edit:
    """So many measurements of another environment."""

    def edit(path: Path) -> None:
        folder = RunFolder(path)
        own = folder.measurements()
        made = [
            m.model_copy(update={"environment": OTHER_ENVIRONMENT}) if n < times else m
            for n, m in enumerate(own)
        ]
        folder.write_lines("measurements.jsonl", made)

    return edit


EDITS = {
    "an empty record file": (written("measurements.jsonl", b""), "holds no measurements"),
    "no text": (written("measurements.jsonl", b"\xff\xfe\x00"), "not text from byte 0 on"),
    "an empty study.json": (written("study.json", b" \n"), "study.json: is empty"),
    "one environment among another's": (strange(1), f"of another environment ({OTHER_ENVIRONMENT}"),
    "another environment throughout": (strange(99), f"of another environment ({OTHER_ENVIRONMENT}"),
    "a newer schema": (
        replaced("measurements.jsonl", '"schema_version":1', '"schema_version":2', 1),
        "measurements.jsonl:1: written by a Tonnage of schema version 2, and this one reads 1",
    ),
    "an older schema in one part": (
        replaced("recommendations.jsonl", '"schema_version":1', '"schema_version":0', 1),
        "recommendations.jsonl:1: written by a Tonnage of schema version 0",
    ),
    "no variants": (written("variants.jsonl", b""), "measurements of 'stub', which variants.jsonl"),
}


@pytest.mark.parametrize(("edit", "says"), EDITS.values(), ids=EDITS)
def test_such_records_are_refused(stub_run: Runs, edit: Edit, says: str) -> None:
    """The line names what is wrong and what to do."""
    folder = stub_run()
    edit(folder.path)
    with pytest.raises(BadInput) as refused:
        planned(folder)
    assert says in str(refused.value)
    assert any(word in str(refused.value) for word in ("again", "put back", "study first"))


def test_variants_of_another_file_are_refused(stub_run: Runs) -> None:
    """Figures of one model file say nothing of another, whatever both are called."""
    folder = stub_run()
    (variant,) = folder.bundle().variants
    folder.write_lines("variants.jsonl", [variant.model_copy(update={"sha256": "0" * 64})])
    with pytest.raises(BadInput, match="'stub' was measured with another model file"):
        planned(folder)


def test_blank_lines_are_no_records(stub_run: Runs) -> None:
    """An editor that ends a file with an empty line does no harm."""
    folder = stub_run()
    with (folder.path / "measurements.jsonl").open("a") as stream:
        stream.write("\n")
    planned(folder)


def test_a_run_without_prices_says_so(
    stub_run: Runs, tonnage: Callable[..., CompletedProcess[str]]
) -> None:
    """A warning names the file; the answer is on this host's own sizes, with exit code 0."""
    folder = stub_run(prices=False)
    done = tonnage("plan", folder.path, "--profile", "steady")
    assert done.returncode == 0, done.stderr
    assert f"warning: {folder.path}/prices.toml holds no price" in done.stderr
    assert "host vCPU: no price [refused]" in done.stdout


def test_prices_of_the_run_that_are_gone_are_missed(stub_run: Runs) -> None:
    """It is planned with the shipped ones, and a warning says so."""
    folder = stub_run()
    assert not any("is gone" in warning for warning in planned(folder))
    (folder.path / "prices.toml").unlink()
    first, *_ = planned(folder)
    assert first.startswith(f"{folder.path}/prices.toml is gone; prices are those of ")


def test_a_rate_beyond_any_number_of_replicas_is_an_answer(
    stub_run: Runs, tonnage: Callable[..., CompletedProcess[str]]
) -> None:
    """However high it is: what binds, and the rate that works."""
    done = tonnage("plan", stub_run().path, "--profile", "steady", "--rate", "1e30")
    assert done.returncode == 1, done.stderr
    assert "bound by rate alone" in done.stdout


def test_records_of_earlier_code_still_belong_together() -> None:
    """What a record gained since does not change the hash that its measurements name it by."""
    records = json.loads(PUBLISHED.read_text())["records"]
    named = {one["environment"] for one in records["measurements"]}
    assert named == {Environment.model_validate(records["environment"]).content_hash()}
