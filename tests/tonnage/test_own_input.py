"""Bad input to ``tonnage run --model`` and ``--cmd``: one line, exit code 2, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from serving.errors import BadInput
from tonnage.cli import app
from tonnage.own_options import asked_of, server_of
from tonnage.own_study import study_name, write_study

Tonnage = Callable[..., CompletedProcess[str]]

IGNORED = {
    "--batch of a server": ["--cmd", "true {port}", "--batch", "8"],
    "--batch": ["credit", "--batch", "8"],
    "--seed": ["credit", "--seed", "8"],
    "--url": ["--model", "m.onnx", "--url", "/predict"],
    "--method": ["--model", "m.onnx", "--method", "GET"],
    "--start-timeout": ["credit", "--start-timeout", "9s"],
}


@pytest.mark.parametrize("arguments", IGNORED.values(), ids=IGNORED)
def test_an_option_without_effect_is_refused(arguments: list[str]) -> None:
    """What would be ignored without a word is named; a server's rows are in its bodies."""
    with pytest.raises(BadInput, match=f"{arguments[-2]} belongs to"):
        app(["run", *arguments], standalone_mode=False)


DEMAND = ["--rate", "5", "--p99", "50ms"]
COMMANDS = {
    "nothing": ([], "one of a study"),
    "two things": (["credit", "--model", "m.onnx", *DEMAND], "one of a study"),
    "no demand": (["--model", "m.onnx"], "--rate"),
    "no limit": (["--cmd", "true {port}", "--method", "GET", "--rate", "5"], "--p99"),
    "rate of a study": (["credit", "--rate", "5"], "--rate belongs to --model"),
    "request of a model": (["--model", "m", "--request", "b"], "--request belongs to --cmd"),
    "input of a server": (["--cmd", "x", "--input", "a=1"], "--input belongs to --model"),
    "absent model": (["--model", "m.onnx", *DEMAND], "m.onnx: no such file"),
    "bad input": (["--model", "m.onnx", "--input", "x", *DEMAND], "--input 'x'"),
    "no body": (["--cmd", "true {port}", *DEMAND], "--request FILE"),
    "absent body": (["--cmd", "true {port}", "--request", "b", *DEMAND], "--request b"),
    "tasks and a body": (
        ["--cmd", "true {port}", "--locustfile", __file__, "--check", "200", *DEMAND],
        "leave out --request",
    ),
    "no port": (["--cmd", "true", "--method", "GET", *DEMAND], "{port}"),
    "no program": (["--cmd", "no-such {port}", "--method", "GET", *DEMAND], "no-such"),
    "a shell": (["--cmd", "'open {port}", "--method", "GET", *DEMAND], "no shell"),
    "bad name": (
        ["--cmd", "true {port}", "--method", "GET", "--name", "A b", *DEMAND],
        "--name A b",
    ),
    "bad size": (
        ["--cmd", "true {port}", "--method", "GET", "--instance", "sim-9", *DEMAND],
        "sim-9",
    ),
    "it exits": (
        ["--cmd", "false {port}", "--method", "GET", "--instance", "sim-1", *DEMAND],
        "exit code 1",
    ),
}


@pytest.mark.parametrize(("arguments", "says"), COMMANDS.values(), ids=COMMANDS)
def test_what_cannot_be_run_is_one_line(
    tonnage: Tonnage, tmp_path: Path, arguments: list[str], says: str
) -> None:
    """The line names the option and what to change; nothing is planned."""
    done = tonnage("run", *arguments)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("tonnage: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/**/report.*"))


def test_a_study_is_written_as_it_is_asked(tmp_path: Path) -> None:
    """Rate, limit, sizes and seed come back from the files, whatever the title holds."""
    asked = asked_of(12.5, "20ms", 4, ["sim-0.5"], None, 3)
    study, path = write_study(
        tmp_path, asked, name="own", title='a "model"\nof é', source="abc", variants=["original"],
        batches=[1, 4], max_loss=0.05,
    )  # fmt: skip
    assert study.seed == 3
    assert study.measure.batches == (4,)
    assert study.measure.reference.instance == "sim-0.5"
    assert study.quality.max_loss == 0.05
    assert study.title == 'a "model" of é'
    text = (path.parent / "profiles.toml").read_text()
    assert "rate_rps = 12.5" in text
    assert "limit_ms = 20.0" in text


def test_names_are_made_of_what_is_there() -> None:
    """A file's name becomes one that folders and models can have."""
    assert study_name(None, "My Model.v2") == "my_model_v2"
    assert study_name(None, "???") == "own"
    assert study_name("mine-1", "other") == "mine-1"


def test_a_server_knows_its_question(tmp_path: Path) -> None:
    """Another body, path or check is another question; content types follow the file."""
    for name in ("a.json", "b.json", "c.bin"):
        (tmp_path / name).write_text(f'"{name}"')

    def asked(name: str = "a.json", url: str = "/predict", **more: object) -> str:
        options: dict[str, object] = {
            "cmd": "true {port}", "request": [tmp_path / name], "url": url, "method": "post",
            "header": None, "check": None, "health": None, "port": None, "start_timeout": "5s",
            "locustfile": None, **more,
        }  # fmt: skip
        return server_of(**options).fingerprint()  # type: ignore[arg-type]

    different = {asked(), asked("b.json"), asked(url="/x"), asked(check=["cat"])}
    assert len(different | {asked()}) == 4
    json_call = server_of(
        cmd="true {port}", request=[tmp_path / "a.json"], url="/", method="POST", header=None,
        check=None, health="/up", port=None, start_timeout="5s", locustfile=None,
    ).call  # fmt: skip
    assert json_call.headers == {"Content-Type": "application/json"}
    assert json_call.warm_path == "/up"
    with pytest.raises(BadInput, match="--url predict"):
        asked(url="predict")
