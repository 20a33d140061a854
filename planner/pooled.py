"""Requests of several runs, judged together against one objective."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from loadtests.histogram import Histogram
from loadtests.objective import Slo, SloVerdict, Verdict
from loadtests.records import OVERLOAD, EndpointMeasurement, FaultCode, Measurement
from loadtests.slo import decide
from planner.claim import Beside, Judged
from serving.errors import BadInput

CONFIDENCE = 0.99

Run = Measurement | EndpointMeasurement

# Failed and refused requests are data as well: they are late.
_ANSWERS = OVERLOAD | {FaultCode.ERRORS}
_FOREVER = 1e8


def confidence_of_look(confidence: float, look: int) -> float:
    """Confidence that the ``look``-th judgement of a series needs; 0 is one alone.

    A series that goes on until it is decided has many chances to be wrong. Half of the
    doubt that is allowed goes to the first look, a quarter to the second, and so on: all of
    them together are wrong no more often than one look at ``confidence``.
    """
    return 1 - (1 - confidence) * 0.5**look


def confidence_of_objective(confidence: float, objectives: int) -> float:
    """Confidence that each of so many objectives is judged at.

    Together they are then wrong no more often than one at ``confidence`` (Bonferroni).
    """
    return 1 - (1 - confidence) / objectives


def unbelievable(run: Run, forgiven: Collection[FaultCode] = ()) -> str | None:
    """Why a run proves nothing and has to be repeated; None for one that is an answer."""
    serious = [f for f in run.faults if f.code not in _ANSWERS and f.code not in forgiven]
    if not serious:
        return None
    failed = ", ".join(f"{n} x {name}" for name, n in sorted(run.errors.items()))
    return f"{serious[0].code}: {serious[0].detail}" + (f" ({failed})" if failed else "")


def judged(
    runs: Sequence[Run], verdicts: Sequence[SloVerdict], slo: Slo, confidence: float
) -> Judged:
    """Requests of all ``runs`` together, by the binomial rule, at their effective number.

    Without ``verdicts`` (one for each run) requests are taken as independent. BadInput for
    one from a replay: that was decided by its score, of which the number and the share that
    are pooled here know neither the margin nor the skewness.
    """
    if any(v.replayed for v in verdicts):
        raise BadInput("a verdict from a replay cannot be pooled; judge the run by its latencies")
    if verdicts:
        n, over = sum(v.n for v in verdicts), sum(v.over for v in verdicts)
        effective = _effective(verdicts)
        share = sum(v.share_over * v.n for v in verdicts) / n if n else 0.0
    else:
        n = sum(_judgeable(m) for m in runs)
        over = sum(_over(m, slo) for m in runs)
        effective, share = float(n), over / n if n else 0.0
    verdict = decide(effective, share, slo.quantile, confidence) if n else Verdict.UNDECIDED
    if any(_fell_behind(m) for m in runs) or any(v.backlog_growing for v in verdicts):
        verdict = Verdict.FAILS  # its latencies are lower bounds, however they look
    return Judged(
        verdict=verdict.value,
        n=n,
        over=over,
        effective_n=effective,
        share_over=share,
        measured_ms=_quantile_ms(runs, slo.quantile),
    )


def verdicts_on(runs: Sequence[Run], slo: Slo) -> list[SloVerdict]:
    """The verdict of each run on an objective; BadInput where one has none."""
    found = [v for run in runs for v in run.verdicts if v.slo == slo]
    if len(found) != len(runs):
        raise BadInput(f"{len(found)} verdicts on {slo} for {len(runs)} runs; give one for each")
    return found


def with_beside(
    beside: Sequence[Beside], verdict: Verdict, reason: str, where: str = ""
) -> tuple[Verdict, str]:
    """The verdict on all objectives, where the principal one does not fail."""
    for one in beside:
        if one.failed_alone or one.judged.verdict == "fails":
            return Verdict.FAILS, f"{where}{one.slo} does not hold"
    for one in beside:
        if verdict == Verdict.HOLDS and one.judged.verdict == "undecided":
            return (
                Verdict.UNDECIDED,
                f"{where}too few requests, or too near the limit, for {one.slo}",
            )
    return verdict, reason


def missing(pool: Judged, slo: Slo, confidence: float) -> int | None:
    """About how many more requests decide it, if the share over the limit stays; None: none do."""
    low = high = max(pool.effective_n, 1.0)
    while decide(high, pool.share_over, slo.quantile, confidence) == Verdict.UNDECIDED:
        low, high = high, 2 * high
        if high > _FOREVER:
            return None
    while high - low > 1:
        middle = (low + high) / 2
        if decide(middle, pool.share_over, slo.quantile, confidence) == Verdict.UNDECIDED:
            low = middle
        else:
            high = middle
    each = pool.n / pool.effective_n if pool.effective_n else 1.0
    return max(1, math.ceil(high * each) - pool.n)


def most_missing(missing_requests: Sequence[int | None]) -> int | None:
    """So many decide all that is open; None where nothing is, or no number decides one of them."""
    if None in missing_requests:
        return None
    return max(filter(None, missing_requests), default=None)


def _effective(verdicts: Sequence[SloVerdict]) -> float:
    """Independent requests that say as much as all runs do together.

    Of a run with n requests, e of them effective, the share late has variance p(1 - p)/e.
    Shares are weighted by n, so that of their mean is p(1 - p) sum(n^2/e) / sum(n)^2. A run
    that says little pulls on the mean all the same: the sum of e would be too much.
    """
    told = [v for v in verdicts if v.n]
    if not told or any(v.effective_n <= 0 for v in told):
        return 0.0
    return sum(v.n for v in told) ** 2 / sum(v.n**2 / v.effective_n for v in told)


def _fell_behind(run: Run) -> bool:
    """Whether the server could not keep up; a run in which a replica was killed is not asked."""
    codes = {fault.code for fault in run.faults}
    return bool(codes & OVERLOAD) and codes <= _ANSWERS


def _unanswered(run: Run) -> int:
    return max(0, run.offered - run.ok)


def _judgeable(run: Run) -> int:
    """Requests behind the warm-up, and all that were not answered, wherever they were."""
    return run.due_to_done.count + _unanswered(run)


def _over(run: Run, slo: Slo) -> int:
    """Late requests of a run; one that was never answered is late."""
    return run.due_to_done.count_above(slo.limit_ms / 1e3) + _unanswered(run)


def _quantile_ms(runs: Sequence[Run], quantile: float) -> float | None:
    """The quantile over all requests that are judged; None when that one was not answered."""
    merged = Histogram.merge(m.due_to_done for m in runs)
    rank = max(1, math.ceil(round(quantile * sum(map(_judgeable, runs)), 9)))
    if rank > merged.count:
        return None
    return 1e3 * merged.quantile_s(rank / merged.count)
