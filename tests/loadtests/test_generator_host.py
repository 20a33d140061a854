"""The host of the generator, where the server is somebody else's."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from loadtests import generator_host
from loadtests.clocks import Clocks
from loadtests.generator_host import (
    HostReading,
    generator_cpus,
    generator_environment,
    host_faults,
)
from loadtests.records import FaultCode

BEGIN = HostReading(clocks=Clocks(monotonic=0, raw=0, boot=0), stolen_s={0: 7.0, 1: 0.0, 2: 3.0})
SECOND = 10**9
TEN = Clocks(monotonic=10 * SECOND, raw=10 * SECOND, boot=10 * SECOND)
ENDS = {
    "even": (TEN, 0.0, None, ""),
    "slewed": (replace(TEN, raw=9_990_000_000), 0.0, FaultCode.CLOCK, "slewed by +1001 ppm"),
    "suspended": (replace(TEN, boot=13 * SECOND), 0.0, FaultCode.CLOCK, "suspended for 3.000 s"),
    "stolen": (TEN, 0.05, FaultCode.NOISY_HOST, "the hypervisor took 5.0%"),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_generators_host_is_judged(case: str) -> None:
    """Ten seconds with an even clock and all CPU time are fine; anything else is named."""
    clocks, share, code, says = ENDS[case]
    stolen = {**BEGIN.stolen_s, 0: 7.0 + share * 10}
    faults = host_faults(BEGIN, HostReading(clocks=clocks, stolen_s=stolen), [0])
    assert [fault.code for fault in faults] == ([] if code is None else [code])
    assert says in "".join(fault.detail for fault in faults)


def test_steal_is_that_of_the_generators_cpus() -> None:
    """Half of one CPU of 64 is half of a generator that has that one, and none of another's."""
    before = replace(BEGIN, stolen_s=dict.fromkeys(range(64), 0.0))
    after = HostReading(clocks=TEN, stolen_s={**before.stolen_s, 3: 5.0})
    (fault,) = host_faults(before, after, (3,))
    assert fault.detail == "the hypervisor took 50.0% of the generator's CPUs"
    assert host_faults(before, after, (4,)) == ()


@pytest.mark.parametrize(
    ("workers", "cpus"), [(1, (0,)), (2, (0, 1)), (3, (0, 1, 2, 3, 4, 5)), (9, tuple(range(6)))]
)
def test_a_worker_has_a_core_where_one_is_left(
    workers: int, cpus: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One CPU of a core each; with as many workers as cores nobody is kept anywhere."""
    monkeypatch.setattr(generator_host, "physical_cores", lambda: [(0, 3), (1, 4), (2, 5)])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert generator_cpus(workers) == cpus


def test_its_environment_claims_no_replicas() -> None:
    """CPU, versions and priority are those of this host; nothing is said of replicas or Ray."""
    found = generator_environment([0])
    assert (found.replica_cpus, found.settings) == ((), {})
    assert found.platform_cpus == (0,)
    assert {"locust", "tonnage"} <= set(found.packages)
    earlier = HostReading.now()
    assert HostReading.now().clocks.raw > earlier.clocks.raw
