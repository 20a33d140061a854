"""Tables of what was measured through the serving path."""

from __future__ import annotations

from loadtests.records import Fault, FaultCode
from reports import served_tables
from reports.bundle import Bundle


def test_many_refused_runs_of_a_cell_are_told_by_their_faults(bundle: Bundle) -> None:
    """A row stays a row on a host where hardly any run is believed; few are told one by one."""
    noisy = Fault(code=FaultCode.NOISY_HOST, detail="the hypervisor took 1.6%")
    late = Fault(code=FaultCode.DISPATCH_LAG, detail="p99 of 8 ms")
    run = next(m for m in bundle.measurements if m.role == "cell" and m.run.mode == "closed")

    def told(*faults: tuple[Fault, ...]) -> str:
        runs = [run.model_copy(update={"id": str(i), "faults": f}) for i, f in enumerate(faults)]
        made = bundle.model_copy(update={"measurements": tuple(runs)})
        (row,) = served_tables.capacities(made).rows
        return row[-1]

    few = told((noisy,), (noisy, late), (noisy,))
    assert few.count("refused") == few.count("took 1.6%") == 3
    laws = run.model_copy(update={"broken_laws": tuple(f"law {i}" for i in range(4))})
    (row,) = served_tables.capacities(bundle.model_copy(update={"measurements": (laws,)})).rows
    assert row[-1].endswith("laws are broken 4 times; the first: 4 users breaks a law: law 0")
    many = told((noisy,), (noisy, late), (noisy,), (noisy,))
    assert many.endswith(
        "4 runs refused: noisy host in 4 (the first: the hypervisor took 1.6%), "
        "dispatch lag in 1 (the first: p99 of 8 ms)"
    )
