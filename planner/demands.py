"""The profiles of use: what load is demanded, and how fast it must be answered."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from loadtests.objective import Slo
from planner.records import Demand
from serving.errors import BadInput
from serving.records import Record
from serving.toml_config import build_named, read_toml


class _DemandTable(Record):
    """The keys of one table of profiles.toml."""

    name: str
    title: str
    batch: int = Field(ge=1)
    batch_range: tuple[int, int]
    rate_rps: float = Field(gt=0)
    quantile: float = Field(gt=0, lt=1)
    limit_ms: float = Field(gt=0)
    in_process_limit_ms: float | None = Field(gt=0, default=None)
    max_replicas: int = Field(ge=1, le=10_000, default=16)
    spare_replicas: int = Field(ge=0, le=16, default=0)


def load_demands(path: Path) -> list[Demand]:
    """One demand per table, in the order of the file; BadInput names table and key."""
    demands = [_demand(name, table, path) for name, table in read_toml(path).items()]
    if not demands:
        raise BadInput(f"{path}: holds no profile; add a table such as [production]")
    return demands


def _demand(name: str, table: object, path: Path) -> Demand:
    row = build_named(_DemandTable, name, table, path)
    low, high = row.batch_range
    if not 1 <= low <= row.batch <= high:
        raise BadInput(
            f"{path}: [{name}]: batch = {row.batch} lies outside batch_range = [{low}, {high}]; "
            "change one of them"
        )
    if row.spare_replicas >= row.max_replicas:
        raise BadInput(
            f"{path}: [{name}]: spare_replicas = {row.spare_replicas} leaves none of "
            f"max_replicas = {row.max_replicas} to work; raise max_replicas"
        )
    return Demand(
        name=row.name,
        title=row.title,
        batch=row.batch,
        batch_range=row.batch_range,
        rate_rps=row.rate_rps,
        slo=Slo(quantile=row.quantile, limit_ms=row.limit_ms),
        max_replicas=row.max_replicas,
        spare_replicas=row.spare_replicas,
        in_process_limit_ms=row.in_process_limit_ms,
    )
