"""The verdict of one run on a latency objective, from its samples."""

from __future__ import annotations

import numpy as np

from loadtests.objective import CONFIDENCE, Slo, SloVerdict, Verdict
from loadtests.records import LoadRun
from loadtests.steady import FEWEST
from loadtests.summary import LoadResult


def verdict_of(
    result: LoadResult,
    run: LoadRun,
    slo: Slo,
    *,
    replicas: int | None,
    confidence: float = CONFIDENCE,
) -> SloVerdict:
    """Judge ``slo`` by the steady part of a run; ``replicas`` None is a server that is not ours.

    Failed and unsent requests are over any limit. Where one replica answered Poisson
    arrivals and told its service times, luck with the schedule is taken out. A run that
    never became steady under steady traffic proves nothing of the long run: what would hold
    is undecided. Of fewer values than a warm-up takes to be seen, that is not known.
    """
    # Judging needs scipy, which takes longer to import than many a verb to run.
    from loadtests.replay import Replay
    from loadtests.slo import judge_slo

    samples = result.samples.take(result.samples.due_s >= result.steady_from_s)
    replay = None
    known = len(samples) > 0 and not np.isnan(samples.service_s).all()
    if replicas is not None and run.rate_rps is not None and run.poisson and known:
        replay = Replay(
            due_s=samples.due_s,
            service_s=samples.service_s,
            rate_rps=run.rate_rps,
            replicas=replicas,
        )
    judged = judge_slo(samples.latency_s, slo, confidence, replay=replay)
    unsteady = run.stationary and not result.steady.steady and result.ok >= FEWEST
    if not unsteady or judged.verdict != Verdict.HOLDS:
        return judged
    reason = f"latency was not steady: {result.steady.reason}"
    return judged.model_copy(update={"verdict": Verdict.UNDECIDED, "reason": reason})
