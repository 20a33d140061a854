"""The command line: one short function a verb. Progress on stderr, result on stdout.

Exit codes: 0 fine; 1 no candidate holds; 2 bad usage or input; 3 measurement invalid;
4 infrastructure; 130 interrupted.
"""

from __future__ import annotations

import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from loadtests.records import LoadRun
from planner.records import Recommendation
from reports.doctor import doctor_text
from reports.endpoint import endpoint_text
from reports.terminal import recommendation_text
from reports.write import write_reports
from serving.build import build_variants
from serving.errors import BadInput, TonnageError
from serving.instances import load_instances, resolve
from serving.records import Deployment, Endpoint, Record
from tonnage.config import load_study, shipped
from tonnage.doctor import examine
from tonnage.endpoint import EndpointTest, log_file, measure_endpoint, parse_headers
from tonnage.planning import changed, plan, study_demands
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder
from tonnage.study import StudyRun

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How much load does your model server carry, and can you prove it?",
)

# Seconds that these take, for the progress bar.
_PLAN_S, _REPORT_S, _LOCUST_S = 5.0, 3.0, 3.0

StudyArgument = Annotated[str, typer.Argument(help="a study's TOML file, or a shipped one's name")]
RunArgument = Annotated[Path, typer.Argument(help="a run's folder, or runs/STUDY for its newest")]
Quick = Annotated[bool, typer.Option("--quick", help="a smoke version in about a minute")]
Budget = Annotated[str | None, typer.Option("--time-budget", help="such as 5m or 90s")]
Fresh = Annotated[bool, typer.Option("--fresh", help="do not resume an interrupted run")]
Runs = Annotated[Path, typer.Option("--runs", help="folder that holds the runs")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]


@app.command()
def run(
    study: StudyArgument,
    quick: Quick = False,
    time_budget: Budget = None,
    fresh: Fresh = False,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Run a study: build, bench, serve, measure, plan, report."""
    made = _study_run(study, quick, time_budget, fresh, runs)
    for warning in made.run():
        _warn(warning)
    _print_answers(made.folder, json)


@app.command()
def build(study: StudyArgument, runs: Runs = Path("runs"), json: Json = False) -> None:
    """Build a study's variants, with their quality and parity."""
    made = _study_run(study, False, None, True, runs, until="build")
    made.run()
    _print_records(made.folder.bundle().variants, json)


@app.command()
def bench(
    study: StudyArgument, quick: Quick = False, runs: Runs = Path("runs"), json: Json = False
) -> None:
    """Measure a study's variants in process: no server, no network."""
    made = _study_run(study, quick, None, True, runs, until="bench")
    made.run()
    _print_records(made.folder.bundle().bench, json)


@app.command()
def measure(
    study: Annotated[str | None, typer.Argument(help="a study; or give --endpoint")] = None,
    quick: Quick = False,
    time_budget: Budget = None,
    fresh: Fresh = False,
    runs: Runs = Path("runs"),
    endpoint: Annotated[str | None, typer.Option(help="any V2 server: http://host:port")] = None,
    model: Annotated[str | None, typer.Option(help="its model")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Poisson arrivals, requests per second")
    ] = None,
    users: Annotated[int | None, typer.Option(help="closed loop instead of a rate")] = None,
    batch: Annotated[int, typer.Option(help="rows in a request", min=1)] = 1,
    duration: Annotated[str, typer.Option(help="such as 10s")] = "10s",
    timeout: Annotated[str, typer.Option(help="of one request")] = "10s",
    workers: Annotated[int, typer.Option(min=1, max=16)] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    payload: Annotated[Path | None, typer.Option(help=".npz with rows by input name")] = None,
    header: Annotated[list[str] | None, typer.Option(help="'name: value', repeatable")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="skip TLS checks")] = False,
    json: Json = False,
) -> None:
    """Load-test a study's deployments, or with --endpoint any V2 server."""
    if (study is None) == (endpoint is None):
        raise BadInput("measure: give either a study or --endpoint URL")
    if endpoint is not None:
        if model is None:
            raise BadInput("measure --endpoint: name its model with --model")
        if (rate is None) == (users is None):
            raise BadInput("measure --endpoint: give either --rate or --users")
        if not 0 < (rate or users or 0) < float("inf"):
            raise BadInput(f"{'--rate' if users is None else '--users'}: must be positive")
        load = LoadRun(
            mode="closed" if rate is None else "open",
            batch=batch,
            duration_s=seconds_of(duration, "--duration"),
            timeout_s=seconds_of(timeout, "--timeout"),
            users=users,
            rate_rps=rate,
            workers=workers,
            seed=seed,
        )
        test = EndpointTest(
            endpoint=Endpoint(url=endpoint.rstrip("/"), model_name=model),
            run=load,
            payload=payload,
            headers=parse_headers(header or []),
            insecure=insecure,
        )
        with Steps(load.duration_s + _LOCUST_S) as steps:
            steps.step(f"measuring for {duration}", load.duration_s + _LOCUST_S)
            made = measure_endpoint(test, log_file("measure"))
        _print(made.model_dump(mode="json"), endpoint_text(made).rstrip(), json)
        raise typer.Exit(0 if made.valid else 3)
    run_of_study = _study_run(study or "", quick, time_budget, fresh, runs, until="measure")
    run_of_study.run()
    path = run_of_study.folder.path / "measurements.jsonl"
    count = len(run_of_study.folder.measurements())
    _print({"measurements": str(path), "count": count}, f"{count} measurements in {path}", json)


@app.command("plan")
def plan_command(
    run_folder: RunArgument,
    study: Annotated[str | None, typer.Option("--study", help="default: the run's own")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="only this profile")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="requests per second")] = None,
    p99: Annotated[str | None, typer.Option("--p99", help="such as 20ms")] = None,
    price_file: Annotated[Path | None, typer.Option("--price-file")] = None,
    json: Json = False,
) -> None:
    """Plan again from a run's records: other rates, other limits, other prices."""
    folder = RunFolder.existing(run_folder)
    config, path = load_study(study or str(folder.path / "study.toml"))
    limit = None if p99 is None else 1e3 * seconds_of(p99, "--p99")
    demands = changed(study_demands(config, path), profile, rate, limit)
    with Steps(_PLAN_S) as steps:
        steps.step("planning", _PLAN_S)
        _, _, answers, warnings = plan(folder, config, path, demands, price_file)
    for warning in warnings:
        _warn(warning)
    if json:
        sys.stdout.write(_dump([a.model_dump(mode="json") for a in answers]))
    else:
        bundle = folder.bundle().model_copy(update={"recommendations": tuple(answers)})
        sys.stdout.write(recommendation_text(bundle))
    _exit_for(answers)


@app.command()
def report(
    run_folder: RunArgument,
    picture: Annotated[bool, typer.Option("--picture", help="also latency.svg")] = False,
    json: Json = False,
) -> None:
    """Write report.md, report.html and report.json of a run again."""
    folder = RunFolder.existing(run_folder)
    with Steps(_REPORT_S) as steps:
        steps.step("writing the reports", _REPORT_S)
        paths = [str(p) for p in write_reports(folder.path, picture=picture)]
    _print(paths, "\n".join(paths), json)


@app.command()
def serve(
    workload: Annotated[str, typer.Argument(help="a shipped study, such as credit")],
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="may be repeated; default: all")
    ] = None,
    instance: Annotated[
        str, typer.Option("--instance", help="such as sim-1, sim-1:quota or container")
    ] = "sim-1",
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    replicas: Annotated[int, typer.Option("--replicas", min=1)] = 1,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
) -> None:
    """Serve a workload's variants over the Open Inference Protocol until interrupted."""
    from serving.ray_host.client import RayHost
    from serving.workloads import find_workload

    config, _ = load_study(workload)
    catalogue = load_instances(shipped("instances.toml"))
    size = resolve(instance, catalogue)
    found = find_workload(config.workload)
    names = tuple(variant or config.variants)
    host = RayHost(log_file("serve"), port=port, overlap=True)
    if host.tree is None and size.enforcement == "quota" and not size.is_container:
        _warn(f"{size.label} is not enforced: this host denies control groups; it gets a whole CPU")
    _note("building")
    data = found.load(config.data.source, config.seed)
    built = build_variants(
        found,
        names,
        data,
        seed=config.seed,
        max_auc_loss=config.quality.max_auc_loss,
    )
    _note("starting Ray Serve and HAProxy")
    with host:
        for one in (v for v in built if v.name in names):
            deployment = Deployment(variant=one, instance=size, threads=threads, replicas=replicas)
            endpoint = host.deploy(deployment)
            sys.stdout.write(f"{endpoint.url}/v2/models/{endpoint.model_name}\n")
        host.deploy_front()
        sys.stdout.flush()
        by = "what is around it, shared with ingress" if size.is_container else host.enforcement
        _note(f"ready: {size.label}, enforced by {by}; Ctrl-C ends it")
        while host.process.alive():
            time.sleep(0.5)
        host.process.receive()  # raises with the reason


@app.command()
def doctor(
    probe: Annotated[
        bool, typer.Option("--probe", help="also try out what is enforced: burns CPU for 3 s")
    ] = False,
    json: Json = False,
) -> None:
    """Say what this host can truthfully measure, and what to change for the rest."""
    found = examine(probe=probe)
    _print(found.model_dump(mode="json"), doctor_text(found).rstrip(), json)


def _study_run(
    argument: str,
    quick: bool,
    time_budget: str | None,
    fresh: bool,
    runs: Path,
    until: str = "plan",
) -> StudyRun:
    config, path = load_study(argument)
    budget = None if time_budget is None else seconds_of(time_budget, "--time-budget")
    made = StudyRun(config, path, RunFolder(Path()), quick=quick, budget_s=budget, until=until)
    made.check()
    earlier = None if fresh else RunFolder.unfinished(runs, config.name, made.config_hash)
    made.folder = earlier or RunFolder.create(runs, config.name)
    made.folder.lock()
    return made


def seconds_of(text: str, option: str) -> float:
    """Seconds in ``90s``, ``5m``, ``1.5h`` or ``20ms``; BadInput for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)", text.strip())
    if not match or float(match[1]) == 0:
        raise BadInput(f"{option} {text}: give a duration such as 20ms, 90s or 5m")
    return float(match[1]) * {"ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def _print_answers(folder: RunFolder, json: bool) -> None:
    bundle = folder.bundle()
    if json:
        sys.stdout.write((folder.path / "report.json").read_text())
    else:
        sys.stdout.write(recommendation_text(bundle, str(folder.path / "report.html")))
    _exit_for(bundle.recommendations)


def _exit_for(answers: Any) -> None:
    recommendations: list[Recommendation] = list(answers)
    if any(answer.best is None for answer in recommendations):
        raise typer.Exit(1)


def _print_records(records: Any, json: bool) -> None:
    rows: list[Record] = list(records)
    if json:
        sys.stdout.write(_dump([row.model_dump(mode="json") for row in rows]))
    else:
        sys.stdout.write("\n".join(row.model_dump_json() for row in rows) + "\n")


def _print(value: Any, text: str, json: bool) -> None:
    sys.stdout.write(_dump(value) if json else text + "\n")


def _dump(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


_INTERRUPTED = 130


def main(command: Callable[..., Any] = app) -> None:
    """Run the command line; every expected failure ends in one line and its exit code."""
    # kill must end like Ctrl-C: through the context managers that clean up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Outside of its standalone mode, typer returns the code of an Exit, 130 for Ctrl-C.
        code = command(standalone_mode=False)
    except TonnageError as error:
        sys.stderr.write(f"tonnage: {error}\n")
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except ModuleNotFoundError as error:
        sys.stderr.write(f"tonnage: {error.name} is missing; pip install 'tonnage[credit]'\n")
        code = 2
    except Exception as error:
        code = 2
        if hasattr(error, "format_message"):  # click's usage errors have it
            sys.stderr.write(f"tonnage: {error.format_message()}\n")
        else:  # a defect of ours: say where, and not with the code of a missed objective
            traceback.print_exc()
            code = 4
    if code == _INTERRUPTED:
        sys.stderr.write("tonnage: interrupted; run the same command again to go on\n")
    sys.exit(code or 0)
