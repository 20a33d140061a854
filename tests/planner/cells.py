"""One size whose calls take a known time, measured at some batch sizes or at some lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from loadtests.histogram import Histogram
from planner.records import ServiceProfile


class Cell:
    """A call takes ``ms(n)``, and its process ``mib`` for each of ``n`` rows, or tokens."""

    def __init__(
        self,
        profile: Callable[..., Any],
        axis: Literal["batch", "length"],
        ms: Callable[[int], float],
        mib: float,
        **always: Any,
    ) -> None:
        self.ms = ms
        self._profile, self._axis, self._mib, self._always = profile, axis, mib, always

    def at(self, n: int | None, **changes: Any) -> ServiceProfile:
        """Its profile at ``n``; None is an unknown length."""
        mean = self.ms(n or 0)
        values: dict[str, Any] = {
            self._axis: n,
            "service": Histogram.of(np.repeat([0.9 * mean, mean, 1.1 * mean], 100) / 1e3),
            "cpu_ms": mean + 0.2,
            "first_cpu_ms": mean + 0.6,
            "saturated_rps": 1.1e3 / (mean + 0.3),
            "beyond": Histogram.of(np.repeat([0.5, 1, 2], 100) * mean / 1e4),
            "peak_memory_bytes": round((100 + self._mib * (n or 0)) * (1 << 20)),
            **self._always,
        }
        made: ServiceProfile = self._profile(capacity_rps=1e3 / (mean + 0.3), **(values | changes))
        return made
