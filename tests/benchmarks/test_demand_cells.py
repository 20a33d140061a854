"""The cells behind the demands: which are missing, whose profiles count, and of which host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import demand_cells
from benchmarks.demand_cells import CellRecord, measure, missing, profiles_of, read_cells
from benchmarks.grid_records import GRIDS, GridRecord, append
from benchmarks.live import Live
from loadtests.records import Measurement
from serving.errors import BadInput
from serving.records import Deployment


@pytest.fixture
def cell(record: Callable[..., GridRecord]) -> Callable[..., CellRecord]:
    """Factory of cells of a made variant."""

    def made(variant: str, size: str, ms: float, **of_variant: Any) -> CellRecord:
        one = record(variant, size, 1, ms, (20.0,))
        deployment = one.deployment.model_copy(
            update={"variant": one.deployment.variant.model_copy(update=of_variant)}
        )
        measurements = [m.model_copy(update={"deployment": deployment}) for m in one.cell]
        return CellRecord(environment="e1", deployment=deployment, measurements=tuple(measurements))

    return made


@pytest.fixture
def folder(
    tmp_path: Path, record: Callable[..., GridRecord], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty folder of cells, for variants that need not be built."""
    variant = record("any", "sim-1", 1, 5.0, ()).deployment.variant

    def built(_: str, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: variant.model_copy(update={"name": name}) for name in names}

    monkeypatch.setattr(demand_cells, "FOLDER", tmp_path)
    monkeypatch.setattr(demand_cells, "built", built)
    return tmp_path


class _Bench:
    """Stands for what is up and running: it counts cells, and may be interrupted."""

    def __init__(self, made: Callable[..., CellRecord], environment: str, most: int = 99) -> None:
        self.environment, self.most, self.asked = environment, most, list[Deployment]()
        self._made = made

    def sharing(self, cell: object) -> list[Measurement]:
        return []

    def cell(self, deployment: Deployment, batch: int) -> list[Measurement]:
        if len(self.asked) == self.most:
            raise KeyboardInterrupt
        assert batch == GRIDS["credit"].batch
        self.asked.append(deployment)
        return list(self._made("any", "sim-1", 5.0).measurements)


def test_variants_that_are_barred_give_no_profile(cell: Callable[..., CellRecord]) -> None:
    """What loses too much quality is not recommended, however fast it is."""
    cells = [cell("fast", "sim-1", 5.0, barred="made"), cell("slow", "sim-1", 12.0)]
    assert [p.variant.name for p in profiles_of(cells)] == ["slow"]


def test_measuring_goes_on_where_it_was_interrupted(
    cell: Callable[..., CellRecord], folder: Path
) -> None:
    """Every variant on every size once, half-written lines again, nothing twice."""
    grid = GRIDS["credit"]
    with pytest.raises(KeyboardInterrupt):
        measure(cast(Live, _Bench(cell, "e1", most=5)), "credit")
    path = folder / "cells_credit.jsonl"
    path.write_text(path.read_text() + '{"environment": "e1", "dep')
    assert len(read_cells("credit")) == 5
    again = _Bench(cell, "e1")
    measure(cast(Live, again), "credit")
    assert len(again.asked) == 3 * 4 - 5
    assert missing("credit") == []
    assert {c.key[0] for c in read_cells("credit")} == set(grid.variants)


def test_cells_of_another_host_are_refused(cell: Callable[..., CellRecord], folder: Path) -> None:
    """They would answer demands with service times of another CPU; the message says what to do."""
    one = cell("onnx_fp32", "sim-1", 5.0)
    append(folder / "cells_credit.jsonl", one.model_dump_json())
    with pytest.raises(BadInput, match="another environment; remove it"):
        measure(cast(Live, SimpleNamespace(environment="e2")), "credit")
