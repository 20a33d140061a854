"""The verdict of a run, from its samples."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.arrivals import Ramp
from loadtests.objective import Slo, Verdict
from loadtests.records import LoadRun
from loadtests.summary import LoadResult, Workers, summarise
from loadtests.verdict import verdict_of

from .answered import answered

RUN = LoadRun(mode="open", batch=1, duration_s=40, rate_rps=200)
SLO = Slo(quantile=0.99, limit_ms=100)
DUE = np.arange(8000) / 200


def run_of(latency_s: np.ndarray, run: LoadRun = RUN) -> LoadResult:
    samples = answered(DUE[: len(latency_s)], DUE[: len(latency_s)] + latency_s)
    return summarise(samples, run.duration_s, Workers(), stationary=run.stationary)


NOISE = np.random.default_rng(3).gamma(20, 0.0005, len(DUE))


@pytest.mark.parametrize(
    ("run", "times", "verdict"),
    [
        (RUN, np.ones(len(DUE)), Verdict.HOLDS),
        (RUN, np.linspace(1, 1.15, len(DUE)), Verdict.UNDECIDED),
        (RUN, np.linspace(8, 16, len(DUE)), Verdict.FAILS),
        (
            RUN.model_copy(update={"arrivals": Ramp(from_rps=100, to_rps=300)}),
            np.linspace(1, 1.15, len(DUE)),
            Verdict.HOLDS,
        ),
    ],
    ids=["steady", "drifts", "drifts beyond the limit", "under a ramp"],
)
def test_what_drifts_is_not_said_to_hold(run: LoadRun, times: np.ndarray, verdict: Verdict) -> None:
    """Drift under steady traffic leaves an objective undecided, one that fails failed."""
    judged = verdict_of(run_of(times * NOISE, run), run, SLO, replicas=None)
    assert judged.verdict == verdict
    assert ("not steady" in judged.reason) == (verdict == Verdict.UNDECIDED)
