"""``tonnage run``: a study, a model of your own, or a server of your own, to a plan."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from planner.records import Recommendation
from reports.terminal import recommendation_text
from serving.errors import BadInput
from tonnage import own_options as own
from tonnage.config import load_study
from tonnage.durations import seconds_of
from tonnage.run_folder import RunFolder
from tonnage.study import StudyRun

Quick = Annotated[bool, typer.Option("--quick", help="a smoke version in about a minute")]
Budget = Annotated[str | None, typer.Option("--time-budget", help="such as 5m or 90s")]
Fresh = Annotated[bool, typer.Option("--fresh", help="do not resume an interrupted run")]
Runs = Annotated[Path, typer.Option("--runs", help="folder that holds the runs")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]


def run(
    study: Annotated[
        str | None, typer.Argument(help="a study; or give --model or --cmd instead")
    ] = None,
    model: own.Model = None,
    cmd: own.Cmd = None,
    rate: own.Rate = None,
    p99: own.P99 = None,
    batch: own.Batch = 1,
    instance: own.Instances = None,
    input_: own.Input = None,
    payload: own.Payload = None,
    allow_pickle_sha256: own.PickleHash = None,
    request: own.Request = None,
    url: own.Url = "/",
    method: own.Method = "POST",
    header: own.Header = None,
    check: own.CheckOption = None,
    health: own.Health = None,
    port: own.Port = None,
    start_timeout: own.StartTimeout = "60s",
    locustfile: own.Locustfile = None,
    name: own.Name = None,
    seed: own.Seed = 0,
    quick: Quick = False,
    time_budget: Budget = None,
    fresh: Fresh = False,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Run a study, or size a model (--model) or a server (--cmd) of your own."""
    if sum(given is not None for given in (study, model, cmd)) != 1:
        raise BadInput("run: give one of a study, --model FILE, and --cmd COMMAND")
    own_things = {"--rate": rate, "--p99": p99, "--instance": instance, "--name": name}
    of_model = {
        "--input": input_, "--payload": payload, "--allow-pickle-sha256": allow_pickle_sha256,
    }  # fmt: skip
    of_server = {
        "--request": request, "--header": header, "--check": check, "--health": health,
        "--port": port, "--locustfile": locustfile,
    }  # fmt: skip
    if study is not None:
        _only_with("--model and --cmd; a study says it in its profiles", own_things)
    if model is None:
        _only_with("--model", of_model)
    if cmd is None:
        _only_with("--cmd", of_server)
    budget = None if time_budget is None else seconds_of(time_budget, "--time-budget")
    if study is not None:
        made = study_run(study, quick, time_budget, fresh, runs)
    elif model is not None:
        made = own.model_run(
            model,
            own.asked_of(rate, p99, batch, instance, name, seed),
            inputs=input_,
            payload=payload,
            allow_pickle_sha256=allow_pickle_sha256,
            quick=quick,
            budget_s=budget,
        )
        into_folder(made, fresh, runs)
    else:
        server = own.server_of(
            cmd=cmd or "",
            request=request,
            url=url,
            method=method,
            header=header,
            check=check,
            health=health,
            port=port,
            start_timeout=start_timeout,
            locustfile=locustfile,
        )
        asked = own.asked_of(rate, p99, batch, instance, name, seed)
        made = own.server_run(server, asked, quick=quick, budget_s=budget)
        into_folder(made, fresh, runs)
    for warning in made.run():
        warn(warning)
    print_answers(made.folder, json)


def _only_with(what: str, options: Mapping[str, object]) -> None:
    """BadInput for an option that would be ignored without a word."""
    for option, value in options.items():
        if value is not None:
            raise BadInput(f"{option} belongs to {what}")


def study_run(
    argument: str,
    quick: bool,
    time_budget: str | None,
    fresh: bool,
    runs: Path,
    until: str = "plan",
) -> StudyRun:
    """The run of a study by name or file: an interrupted one, or a new one."""
    config, path = load_study(argument)
    budget = None if time_budget is None else seconds_of(time_budget, "--time-budget")
    made = StudyRun(config, path, RunFolder(Path()), quick=quick, budget_s=budget, until=until)
    return into_folder(made, fresh, runs)


def into_folder(made: StudyRun, fresh: bool, runs: Path) -> StudyRun:
    """Check all that the run names, then give it an interrupted run's folder, or a new one."""
    made.check()
    name = made.study.name
    earlier = None if fresh else RunFolder.unfinished(runs, name, made.config_hash)
    made.folder = earlier or RunFolder.create(runs, name)
    made.folder.lock()
    return made


def print_answers(folder: RunFolder, json: bool) -> None:
    """Print what a run recommends, and exit with 1 where nothing holds."""
    bundle = folder.bundle()
    if json:
        sys.stdout.write((folder.path / "report.json").read_text())
    else:
        sys.stdout.write(recommendation_text(bundle, str(folder.path / "report.html")))
    exit_for(bundle.recommendations)


def exit_for(answers: Any) -> None:
    """Exit code 1 when a demand has no answer."""
    recommendations: list[Recommendation] = list(answers)
    if any(answer.best is None for answer in recommendations):
        raise typer.Exit(1)


def warn(text: str) -> None:
    """A line on stderr that does not end the run."""
    sys.stderr.write(f"warning: {text}\n")
