"""What sharing a core costs, from the cell that measures it to the plan that counts with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from loadtests.dwell import FULL
from loadtests.records import Measurement
from planner.records import ServiceProfile
from tonnage.cells import Cell, sharing_cells
from tonnage.config import load_study
from tonnage.measuring import Measuring
from tonnage.planning import plan, study_demands
from tonnage.run_folder import RunFolder


def halves(folder: RunFolder) -> Cell:
    """The cell of two halves of a CPU that belongs to the run's cell of one."""
    (cell,) = sharing_cells([Cell(folder.measurements()[0].deployment, 1)])
    return cell


def test_they_are_asked_at_the_rate_of_the_cell_before(stub_run: Callable[..., RunFolder]) -> None:
    """Each as often as the single replica in its open run; without that run nothing is asked."""
    folder = stub_run("sim-0.5")
    nobody = cast(Any, None)
    measuring = Measuring(
        folder=folder,
        host=nobody,
        fleet=nobody,
        payloads=nobody,
        call=None,
        dwell=FULL,
        seed=1,
        slos={},
        steps=nobody,
    )
    (alone,) = [m for m in folder.measurements() if m.run.mode == "open"]
    cell = halves(folder)
    assert measuring._rates(cell) == (2 * (alone.run.rate_rps or 0),)
    single = Cell(alone.deployment, 1)
    assert measuring._rates(single) == ()
    folder.write_lines("measurements.jsonl", [m for m in folder.measurements() if m != alone])
    assert measuring._rates(cell) == ()


def test_a_plan_counts_with_it(stub_run: Callable[..., RunFolder]) -> None:
    """Where each request takes half as much again in company, profiles and plans say so."""
    folder = stub_run("sim-0.5", prices=False)
    (alone,) = [m for m in folder.measurements() if m.run.mode == "open"]
    used = alone.cpu.model_copy(update={"replica_s": 1.5 * 2 * alone.cpu.replica_s})
    together = alone.model_copy(
        update={
            "id": "together",
            "role": "sharing",
            "deployment": halves(folder).deployment,
            "offered": 2 * alone.offered,
            "ok": 2 * alone.ok,
            "cpu": used,
        }
    )

    known = folder.measurements()

    def planned(
        own: list[Measurement], others: Sequence[Measurement] = ()
    ) -> tuple[ServiceProfile, float]:
        folder.write_lines("measurements.jsonl", own)
        config, path = load_study(str(folder.path / "study.toml"))
        (demand, _) = study_demands(config, path)
        asked = demand.model_copy(update={"rate_rps": 110.0})
        (profile,), (answer,), _ = plan(folder, config, path, [asked], evidence=others)
        assert answer.best is not None
        return profile, answer.best.vcpus

    bare, least = planned(known)
    costly, more = planned([*known, together])
    assert bare.sharing is None
    assert costly.sharing is not None
    assert costly.sharing.runs == (("together", alone.id),)
    assert 1.2 < costly.sharing.mid < 1.5
    assert more > least
    assert planned(known, [together]) == (costly, more), "of another run on this host"
