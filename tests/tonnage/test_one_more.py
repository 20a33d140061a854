"""``tonnage measure RUN``: a cell more for a finished run, and how it goes wrong.

That it goes well is tested with the whole study, in ``end_to_end/test_study.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.records import Fault, FaultCode
from serving import host_facts
from serving.errors import BadInput
from serving.placement import Placement
from serving.stub_variant import noop_variant
from tonnage import cli_measure, one_more
from tonnage.cells import Cell
from tonnage.one_more import Asked, measure_one_more, taken
from tonnage.progress import Steps
from tonnage.run_folder import RunFolder


@pytest.fixture
def folder(stub_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished run of a stub, on a host of two cores that grants quotas."""
    made = stub_run("sim-1")
    made.write_lines("measured.json", [])
    two = Placement(replica_cpus=(1,), platform_cpus=(0,), shared=False)
    monkeypatch.setattr(host_facts, "host_placement", lambda: two)
    monkeypatch.setattr(one_more, "enforces_quotas", lambda: True)
    return made


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variant": "stubb"}, r"--variant stubb: the run has none; .*stub"),
        ({"instance": "sim-9"}, r"instance 'sim-9': unknown"),
        ({"instance": "sim-2", "threads": 2}, r"2 x|needs 2 CPUs; this host has 2"),
        ({"threads": 2}, r"--threads 2: more than sim-1 \(cpuset\) has vCPUs"),
        ({"length": 64}, r"--length 64: the run's study measures no lengths"),
    ],
)
def test_a_cell_that_the_run_cannot_have_is_refused(
    folder: RunFolder, changes: dict[str, object], says: str
) -> None:
    """In one line, before anything is started, and nothing is written."""
    before = (folder.path / "measurements.jsonl").read_text()
    asked = Asked(**({"variant": "stub", "instance": "sim-1"} | changes))
    with Steps(1.0, quiet=True) as steps, pytest.raises(BadInput, match=says):
        measure_one_more(folder, asked, steps)
    assert (folder.path / "measurements.jsonl").read_text() == before


def test_only_a_finished_run_gets_one_more(folder: RunFolder) -> None:
    """One that is still measured goes on by its own command."""
    (folder.path / "measured.json").unlink()
    with pytest.raises(BadInput, match="is not finished"):
        taken(folder.path)


def test_only_one_process_adds_to_a_run(folder: RunFolder) -> None:
    """Who comes second is told, and changes nothing."""
    assert taken(folder.path).path == folder.path
    with pytest.raises(BadInput, match="another process works on it"):
        taken(folder.path)


def test_a_run_of_another_environment_gets_none(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of two hosts in one run would say nothing; the run is left as it was."""

    class Elsewhere:
        placement = Placement(replica_cpus=(1,), platform_cpus=(0,), shared=False)

        def __enter__(self) -> Elsewhere:
            return self

        def __exit__(self, *_: object) -> None: ...

        def environment(self) -> object:
            return host_facts.environment(self.placement, "affinity")

    class NoFleet(Elsewhere):
        def __init__(self, *_: object, **__: object) -> None: ...

    monkeypatch.setattr("tonnage.stage.ray_host", lambda logs: Elsewhere())
    monkeypatch.setattr(one_more, "Fleet", NoFleet)
    before = (folder.path / "measurements.jsonl").read_text()
    asked = Asked(variant="stub", instance="sim-1")
    with Steps(1.0, quiet=True) as steps, pytest.raises(BadInput, match="another environment"):
        measure_one_more(folder, asked, steps)
    assert (folder.path / "measurements.jsonl").read_text() == before


def test_no_ops_are_measured_where_the_run_has_none(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the cell's size and batch the floor, of its batch the ceiling; of a quick run nothing."""
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path))
    known = folder.measurements()
    deployment = known[0].deployment
    noop = deployment.model_copy(update={"variant": noop_variant("credit", 26)})
    asked = [m.model_copy(update={"deployment": noop, "role": r})
             for m, r in zip(known, ("floor", "ceiling"), strict=False)]  # fmt: skip
    two = host_facts.host_placement()

    def made(batch: int, size: str = "sim-1") -> list[tuple[str, str, int]]:
        larger = deployment.instance.model_copy(update={"name": size})
        cell = Cell(deployment.model_copy(update={"instance": larger}), batch)
        found = one_more._noops(cell, [*known, *asked], two)
        assert all(c.deployment.variant.inputs == noop.variant.inputs for c in found)
        return [(c.role, c.deployment.instance.name, c.batch) for c in found]

    assert made(1) == []
    assert made(1, "sim-9") == [("floor", "sim-9", 1)]
    assert made(8) == [("floor", "sim-1", 8), ("ceiling", "sim-1", 8)]
    assert one_more._noops(Cell(deployment, 8), known, two) == []


def test_what_sharing_a_core_costs_is_measured_once(folder: RunFolder) -> None:
    """With the first cell of a deployment under a quota, and again where it was not believed."""
    measured, *_ = folder.measurements()
    half = measured.deployment.instance.model_copy(
        update={"name": "sim-0.5", "vcpus": 0.5, "enforcement": "quota"}
    )
    cell = Cell(measured.deployment.model_copy(update={"instance": half}), 8)
    (shared,) = one_more._sharing(cell, [measured])
    assert (shared.role, shared.deployment.replicas, shared.batch) == ("sharing", 2, 8)
    opened = next(m for m in folder.measurements() if m.run.mode == "open")
    told = opened.model_copy(update={"role": "sharing", "deployment": shared.deployment})
    assert one_more._sharing(cell, [measured, told]) == []
    fault = Fault(code=FaultCode.NOISY_HOST, detail="")
    refused = told.model_copy(update={"faults": (fault,)})
    assert one_more._sharing(cell, [measured, refused]) == [shared]
    behind = Fault(code=FaultCode.BACKLOG_GROWING, detail="")
    slow = opened.model_copy(
        update={"role": "sharing", "deployment": shared.deployment, "faults": (behind,)}
    )
    assert one_more._sharing(cell, [measured, slow]) == [], "its CPU time tells"
    assert one_more._sharing(Cell(measured.deployment, 8), [measured]) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": 5.0, "variant": "stub"}, "--rate"),
        ({"replicas": 2, "variant": "stub"}, "--replicas"),
        ({"batch": "1:0.5,8:0.5", "variant": "stub"}, "a cell has one batch size"),
        ({"payload": ["a.npz", "b.npz"], "variant": "stub"}, "one file of rows"),
        ({"quick": True}, "--quick"),
        ({"instance": "sim-1"}, "--instance"),
    ],
)
def test_a_cell_has_no_load_of_ones_own(
    folder: RunFolder, options: dict[str, object], says: str
) -> None:
    """Options of a load are refused beside a run's folder, and so is a cell without a name."""
    with pytest.raises(BadInput, match=says):
        cli_measure.measure(str(folder.path), **options)


def test_a_study_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that happens to be named like a study is not taken for a run."""
    (tmp_path / "credit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not RunFolder.is_run(Path("credit"))
