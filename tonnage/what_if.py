"""What-ifs: the demands of a study, with other figures laid over them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from loadtests.arrivals import Mix
from loadtests.objective import Slo
from planner.daily import Daily
from planner.demands import checked
from planner.records import Demand
from serving.errors import BadInput
from tonnage.durations import seconds_of
from tonnage.load import weighted


def changed(
    demands: Sequence[Demand],
    profile: str | None,
    rate_rps: float | None = None,
    p99_ms: float | None = None,
    max_replicas: int | None = None,
    *,
    also: Sequence[Slo] = (),
    error_budget: float | None = None,
    min_quality: dict[str, float] | None = None,
    replica_memory_gib: float | None = None,
    region: str | None = None,
    mix: Mix | None = None,
    length: int | None = None,
    batch: int | None = None,
    spare_replicas: int | None = None,
    daily: Daily | None = None,
) -> list[Demand]:
    """One profile of the demands, or all, with what is given in the place of its own figures.

    ``p99_ms`` becomes the principal objective; ``also`` are others, in the place of the
    profile's own at the same quantile; ``batch`` takes the place of its batch sizes, a mix
    included; the peak of a ``daily`` course is the rate, unless one is given. BadInput for an
    unknown profile and for figures that contradict each other.
    """
    chosen = [d for d in demands if profile in (None, d.name)]
    if not chosen:
        raise BadInput(
            f"--profile {profile}: unknown; known are {', '.join(d.name for d in demands)}"
        )
    positive = {"--rate": rate_rps, "--p99": p99_ms, "--replica-memory": replica_memory_gib}
    for name, value in positive.items():
        if value is not None and not 0 < value < float("inf"):
            raise BadInput(f"{name} {value:g}: must be a positive number")
    if error_budget is not None and not 0 < error_budget < 1:
        raise BadInput(f"--error-budget {error_budget:g}: must lie between 0 and 1, such as 0.001")
    if batch is not None and mix is not None:
        raise BadInput("--batch and --batch-mix: requests are of one size or of several; give one")
    for demand in chosen:
        most = demand.max_replicas if max_replicas is None else max_replicas
        spare = demand.spare_replicas if spare_replicas is None else spare_replicas
        if most <= spare:
            option = "--max-replicas" if max_replicas is not None else "--spare-replicas"
            raise BadInput(
                f"{option} {spare if max_replicas is None else most}: of the {most} replicas of "
                f"[{demand.name}] {spare} are to spare, which leaves none to work; allow more with "
                "--max-replicas"
            )
    laid_over = {
        "error_budget": error_budget,
        "max_replica_memory_gib": replica_memory_gib,
        "region": region,
        "length": length,
        "max_replicas": max_replicas,
        "spare_replicas": spare_replicas,
    }
    found = []
    for demand in chosen:
        figures = dict(demand) | {k: v for k, v in laid_over.items() if v is not None}
        if daily is not None:
            figures |= {"daily": daily, "rate_rps": rate_rps or daily.peak_rps}
            if rate_rps is not None and rate_rps < daily.peak_rps:
                raise BadInput(
                    f"--rate {rate_rps:g}: is below the peak of {daily.peak_rps:g} req/s "
                    f"({daily.source}); leave it out, or raise it"
                )
        elif rate_rps is not None:
            figures["rate_rps"] = rate_rps
            if demand.daily is not None:
                figures["daily"] = demand.daily.scaled(rate_rps / demand.rate_rps)
        first = demand.slo if p99_ms is None else Slo(quantile=0.99, limit_ms=p99_ms)
        replaced = {first.quantile, *(slo.quantile for slo in also)}
        kept = [slo for slo in demand.more_slos if slo.quantile not in replaced]
        figures |= {"slo": first, "more_slos": (*kept, *also)}
        if mix is not None:
            batches = mix.batches
            figures |= {"mix": mix, "batch": max(batches)}
            figures["batch_range"] = min(batches), max(batches)
        if batch is not None:
            figures |= {"mix": None, "batch": batch, "batch_range": (batch, batch)}
        figures["min_quality"] = {**demand.min_quality, **(min_quality or {})}
        found.append(checked(figures, f"[{demand.name}]"))
    return found


def daily_of(trace: Path | None, rates: str | None) -> Daily | None:
    """The course of a day as one gives it: a file, or 24 rates; BadInput says how."""
    if trace is not None and rates is not None:
        raise BadInput("--trace and --daily: a day has one course; give one of them")
    if trace is not None:
        return Daily.recorded(trace)
    if rates is None:
        return None
    try:
        return Daily.hourly([float(rate) for rate in rates.split(",")])
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"--daily: {reason}; write 24 rates, such as 5,5,4,...,9") from None


def objective_of(text: str, flag: str) -> Slo:
    """An objective as one types it, ``p50=10ms``; BadInput says how."""
    match = re.fullmatch(r"p(\d+(?:\.\d+)?)=(.+)", text)
    quantile = float(match[1]) / 100 if match else 0.0
    if match is None or not 0 < quantile < 1:
        raise BadInput(f"{flag} {text}: write a quantile and its limit, such as p50=10ms")
    return Slo(quantile=quantile, limit_ms=1e3 * seconds_of(match[2], flag))


def mix_of(text: str) -> Mix:
    """A mix as one types it, ``1:0.7,100:0.3``; BadInput says how."""
    batches, weights = zip(*weighted("--batch-mix", text), strict=True)
    return Mix(batches=batches, weights=weights)


def quality_of(texts: Sequence[str], metric: str) -> dict[str, float]:
    """Least qualities as one types them, ``0.76`` of the run's ``metric`` or ``f1=0.5``."""
    found = {}
    for text in texts:
        measure, _, value = text.rpartition("=")
        try:
            found[measure or metric] = float(value)
        except ValueError:
            raise BadInput(
                f"--min-quality {text}: write a fraction of one, such as 0.76 or {metric}=0.76"
            ) from None
    return found
