"""The profiles of use: what load is demanded, and how fast it must be answered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from loadtests.arrivals import Mix
from loadtests.objective import Slo
from planner.daily import RISE_S, Daily
from planner.records import Demand
from serving.errors import BadInput
from serving.records import Record
from serving.toml_config import build_named, in_words, read_toml


class _DemandTable(Record):
    """The keys of one table of profiles.toml."""

    name: str
    title: str
    batch: int | None = Field(ge=1, default=None)
    batch_range: tuple[int, int] | None = None
    batch_mix: dict[int, float] | None = None
    length: int | None = Field(ge=1, default=None)
    rate_rps: float | None = Field(gt=0, default=None)
    quantile: float = Field(gt=0, lt=1)
    limit_ms: float = Field(gt=0)
    more_slos: tuple[Slo, ...] = ()
    error_budget: float | None = Field(gt=0, lt=1, default=None)
    min_quality: dict[str, float] = Field(default={})
    max_replica_memory_gib: float | None = Field(gt=0, default=None)
    region: str | None = None
    in_process_limit_ms: float | None = Field(gt=0, default=None)
    max_replicas: int = Field(ge=1, le=10_000, default=16)
    spare_replicas: int = Field(ge=0, le=16, default=0)
    daily: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    trace: str | None = None
    rise_s: float | None = Field(gt=0, le=3600, default=None)
    machine_start_s: float = Field(ge=0, default=0.0)


def load_demands(path: Path) -> list[Demand]:
    """One demand per table, in the order of the file; BadInput names table and key."""
    demands = [_demand(name, table, path) for name, table in read_toml(path).items()]
    if not demands:
        raise BadInput(f"{path}: holds no profile; add a table such as [production]")
    return demands


def _demand(name: str, table: object, path: Path) -> Demand:
    row = build_named(_DemandTable, name, table, path)
    mix = _mix(row, path)
    batch = row.batch if mix is None else row.batch or max(mix.batches)
    batch_range = row.batch_range
    if batch_range is None and mix is not None:
        batch_range = min(mix.batches), max(mix.batches)
    if batch is None or batch_range is None:
        key = "batch" if batch is None else "batch_range"
        raise BadInput(f"{path}: [{name}]: key '{key}' is missing; add it")
    low, high = batch_range
    if not 1 <= low <= batch <= high:
        raise BadInput(
            f"{path}: [{name}]: batch = {batch} lies outside batch_range = [{low}, {high}]; "
            "change one of them"
        )
    if row.spare_replicas >= row.max_replicas:
        raise BadInput(
            f"{path}: [{name}]: spare_replicas = {row.spare_replicas} leaves none of "
            f"max_replicas = {row.max_replicas} to work; raise max_replicas"
        )
    daily = _daily(row, path)
    rate = row.rate_rps or (daily.peak_rps if daily else None)
    if rate is None:
        raise BadInput(f"{path}: [{name}]: key 'rate_rps' is missing; add it")
    if daily is not None and rate < daily.peak_rps:
        raise BadInput(
            f"{path}: [{name}]: rate_rps = {rate:g} is below the peak of {daily.peak_rps:g} req/s "
            f"({daily.source}); leave rate_rps out, or raise it"
        )
    demand = {
        "name": row.name,
        "title": row.title,
        "batch": batch,
        "batch_range": batch_range,
        "length": row.length,
        "mix": mix,
        "rate_rps": rate,
        "slo": Slo(quantile=row.quantile, limit_ms=row.limit_ms),
        "more_slos": row.more_slos,
        "error_budget": row.error_budget,
        "min_quality": row.min_quality,
        "max_replica_memory_gib": row.max_replica_memory_gib,
        "region": row.region,
        "max_replicas": row.max_replicas,
        "spare_replicas": row.spare_replicas,
        "in_process_limit_ms": row.in_process_limit_ms,
        "daily": daily,
    }
    return checked(demand, f"{path}: [{row.name}]")


def _mix(row: _DemandTable, path: Path) -> Mix | None:
    if row.batch_mix is None:
        return None
    try:
        return Mix(batches=tuple(row.batch_mix), weights=tuple(row.batch_mix.values()))
    except ValidationError:
        raise BadInput(
            f"{path}: [{row.name}]: key 'batch_mix': give batch sizes from 1 and weights above 0, "
            "such as { 1 = 0.7, 100 = 0.3 }"
        ) from None


def checked(demand: Mapping[str, object], where: str) -> Demand:
    """A demand of these figures; BadInput, begun with ``where``, where they contradict."""
    try:
        return Demand.model_validate(demand)
    except ValidationError as error:
        raise BadInput(f"{where}: {in_words(Demand, error)}") from None


def trace_files(path: Path) -> list[Path]:
    """The traces that a file of profiles names, relative to it."""
    tables = read_toml(path).values()
    names = [table.get("trace") for table in tables if isinstance(table, dict)]
    return [_trace_path(name, path) for name in names if isinstance(name, str)]


def _trace_path(name: str, path: Path) -> Path:
    """Where it was named from, or where a run keeps it: beside the profiles."""
    named, kept = path.parent / name, path.parent / Path(name).name
    return kept if kept.is_file() and not named.is_file() else named


def _daily(row: _DemandTable, path: Path) -> Daily | None:
    where = f"{path}: [{row.name}]"
    if row.daily is not None and row.trace is not None:
        raise BadInput(f"{where}: gives both 'daily' and 'trace'; keep one")
    if row.rise_s is not None and row.daily is None:
        raise BadInput(f"{where}: 'rise_s' says how fast hourly rates change; add 'daily'")
    if row.trace is not None:
        return Daily.recorded(_trace_path(row.trace, path), row.machine_start_s)
    if row.daily is None:
        if row.machine_start_s:
            raise BadInput(f"{where}: 'machine_start_s' is of use with 'daily' or 'trace' alone")
        return None
    try:
        return Daily.hourly(row.daily, row.rise_s or RISE_S, row.machine_start_s)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{where}: key 'daily': {reason}; correct it") from None
