"""The command line: one short function a verb. Progress on stderr, result on stdout.

Exit codes: 0 fine; 1 no candidate holds; 2 bad usage or input; 3 measurement invalid;
4 infrastructure; 130 interrupted.
"""

from __future__ import annotations

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
from reports.endpoint import endpoint_text
from reports.terminal import recommendation_text
from reports.write import write_reports
from serving import host_facts, placement
from serving.build import build_variants
from serving.cgroups import find_cgroups
from serving.errors import BadInput, TonnageError
from serving.instances import load_instances, resolve
from serving.placement import CannotBeMeasured, check_measurable
from serving.records import Deployment, Endpoint, Record
from serving.wishes import parse_wish
from tonnage.config import load_study, shipped
from tonnage.durations import seconds_of
from tonnage.endpoint import EndpointTest, log_file, measure_endpoint, parse_headers
from tonnage.own_options import Input, Payload
from tonnage.planning import changed, plan, study_demands
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder
from tonnage.run_verb import (
    Budget,
    Fresh,
    Json,
    Quick,
    Runs,
    exit_for,
    run,
    study_run,
    warn,
)

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


app.command()(run)


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
    payload: Payload = None,
    input_: Input = None,
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
            wishes=tuple(parse_wish(text) for text in input_ or ()),
            headers=parse_headers(header or []),
            insecure=insecure,
        )
        with Steps(load.duration_s + _LOCUST_S) as steps:
            steps.step(f"measuring for {duration}", load.duration_s + _LOCUST_S)
            made = measure_endpoint(test, log_file("measure"))
        _print(made.model_dump(mode="json"), endpoint_text(made).rstrip(), json)
        raise typer.Exit(0 if made.valid else 3)
    run_of_study = study_run(study or "", quick, time_budget, fresh, runs, until="measure")
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
        warn(warning)
    if json:
        sys.stdout.write(_dump([a.model_dump(mode="json") for a in answers]))
    else:
        bundle = folder.bundle().model_copy(update={"recommendations": tuple(answers)})
        sys.stdout.write(recommendation_text(bundle))
    exit_for(answers)


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
        str, typer.Option("--instance", help="such as sim-1 or sim-1:quota")
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
    if host.tree is None and size.enforcement == "quota":
        warn(f"{size.label} is not enforced: this host denies control groups; it gets a whole CPU")
    _note("building")
    data = found.load(config.data.source, config.seed)
    built = build_variants(
        found,
        names,
        data,
        seed=config.seed,
        max_loss=config.quality.max_loss,
    )
    _note("starting Ray Serve and HAProxy")
    with host:
        for one in (v for v in built if v.name in names):
            deployment = Deployment(variant=one, instance=size, threads=threads, replicas=replicas)
            endpoint = host.deploy(deployment)
            sys.stdout.write(f"{endpoint.url}/v2/models/{endpoint.model_name}\n")
        host.deploy_front()
        sys.stdout.flush()
        _note(f"ready: {size.label}, enforced by {host.enforcement}; Ctrl-C ends it")
        while host.process.alive():
            time.sleep(0.5)
        host.process.receive()  # raises with the reason


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this host can truthfully measure."""
    cores = host_facts.physical_cores()
    parts = placement.divide(cores)
    tree = find_cgroups("tonnage-doctor")
    model, flags = host_facts.cpu_info()
    enforcement = f"cgroup v{tree.version}" if tree else "CPU affinity only (no permission)"
    facts = {
        "CPU": model,
        "cores": f"{len(cores)} physical, {sum(map(len, cores))} logical",
        "instruction sets": ", ".join(flags) or "none of those that matter",
        "memory": f"{host_facts.memory_limit_gib():.1f} GiB",
        "enforcement": enforcement,
        "replica CPUs": ", ".join(map(str, parts.replica_cpus)),
        "generator and ingress CPUs": ", ".join(map(str, parts.platform_cpus)),
    }
    sizes = {}
    for name, size in load_instances(shipped("instances.toml")).items():
        if not size.is_host_size:
            continue
        if tree is None and size.enforcement == "quota":
            sizes[name] = "no: a fraction of a CPU needs control groups"
            continue
        try:
            check_measurable(size, 1, parts)
            sizes[name] = "yes"
        except CannotBeMeasured as reason:
            sizes[name] = f"no: {reason}"
    lines = [f"{key:<28}{value}" for key, value in facts.items()]
    lines += ["", "can be measured here:"] + [f"  {k:<12}{v}" for k, v in sizes.items()]
    _print({**facts, "sizes": sizes}, "\n".join(lines), json)


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
