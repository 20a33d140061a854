"""Whether the clock that all latencies are read from ran evenly during a run.

``time.perf_counter`` is CLOCK_MONOTONIC on Linux. It never steps back, but NTP may slew it,
and it stands still while a machine is suspended. Two other clocks tell: CLOCK_MONOTONIC_RAW is
never slewed, CLOCK_BOOTTIME goes on through a suspend.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Three clocks at one moment, in nanoseconds."""

    monotonic: int
    raw: int
    boot: int


def read_clocks() -> Clocks:
    """Read all three; of several tries the one that took least time, when nothing came between."""

    def attempt() -> tuple[int, Clocks]:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        raw = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return after - before, Clocks(monotonic=(before + after) // 2, raw=raw, boot=boot)

    return min((attempt() for _ in range(_TRIES)), key=lambda tried: tried[0])[1]


def slew_ppm(before: Clocks, after: Clocks) -> float:
    """How much faster CLOCK_MONOTONIC ran than the raw clock, in parts per million."""
    raw = after.raw - before.raw
    return 1e6 * ((after.monotonic - before.monotonic) / raw - 1) if raw > 0 else 0.0


def suspended_s(before: Clocks, after: Clocks) -> float:
    """Seconds that the machine was suspended in between."""
    return ((after.boot - before.boot) - (after.monotonic - before.monotonic)) / 1e9
