"""The verb ``tonnage confirm``: prove what a run recommends, or a claim against a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtests.tls import Identity
from planner.claim import Claim
from serving.errors import BadInput
from serving.records import Endpoint
from tonnage.cli_common import Json, dump, log_file, note, print_result
from tonnage.config import load_study
from tonnage.durations import seconds_of
from tonnage.load import parse_headers
from tonnage.own_options import only_with
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder
from tonnage.stage import Stage, stage_of
from tonnage.study import StudyRun

_DEPLOYMENTS = 3
_LEAST_S = 60.0  # in which a profile can be proven at all: three deployments and a start


def confirm(
    run: Annotated[
        Path, typer.Argument(help="a run's folder, runs/STUDY for its newest, or a claim's file")
    ],
    profile: Annotated[
        str | None, typer.Option("--profile", help="default: every one that has a plan")
    ] = None,
    deployments: Annotated[
        int, typer.Option("--deployments", min=_DEPLOYMENTS, help="redeployments at least")
    ] = _DEPLOYMENTS,
    requests: Annotated[
        int | None, typer.Option("--requests", min=100, help="of each; default: enough")
    ] = None,
    duration: Annotated[str | None, typer.Option("--duration", help="of each, such as 30s")] = None,
    no_kill: Annotated[bool, typer.Option("--no-kill", help="kill no replica half-way")] = False,
    this_host: Annotated[
        bool, typer.Option("--this-host", help="the best plan on this host's own sizes")
    ] = False,
    time_budget: Annotated[
        str, typer.Option("--time-budget", help="of a profile; undecided runs go on within it")
    ] = "10m",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="repeat what was run; the claim counts it")
    ] = False,
    payload: Annotated[
        Path | None, typer.Option("--payload", help=".npz with rows for a model of your own")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="put a claim to this V2 server")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="of its model there")] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", help="there; default: that of the whole plan")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", help="'name: value', repeatable")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="skip TLS checks")] = False,
    cacert: Annotated[
        Path | None, typer.Option("--cacert", help="PEM file of who vouches for its certificate")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option("--cert", help="PEM file of ours, for a server that asks")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="PEM file of its key, where --cert has none")
    ] = None,
    json: Json = False,
) -> None:
    """Prove a run's recommendation by redeploying and driving it, or a claim on a V2 server."""
    if requests is not None and duration is not None:
        raise BadInput("confirm: give --requests or --duration, not both")
    length = None if duration is None else seconds_of(duration, "--duration")
    budget = seconds_of(time_budget, "--time-budget")
    if endpoint is not None:
        _only_without_endpoint(
            {"--profile": profile, "--no-kill": no_kill, "--this-host": this_host, "--fresh": fresh}
        )
        _reprove(
            run,
            Endpoint(url=endpoint.rstrip("/"), model_name=name or ""),
            headers=parse_headers(header or []),
            insecure=insecure,
            cacert=cacert,
            identity=Identity.given(cert, key),
            payload=payload,
            rate=rate,
            requests=requests,
            duration_s=length,
            budget_s=budget,
            json=json,
        )
    of_endpoint = {
        "--name": name,
        "--rate": rate,
        "--header": header,
        "--insecure": insecure or None,
        "--cacert": cacert,
        "--cert": cert,
        "--key": key,
    }
    only_with("--endpoint", of_endpoint)
    if run.is_file():
        raise BadInput(
            f"{run}: say where the claim is to be proven again with --endpoint URL; a plan is "
            "proven by its run's folder"
        )
    folder = RunFolder.existing(run)
    if not folder.lock():
        raise BadInput(f"{folder.path}: another process is working on this run; wait for it")
    wanted = {
        "deployments": deployments,
        "requests": requests,
        "duration_s": length,
        "kill": not no_kill,
        "budget_s": budget,
        "this_host": this_host,
        "fresh": fresh,
    }
    claims = _prove(folder, None, profile, wanted, payload)
    _print_claims(folder, claims, json)
    raise typer.Exit(0 if all(claim.verdict == "holds" for claim in claims) else 1)


def prove_too(run: StudyRun, left_s: float | None, quiet: bool) -> bool:
    """Prove what a run has just recommended; True when nothing that was proven fails.

    ``left_s`` is what is left of its time budget, None where there is none. Without enough of
    it, and without a recommendation, nothing is proven, and a note says so.
    """
    plans = sum(answer.best is not None for answer in run.folder.bundle().recommendations)
    if not plans:
        return True
    if left_s is not None and left_s < plans * _LEAST_S:
        note(f"no time left to prove it; prove it: tonnage confirm {run.folder.path}")
        return True
    wanted = {} if left_s is None else {"budget_s": left_s / plans}
    try:
        claims = _prove(run.folder, run.stage(), None, wanted, None)
    except KeyboardInterrupt:  # the study itself is finished, and would begin anew
        note(f"the study is done; its proof goes on with: tonnage confirm {run.folder.path}")
        raise
    if not quiet:
        sys.stdout.write("\n")
        _print_claims(run.folder, claims, False)
    return all(claim.verdict == "holds" for claim in claims)


def _prove(
    folder: RunFolder,
    stage: Stage | None,
    profile: str | None,
    wanted: dict[str, Any],
    payload: Path | None,
) -> list[Claim]:
    """Prove a run's recommendations; ``stage`` None is one made from the folder alone."""
    # Judging stands on scipy, which is slow to import.
    from tonnage.confirming import confirm
    from tonnage.proofs import Wanted, chosen

    study, path = load_study(str(folder.path / "study.toml"))
    if stage is None:
        bundle = folder.bundle()
        best = chosen(bundle, profile)[0].best
        variant = next(
            (v for v in bundle.variants if best and v.name == best.candidate.variant), None
        )
        if variant is None:
            raise BadInput(f"{folder.path}: variants.jsonl lacks what is recommended")
        stage = stage_of(study, variant, payload)
    return confirm(folder, study, path, stage, profile, Wanted(**wanted))


def _print_claims(folder: RunFolder, claims: list[Claim], json: bool) -> None:
    from reports.bundle import CLAIMS
    from reports.proven import claim_text
    from tonnage.confirming import claim_name

    if json:
        sys.stdout.write(dump([claim.model_dump(mode="json") for claim in claims]))
        return
    titles = {a.demand.name: a.demand.title for a in folder.bundle().recommendations}
    texts = [
        claim_text(
            claim, titles[claim.profile], str(folder.path / CLAIMS / claim_name(claim.profile))
        )
        for claim in claims
    ]
    sys.stdout.write("\n".join(texts))


def _reprove(
    path: Path,
    endpoint: Endpoint,
    *,
    headers: dict[str, str],
    insecure: bool,
    cacert: Path | None,
    identity: Identity | None,
    payload: Path | None,
    rate: float | None,
    requests: int | None,
    duration_s: float | None,
    budget_s: float,
    json: bool,
) -> None:
    from reports.proven import reproof_text
    from tonnage.reproving import Reproving, read_claim

    if rate is not None and not 0 < rate < float("inf"):
        raise BadInput(f"--rate {rate:g}: must be a positive number")
    claim = read_claim(path)
    named = endpoint.model_copy(update={"model_name": endpoint.model_name or claim.model_name})
    reproving = Reproving(
        claim=claim,
        endpoint=named,
        source=path,
        headers=headers,
        insecure=insecure,
        cacert=cacert,
        identity=identity,
        payload=payload,
        rate_rps=rate,
        requests=requests,
        duration_s=duration_s,
        budget_s=budget_s,
    )
    with Steps(reproving.protocol.run_s) as steps:
        found = reproving.prove(log_file("confirm"), steps)
    print_result(found.model_dump(mode="json"), reproof_text(found).rstrip(), json)
    raise typer.Exit(0 if found.verdict == "holds" else 1)


def _only_without_endpoint(options: dict[str, object]) -> None:
    for option, value in options.items():
        if value:
            raise BadInput(f"{option} belongs to a run; a claim says itself what it is about")
