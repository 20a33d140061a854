"""Whether a confirmation met the host that the plan was made for: CPU time of a request."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from loadtests.drift import DRIFT_LIMIT
from loadtests.records import Measurement


def pace(runs: Sequence[Measurement], studied: Iterable[Measurement]) -> float | None:
    """CPU time of a request in ``runs`` over that in the study, at as many req/s a replica.

    1.3: the same work took 1.3 times the CPU time, so the host was that much slower. Compared
    are open-loop runs of the same key; between the rates that were studied CPU time is
    interpolated, beyond them that of the nearest is taken. None where there is nothing to compare.
    """
    keys = {run.key for run in runs}
    points = sorted((_rps(m), m.replica_cpu_ms) for m in studied if _open(m) and m.key in keys)
    if not points or len(keys) != 1:
        return None
    rates, cpu_ms = zip(*points, strict=True)
    ratios = [run.replica_cpu_ms / np.interp(_rps(run), rates, cpu_ms) for run in runs if run.ok]
    return float(statistics.median(ratios)) if ratios else None


def another_pace(ratio: float | None) -> str | None:
    """The sentence for a claim whose host was not as fast as the study's; None where it was."""
    if ratio is None or abs(ratio - 1) <= DRIFT_LIMIT:
        return None
    how = "slower" if ratio > 1 else "faster"
    return (
        f"the host was {how} than in the study: a request took {ratio:.2f} x the CPU time, and "
        "what was predicted is for the host as it was; run the study again to plan for it as it is"
    )


def _open(m: Measurement) -> bool:
    return (
        m.role == "cell" and m.run.mode == "open" and m.valid and m.ok > 0 and m.cpu.replica_s > 0
    )


def _rps(m: Measurement) -> float:
    return m.completed_rps / m.deployment.replicas
