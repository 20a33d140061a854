"""``tonnage plan``: plan again from a run's records, with other figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadtests.records import Measurement
from planner.records import MOST_REPLICAS, Recommendation
from reports.terminal import recommendation_text
from serving.errors import BadInput
from tonnage.cli_calibrate import Calibrations, calibrations_of
from tonnage.cli_common import Json, RunArgument, dump, warn
from tonnage.config import load_study
from tonnage.durations import seconds_of
from tonnage.planning import plan, study_demands
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder
from tonnage.what_if import changed, daily_of, mix_of, objective_of, quality_of

_PLAN_S = 1.0
"""For the progress bar."""


def plan_command(
    run_folder: RunArgument,
    study: Annotated[str | None, typer.Option("--study", help="default: the run's own")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="only this profile")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="requests per second")] = None,
    p99: Annotated[str | None, typer.Option("--p99", help="such as 20ms")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="another objective beside it, such as p50=10ms; repeatable"),
    ] = None,
    error_budget: Annotated[
        float | None,
        typer.Option("--error-budget", help="share of requests that may fail, such as 0.001"),
    ] = None,
    min_quality: Annotated[
        list[str] | None,
        typer.Option("--min-quality", help="of the run's metric, or f1=0.5; repeatable"),
    ] = None,
    replica_memory: Annotated[
        float | None,
        typer.Option("--replica-memory", help="GiB that a replica may need, headroom included"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, help="rows of a request; predicted where not measured"),
    ] = None,
    batch_mix: Annotated[
        str | None, typer.Option("--batch-mix", help="rows by weight: 1:0.7,100:0.3")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option("--length", min=1, help="tokens a row, where lengths were measured"),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="recorded traffic of a day: also says how to follow it"),
    ] = None,
    daily: Annotated[
        str | None, typer.Option("--daily", help="24 rates from midnight: 5,5,4,...,9")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="only its prices")] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, max=MOST_REPLICAS)] = None,
    spare_replicas: Annotated[
        int | None,
        typer.Option("--spare-replicas", min=0, max=16, help="that may be lost; 1 is N+1"),
    ] = None,
    price_file: Annotated[Path | None, typer.Option("--price-file")] = None,
    calibration: Calibrations = None,
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", help="another run on this host, which counts as well; repeatable"),
    ] = None,
    probe_budget: Annotated[
        str, typer.Option("--probe-budget", help="seconds that 'measure next' may fill")
    ] = "5m",
    json: Json = False,
) -> None:
    """Plan again from a run's records: other rates, limits, batch sizes, prices or CPUs."""
    folder = RunFolder.existing(run_folder)
    config, path = load_study(study or str(folder.path / "study.toml"))
    limit = None if p99 is None else 1e3 * seconds_of(p99, "--p99")
    bundle = folder.bundle()
    demands = changed(
        study_demands(config, path),
        profile,
        rate,
        limit,
        max_replicas,
        also=[objective_of(text, "--also") for text in also or ()],
        error_budget=error_budget,
        min_quality=quality_of(min_quality or (), bundle.info.metric),
        replica_memory_gib=replica_memory,
        region=region,
        mix=None if batch_mix is None else mix_of(batch_mix),
        length=length,
        batch=batch,
        spare_replicas=spare_replicas,
        daily=daily_of(trace, daily),
    )
    files = calibrations_of(calibration, folder.path)
    budget = seconds_of(probe_budget, "--probe-budget")
    with Steps(_PLAN_S) as steps:
        steps.step("planning", _PLAN_S)
        _, answers, warnings = plan(
            folder,
            config,
            path,
            demands,
            price_file,
            evidence=[m for run in others or () for m in _measured(run)],
            calibrations=files,
            probe_budget_s=budget,
        )
    for warning in warnings:
        warn(warning)
    if json:
        sys.stdout.write(dump([a.model_dump(mode="json") for a in answers]))
    else:
        sys.stdout.write(
            recommendation_text(bundle.model_copy(update={"recommendations": tuple(answers)}))
        )
    exit_for(answers)


def _measured(run: Path) -> tuple[Measurement, ...]:
    """All measurements of another run; BadInput where it holds none."""
    folder = RunFolder.existing(run)
    if found := folder.measurements():
        return found
    raise BadInput(f"--with {run}: holds no measurements; run its study first")


def exit_for(answers: Sequence[Recommendation]) -> None:
    """Leave with code 1 where nothing holds a demand."""
    if any(answer.best is None for answer in answers):
        raise typer.Exit(1)
