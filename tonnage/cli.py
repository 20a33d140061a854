"""The command line: one short function a verb. Progress on stderr, result on stdout.

Exit codes: 0 fine; 1 no candidate holds, or a claim does not; 2 bad usage or input;
3 measurement invalid; 4 infrastructure; 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from reports.doctor import doctor_text
from reports.terminal import recommendation_text
from reports.write import write_reports
from serving.build import build_variants
from serving.errors import BadInput, TonnageError
from serving.instances import load_instances, resolve
from serving.model_store import store_folder
from serving.records import Deployment, Record
from tonnage import own_options as own
from tonnage.cli_calibrate import calibrate_command
from tonnage.cli_common import (
    Budget,
    Fresh,
    Json,
    Quick,
    RunArgument,
    Runs,
    StudyArgument,
    dump,
    into_folder,
    log_file,
    note,
    print_result,
    study_run,
    warn,
)
from tonnage.cli_confirm import confirm as confirm_command
from tonnage.cli_confirm import prove_too
from tonnage.cli_measure import measure
from tonnage.cli_plan import exit_for, plan_command
from tonnage.config import beside, load_study, shipped
from tonnage.doctor import examine
from tonnage.durations import seconds_of
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How much load does your model server carry, and can you prove it?",
)

_REPORT_S = 3.0
"""For the progress bar."""


@app.command()
def run(
    study: Annotated[
        str | None, typer.Argument(help="a study; or give --model or --cmd instead")
    ] = None,
    model: own.Model = None,
    cmd: own.Cmd = None,
    rate: own.Rate = None,
    p99: own.P99 = None,
    batch: own.Batch = None,
    instance: own.Instances = None,
    input_: own.Input = None,
    payload: own.Payload = None,
    allow_pickle_sha256: own.PickleHash = None,
    request: own.Request = None,
    url: own.Url = None,
    method: own.Method = None,
    header: own.Header = None,
    check: own.CheckOption = None,
    health: own.Health = None,
    port: own.Port = None,
    start_timeout: own.StartTimeout = None,
    locustfile: own.Locustfile = None,
    name: own.Name = None,
    seed: own.Seed = None,
    quick: Quick = False,
    time_budget: Budget = None,
    fresh: Fresh = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="also prove what is recommended: minutes more")
    ] = False,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Run a study, or size a model (--model) or a server (--cmd) of your own."""
    if sum(given is not None for given in (study, model, cmd)) != 1:
        raise BadInput("run: give one of a study, --model FILE, and --cmd COMMAND")
    if study is not None:
        own.only_with(
            "--model and --cmd; a study says it in its profiles",
            {
                "--rate": rate,
                "--p99": p99,
                "--instance": instance,
                "--name": name,
                "--seed": seed,
            },
        )
    if model is None:
        own.only_with(
            "--model",
            {
                "--input": input_,
                "--payload": payload,
                "--allow-pickle-sha256": allow_pickle_sha256,
                "--batch": batch,
            },
        )
    if cmd is None:
        own.only_with(
            "--cmd",
            {
                "--request": request,
                "--url": url,
                "--method": method,
                "--start-timeout": start_timeout,
                "--header": header,
                "--check": check,
                "--health": health,
                "--port": port,
                "--locustfile": locustfile,
            },
        )
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
    began = time.monotonic()
    for warning in made.run():
        warn(warning)
    left_s = None if budget is None else budget - (time.monotonic() - began)
    proven = True
    if confirm and json:  # one document, which has the claims in it
        proven = prove_too(made, left_s, json)
    _print_answers(made.folder, json, prove=not confirm)
    if confirm and not json:
        proven = prove_too(made, left_s, json)
    exit_for(made.folder.bundle().recommendations)
    if not proven:
        raise typer.Exit(1)


@app.command()
def build(study: StudyArgument, runs: Runs = Path("runs"), json: Json = False) -> None:
    """Build a study's variants, with their quality and parity."""
    made = study_run(study, False, None, True, runs, until="build")
    made.run()
    _print_records(made.folder.bundle().variants, json)


@app.command()
def bench(
    study: StudyArgument, quick: Quick = False, runs: Runs = Path("runs"), json: Json = False
) -> None:
    """Measure a study's variants in process: no server, no network."""
    made = study_run(study, quick, None, True, runs, until="bench")
    made.run()
    _print_records(made.folder.bundle().bench, json)


app.command()(measure)
app.command("calibrate")(calibrate_command)
app.command("confirm")(confirm_command)
app.command("plan")(plan_command)


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
    print_result(paths, "\n".join(paths), json)


@app.command()
def export(
    run_folder: RunArgument,
    to: Annotated[str, typer.Option("--to", help="rayserve, k8s or compose")],
    profile: Annotated[str | None, typer.Option("--profile", help="default: the first")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="default: inside the run")] = None,
    json: Json = False,
) -> None:
    """Write what deploys a recommendation elsewhere, and what of it could not be carried."""
    from reports.export.carried import export_text
    from reports.export.proven import Proven
    from reports.export.write import write_export

    folder = RunFolder.existing(run_folder)
    config, path = load_study(str(folder.path / "study.toml"))
    catalogue = load_instances(beside(path, config.plan.instances))
    proven = Proven.of(folder.bundle(), profile, catalogue)
    target = out or folder.path / "export" / f"{to}-{proven.demand.name}"
    made = write_export(proven, to, store_folder() / proven.source, target)
    facts = {"folder": str(target), "profile": proven.demand.name, "files": list(made.files)}
    missing = {part.value: why for part, why in made.missing.items()}
    text = f"{proven.demand.title}: {export_text(made, str(target)).rstrip()}"
    print_result({**facts, "not_carried": missing}, text, json)


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
    max_batch: Annotated[
        int, typer.Option(min=1, max=1024, help="waiting requests that one call may answer")
    ] = 1,
    batch_wait: Annotated[
        str | None, typer.Option(help="how long a call waits for others, such as 2ms")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
) -> None:
    """Serve a workload's variants over the Open Inference Protocol until interrupted."""
    from serving.batcher import check_batches
    from serving.ray_host.client import RayHost
    from serving.workloads import find_workload

    config, _ = load_study(workload)
    catalogue = load_instances(shipped("instances.toml"))
    size = resolve(instance, catalogue)
    found = find_workload(config.workload, config.data.length)
    names = tuple(variant or config.variants)
    wait_s = 0.0 if batch_wait is None else seconds_of(batch_wait, "--batch-wait")
    host = RayHost(log_file("serve"), port=port, overlap=True)
    if host.tree is None and size.enforcement == "quota" and not size.is_container:
        warn(f"{size.label} is not enforced: this host denies control groups; it gets a whole CPU")
    note("building")
    data = found.load(config.data.source, config.seed)
    built = build_variants(
        found,
        names,
        data,
        seed=config.seed,
        max_loss=config.quality.max_loss,
    )
    for one in (v for v in built if v.name in names):
        check_batches(one, max_batch)
    note("starting Ray Serve and HAProxy")
    with host:
        for one in (v for v in built if v.name in names):
            deployment = Deployment(
                variant=one,
                instance=size,
                threads=threads,
                replicas=replicas,
                max_batch=max_batch,
                batch_wait_ms=1e3 * wait_s,
            )
            endpoint = host.deploy(deployment)
            sys.stdout.write(f"{endpoint.url}/v2/models/{endpoint.model_name}\n")
        host.deploy_front()
        sys.stdout.flush()
        by = "what is around it, shared with ingress" if size.is_container else host.enforcement
        note(f"ready: {size.label}, enforced by {by}; Ctrl-C ends it")
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
    print_result(found.model_dump(mode="json"), doctor_text(found).rstrip(), json)


def _print_answers(folder: RunFolder, json: bool, *, prove: bool) -> None:
    bundle = folder.bundle()
    if json:
        sys.stdout.write((folder.path / "report.json").read_text())
        return
    report = str(folder.path / "report.html")
    sys.stdout.write(recommendation_text(bundle, report, prove=str(folder.path) if prove else None))


def _print_records(records: Any, json: bool) -> None:
    rows: list[Record] = list(records)
    if json:
        sys.stdout.write(dump([row.model_dump(mode="json") for row in rows]))
    else:
        sys.stdout.write("\n".join(row.model_dump_json() for row in rows) + "\n")


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
        sys.stderr.write(
            f"tonnage: {error.name} is missing; one of the extras brings it: pip install "
            "'tonnage[credit,vision,text,openvino,dev]'\n"
        )
        code = 2
    except Exception as error:  # the last resort: a usage error of click's, or our own defect
        code = 2
        if hasattr(error, "format_message"):  # click's usage errors have it
            sys.stderr.write(f"tonnage: {error.format_message()}\n")
        else:  # a defect of ours: say where, and not with the code of a missed objective
            traceback.print_exc()
            code = 4
    if code == _INTERRUPTED:
        sys.stderr.write("tonnage: interrupted; run the same command again to go on\n")
    sys.exit(code or 0)
