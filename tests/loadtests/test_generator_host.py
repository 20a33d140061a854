"""The host of the generator, where the server is somebody else's."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from loadtests.clocks import Clocks
from loadtests.generator_host import HostReading, generator_environment, host_faults
from loadtests.records import FaultCode

BEGIN = HostReading(clocks=Clocks(monotonic=0, raw=0, boot=0), stolen_s=7.0)
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
    stolen_s = BEGIN.stolen_s + share * 10 * (os.cpu_count() or 1)
    faults = host_faults(BEGIN, HostReading(clocks=clocks, stolen_s=stolen_s))
    assert [fault.code for fault in faults] == ([] if code is None else [code])
    assert says in "".join(fault.detail for fault in faults)


def test_its_environment_claims_no_replicas() -> None:
    """CPU, versions and priority are those of this host; nothing is said of replicas or Ray."""
    found = generator_environment()
    assert (found.replica_cpus, found.settings) == ((), {})
    assert set(found.platform_cpus) == os.sched_getaffinity(0)
    assert {"locust", "tonnage"} <= set(found.packages)
    earlier = HostReading.now()
    assert HostReading.now().clocks.raw > earlier.clocks.raw
