"""Whether a confirmation met the host that the plan was made for: CPU time of a request."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from loadtests.arrivals import Mix
from loadtests.drift import DRIFT_LIMIT
from loadtests.records import Measurement


def pace(runs: Sequence[Measurement], studied: Iterable[Measurement]) -> float | None:
    """CPU time of a request in ``runs`` over that in the study, at as many req/s a replica.

    1.3: the same work took 1.3 times the CPU time, so the host was that much slower. Compared
    are open-loop runs of the same key; between the rates that were studied CPU time is
    interpolated, beyond them that of the nearest is taken. A run of a mix is held against the mean
    of its batch sizes, by weight. None where there is nothing to compare.
    """
    keys = {(run.key, run.run.mix) for run in runs}
    if len(keys) != 1:
        return None
    ((key, mix),) = keys
    alone = [m for m in studied if _open(m) and m.run.mix is None]
    laws: list[tuple[float, list[float], list[float]]] = []
    for batch, share in _shares(key[-1], mix).items():
        points = sorted((_rps(m), m.replica_cpu_ms) for m in alone if m.key == (*key[:-1], batch))
        if not points:
            return None
        laws.append((share, [rate for rate, _ in points], [cpu_ms for _, cpu_ms in points]))

    def then(rate_rps: float) -> float:
        return sum(share * float(np.interp(rate_rps, at, cpu)) for share, at, cpu in laws)

    ratios = [run.replica_cpu_ms / then(_rps(run)) for run in runs if run.ok]
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


def _shares(batch: int, mix: Mix | None) -> dict[int, float]:
    return {batch: 1.0} if mix is None else mix.shares


def _open(m: Measurement) -> bool:
    return (
        m.role == "cell" and m.run.mode == "open" and m.valid and m.ok > 0 and m.cpu.replica_s > 0
    )


def _rps(m: Measurement) -> float:
    return m.completed_rps / m.deployment.replicas
