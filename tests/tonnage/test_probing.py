"""``tonnage measure RUN``: what the plan names is measured, best first, while the budget lasts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from planner.records import Probe
from serving.errors import BadInput, InvalidMeasurement
from tonnage import probing
from tonnage.one_more import Asked
from tonnage.probing import measure_probes
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder


def probe(size: str, saving: float, seconds: float, command: str = "tonnage measure RUN") -> Probe:
    return Probe(
        variant="onnx",
        size=size,
        threads=1,
        batch=1,
        seconds=seconds,
        saving_usd_per_month=saving,
        why="made",
        command=command,
    )


class _Run:
    """Stands for a run: every cell that is measured gives the next of its plans."""

    def __init__(self, *plans: list[Probe]) -> None:
        self.path, self.plans, self.measured = "made", list(plans), list[str]()

    def bundle(self) -> Any:
        demand = SimpleNamespace(name="asked", title="Asked", length=None)
        answer = SimpleNamespace(demand=demand, best=None, probes=tuple(self.plans[0]))
        return SimpleNamespace(recommendations=(answer,) if self.plans[0] is not None else ())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[probing.Probed]]:
    """Measures the probes of a run; those of sizes in ``failing`` give nothing valid."""

    def go(run: _Run, budget_s: float, failing: str = "", takes_s: float = 0.0) -> Any:
        clock = [0.0]

        def one(_: object, asked: Asked, __: object) -> tuple[list[Any], list[str]]:
            clock[0] += takes_s
            run.measured.append(asked.instance)
            if asked.instance in failing.split():
                raise InvalidMeasurement("no measurement is valid")
            if len(run.plans) > 1:
                run.plans.pop(0)
            return [SimpleNamespace(valid=True)], [f"after {asked.instance}"]

        monkeypatch.setattr(probing, "measure_one_more", one)
        monkeypatch.setattr(probing.time, "monotonic", lambda: clock[0])
        with Steps(1.0, quiet=True) as steps:
            return measure_probes(cast(RunFolder, run), budget_s, steps)

    return cast(Callable[..., Any], go)


def test_the_best_goes_first_and_every_plan_names_its_own(measured: Callable[..., Any]) -> None:
    """What the second plan no longer hopes for is not measured."""
    run = _Run([probe("sim-1", 9, 3), probe("sim-2", 80, 4)], [probe("sim-4", 1, 5)], [])
    done, warnings = measured(run, 60)
    assert run.measured == ["sim-2", "sim-4"]
    assert [one.valid for one in done] == [1, 1]
    assert warnings == ["after sim-4"]


def test_a_cell_is_measured_once_though_plans_keep_naming_it(measured: Callable[..., Any]) -> None:
    """One that stays invalid is told of, and does not take the whole budget."""
    run = _Run([probe("sim-1", 9, 3), probe("sim-2", 1, 3)])
    done, _ = measured(run, 60, failing="sim-1")
    assert run.measured == ["sim-1", "sim-2"]
    assert done[0].failed == "no measurement is valid"
    assert "nothing came of it; no measurement is valid" in done[0].lines()[0]
    assert done[1].record()["failed"] is None


def test_the_budget_is_kept(measured: Callable[..., Any]) -> None:
    """A probe that does not fit into what is left gives way to one that does."""
    run = _Run([probe("sim-1", 90, 25), probe("sim-2", 80, 45), probe("sim-4", 1, 20)])
    measured(run, 50, takes_s=28.0)
    assert run.measured == ["sim-1", "sim-4"]
    none = _Run([probe("sim-1", 90, 25)])
    assert measured(none, 24)[0] == []


def test_a_run_of_ones_own_model_is_measured_by_its_own_command(
    measured: Callable[..., Any],
) -> None:
    """It says which, before anything is measured."""
    run = _Run([probe("sim-1", 9, 3, "tonnage run --model m.onnx --instance sim-1")])
    with pytest.raises(BadInput, match=r"tonnage run --model m\.onnx"):
        measured(run, 60)
    assert run.measured == []
