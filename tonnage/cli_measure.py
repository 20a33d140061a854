"""The verb ``tonnage measure``: a study's deployments, one of them, or any V2 server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from loadtests.objective import Verdict
from loadtests.tls import Identity
from reports.unjudged import of_study as not_judged
from serving.errors import BadInput
from serving.records import Endpoint
from serving.wishes import parse_wish
from tonnage.cli_cells import beyond_a_cell, but_for_time, one_more, what_the_plan_lacks
from tonnage.cli_common import (
    Budget,
    Fresh,
    Json,
    Quick,
    log_file,
    note,
    print_result,
    study_run,
)
from tonnage.config import load_study
from tonnage.durations import seconds_of
from tonnage.load import Options, load_of, parse_headers
from tonnage.own_options import Input, only_with
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder

_BUDGET = 50_000  # requests of a search
_LOCUST_S = 3.0  # that starting it takes, for the progress bar


def measure(
    study: Annotated[
        str | None, typer.Argument(help="a study, or a run; or give --endpoint")
    ] = None,
    quick: Quick = False,
    time_budget: Budget = None,
    fresh: Fresh = False,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="folder that holds the runs; default: runs")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="only this variant, under a load")] = None,
    instance: Annotated[
        str | None, typer.Option(help="what it is deployed on; default: sim-1")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="default: 1")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="default: 1")] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="waiting requests that one call may answer; default: 1"),
    ] = None,
    batch_wait: Annotated[
        str | None, typer.Option(help="how long a call waits for others, such as 2ms")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="any V2 server: http://host:port")] = None,
    model: Annotated[str | None, typer.Option(help="its model")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Poisson arrivals, requests per second")
    ] = None,
    users: Annotated[int | None, typer.Option(help="closed loop instead of a rate")] = None,
    arrivals: Annotated[
        str | None, typer.Option(help="TOML: '{kind = \"ramp\", from_rps = 10, to_rps = 90}'")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="recorded traffic, CSV or Parquet")] = None,
    trace_columns: Annotated[
        str | None,
        typer.Option(help="its columns: due=NAME,batch=NAME; default: timestamp, and batch if any"),
    ] = None,
    time_scale: Annotated[
        float | None, typer.Option(help="0.5 plays a trace twice as fast")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="rows in a request; a mix: 1:0.7,8:0.3; default: 1")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=3, help="tokens a row, with --variant; default: the study's")
    ] = None,
    duration: Annotated[str | None, typer.Option(help="default: 10s")] = None,
    timeout: Annotated[str | None, typer.Option(help="of one request; default: 10s")] = None,
    p95: Annotated[str | None, typer.Option(help="judge this limit, such as 20ms")] = None,
    p99: Annotated[str | None, typer.Option(help="judge this limit, such as 20ms")] = None,
    confidence: Annotated[
        float | None, typer.Option(help="of a verdict on a limit; default: 0.99")
    ] = None,
    max_load: Annotated[
        bool, typer.Option("--max-load", help="search the highest rate that holds the limit")
    ] = False,
    budget: Annotated[
        int | None,
        typer.Option(help="of a search: requests in all; default: 50,000", min=1_000),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=16, help="of the generator; default: 1")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="default: 0")] = None,
    payload: Annotated[
        list[str] | None, typer.Option(help=".npz with rows by input; FILE=WEIGHT for a mix")
    ] = None,
    input_: Input = None,
    header: Annotated[list[str] | None, typer.Option(help="'name: value', repeatable")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="skip TLS checks")] = False,
    cacert: Annotated[
        Path | None, typer.Option(help="PEM file of who vouches for the server's certificate")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(help="PEM file of ours, for a server that asks who we are")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM file of its private key, where --cert has none")
    ] = None,
    json: Json = False,
) -> None:
    """Load-test a study's deployments, one of them (--variant), or any V2 server (--endpoint).

    A run's folder in the place of a study: one more cell of that run (--variant), or, one after the
    other, those that its plan names as worth measuring. It plans anew with each.
    """
    if (study is None) == (endpoint is None):
        raise BadInput("measure: give either a study, a run's folder, or --endpoint URL")
    of_study = {
        "--quick": quick or None,
        "--time-budget": time_budget,
        "--fresh": fresh or None,
        "--runs": runs,
    }
    of_load = {
        "--rate": rate,
        "--users": users,
        "--arrivals": arrivals,
        "--trace": trace,
        "--trace-columns": trace_columns,
        "--time-scale": time_scale,
        "--batch": batch,
        "--duration": duration,
        "--timeout": timeout,
        "--p95": p95,
        "--p99": p99,
        "--confidence": confidence,
        "--max-load": max_load or None,
        "--budget": budget,
        "--workers": workers,
        "--seed": seed,
        "--payload": payload,
    }
    of_deployment = {
        "--instance": instance,
        "--threads": threads,
        "--replicas": replicas,
        "--max-batch": max_batch,
        "--batch-wait": batch_wait,
        "--length": length,
    }
    of_endpoint = {
        "--model": model,
        "--input": input_,
        "--header": header,
        "--insecure": insecure or None,
        "--cacert": cacert,
        "--cert": cert,
        "--key": key,
    }
    if endpoint is None:
        only_with("--endpoint", of_endpoint)
    else:
        only_with("a deployment of ours, not to --endpoint", {"--variant": variant})
    if variant is None:
        only_with("--variant, which deploys", of_deployment)
    if length is not None and payload:
        raise BadInput("--length: the rows of --payload have their own; leave one of them out")
    if variant is not None or endpoint is not None:
        only_with("a whole study", of_study)
    else:
        only_with("a load, which needs a deployment to go to; give --variant", of_load)
    if max_load:
        only_with("a load that is given; --max-load goes by --budget", {"--duration": duration})
    else:
        only_with("--max-load", {"--budget": budget})
    if p95 is None and p99 is None:
        only_with("a limit, --p95 or --p99", {"--confidence": confidence})
    if (max_batch or 1) == 1:
        only_with("--max-batch above 1", {"--batch-wait": batch_wait})
    if study is not None and RunFolder.is_run(Path(study)):
        only_with("a load; a cell of a run has its own", beyond_a_cell(of_load, of_deployment))
        if variant is None:
            only_with("a study, which is measured as a whole", but_for_time(of_study))
            what_the_plan_lacks(Path(study), time_budget, json)
        else:
            one_more(Path(study), variant, instance, threads, batch, length, payload, json)
        return
    options = Options(
        rate=rate,
        users=users,
        arrivals=arrivals,
        trace=trace,
        trace_columns=trace_columns,
        time_scale=time_scale,
        batch=batch,
        length=length,
        payload=tuple(payload or ()),
        duration_s=10.0 if duration is None else seconds_of(duration, "--duration"),
        timeout_s=10.0 if timeout is None else seconds_of(timeout, "--timeout"),
        workers=workers or 1,
        seed=seed or 0,
        p95_ms=None if p95 is None else 1e3 * seconds_of(p95, "--p95"),
        p99_ms=None if p99 is None else 1e3 * seconds_of(p99, "--p99"),
        confidence=confidence,
    )
    if endpoint is None and variant is None:
        run_of_study = study_run(
            study or "", quick, time_budget, fresh, runs or Path("runs"), until="measure"
        )
        run_of_study.run()
        path = run_of_study.folder.path / "measurements.jsonl"
        made = run_of_study.folder.measurements()
        left = not_judged(made)
        said = [f"{len(made)} measurements in {path}", *(f"Not judged: {line}." for line in left)]
        record = {"measurements": str(path), "count": len(made), "not_judged": left}
        print_result(record, "\n".join(said), json)
        return
    # What only a load needs: judging and searching stand on scipy, which is slow to import.
    from reports.measured import max_load_text, measured_text
    from tonnage.deployment import DeploymentTest
    from tonnage.endpoint import EndpointTest

    slos = options.slos()
    if max_load and (len(slos) != 1 or options.asked()):
        raise BadInput("measure --max-load: give one limit, --p99 or --p95, and no rate")
    # The search chooses its rates itself; any will do to say the rest.
    load = load_of(replace(options, rate=1.0) if max_load else options)
    if load.trace is not None and load.cut_requests:
        note(
            f"--trace {trace}: {load.cut_requests} of its {len(load.trace.due_s)} requests fall "
            f"due after --duration {options.duration_s:g}s and are left out"
        )
    test: EndpointTest | DeploymentTest
    if endpoint is not None:
        if model is None:
            raise BadInput("measure --endpoint: name its model with --model")
        test = EndpointTest(
            endpoint=Endpoint(url=endpoint.rstrip("/"), model_name=model),
            load=load,
            headers=parse_headers(header or []),
            insecure=insecure,
            cacert=cacert,
            identity=Identity.given(cert, key),
            wishes=tuple(parse_wish(text) for text in input_ or ()),
        )
    else:
        config, study_path = load_study(study or "")
        test = DeploymentTest(
            study=config,
            study_path=study_path,
            variant=variant or "",
            instance=instance or "sim-1",
            threads=threads or 1,
            replicas=replicas or 1,
            load=load,
            max_batch=max_batch or 1,
            batch_wait_s=0.0 if batch_wait is None else seconds_of(batch_wait, "--batch-wait"),
        )
    log = log_file("measure")
    with Steps(load.run.duration_s + _LOCUST_S) as steps:
        steps.step("starting", load.run.duration_s + _LOCUST_S)
        if max_load:
            found = test.max_load(slos[0], budget or _BUDGET, log, steps.say)
        else:
            tested = test.measure(log, steps.say)
    if max_load:
        print_result(found.model_dump(mode="json"), max_load_text(found, slos[0]).rstrip(), json)
        if found.not_believed is not None:
            raise typer.Exit(3)
        raise typer.Exit(0 if found.low_rps else 1)
    print_result(tested.model_dump(mode="json"), measured_text(tested).rstrip(), json)
    failed = any(verdict.verdict == Verdict.FAILS for verdict in tested.verdicts)
    raise typer.Exit(3 if not tested.valid else 1 if failed else 0)
