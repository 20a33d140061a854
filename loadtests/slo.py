"""Whether a latency objective is proven: holds, fails, or undecided for want of samples.

The rule is MLPerf's early stopping (Reddi et al., MLPerf Inference Benchmark, 2020, and
the LoadGen's early_stopping): with ``over`` of n requests beyond the limit, "the quantile
is at most the limit" holds at confidence c when P(Binomial(n, 1 - quantile) <= over) is
at most 1 - c. Its mirror image proves the contrary. Both are for independent requests.
Ours queue, so n and ``over`` are first divided by what correlation costs, see
:mod:`loadtests.batch_means`. That is right but expensive: near the limit it takes
hundreds of thousands of requests to decide. Where the service times are known, luck with
the schedule is taken out instead, see :mod:`loadtests.replay`, and what remains is
compared with the limit by its standard error. How often the rules are right is measured
by ``benchmarks/slo_calibration.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.special import betainc
from scipy.stats import norm
from scipy.stats import t as student

from loadtests import batch_means
from loadtests.objective import CONFIDENCE, Slo, SloVerdict, Verdict
from loadtests.replay import Evidence, Replay, long_run

_WIDER = 5.0  # times the tail beyond the quantile
_FOREVER = 1e8  # requests; an objective that needs more is at its limit
_GROWTH_SAMPLES = 600


def judge_slo(
    latencies_s: np.ndarray,
    slo: Slo,
    confidence: float = CONFIDENCE,
    *,
    replay: Replay | None = None,
) -> SloVerdict:
    """Judge ``slo`` by due-to-done latencies, shape [n], in order of due time.

    Failed and unsent requests are inf, which is over any limit. The confidence is that of
    one look: a verdict that is asked for again and again until it comes out deserves a
    higher one. Give a ``replay`` where arrivals were Poisson and service times are known;
    it is used where it is found to apply, else the reason says why not.

    Raises ValueError for latencies that are negative or not a number.
    """
    latencies = np.asarray(latencies_s, dtype=float)
    if np.isnan(latencies).any() or (latencies < 0).any():
        raise ValueError("latencies must be numbers from 0; a failed request is inf")
    n, over = len(latencies), int(np.count_nonzero(latencies > slo.limit_ms / 1e3))
    growing = backlog_grows(latencies)
    found: Evidence | str | None = None
    if replay is not None and not growing:
        found = long_run(latencies, slo.limit_ms / 1e3, slo.quantile, replay)
    seen = found if isinstance(found, Evidence) else _of_this_run(latencies, slo, confidence)
    rule = partial(_verdict, seen, slo.quantile, confidence)
    verdict, missing = Verdict.FAILS, None
    if not growing:
        verdict = rule(1.0) if n >= batch_means.FEWEST else Verdict.UNDECIDED
    if verdict == Verdict.UNDECIDED:
        missing = _missing(n, rule) if n else required_n(0, slo.quantile, confidence)
    replayed = seen is found
    reason = _reason(verdict, missing, growing=growing, replayed=replayed)
    known = math.isfinite(seen.quantile_s)
    return SloVerdict(
        slo=slo,
        verdict=verdict,
        reason=f"{reason} ({found})" if isinstance(found, str) else reason,
        n=n,
        over=over,
        share_over=seen.share,
        quantile_ms=1e3 * seen.quantile_s if known else None,
        quantile_error=seen.quantile_error if known else None,
        effective_n=seen.effective_n,
        replayed=replayed,
        backlog_growing=growing,
        confidence=confidence,
        samples_missing=missing,
    )


def decide(effective_n: float, share: float, quantile: float, confidence: float) -> Verdict:
    """The binomial rule and its mirror image, at ``effective_n`` trials.

    Trials and successes need not be whole: P(Binomial(n, p) <= t) is the incomplete beta
    function I(1 - p; n - t, t + 1), which interpolates between whole numbers.
    """
    n, t, p = effective_n, share * effective_n, 1 - quantile
    if n > t and betainc(n - t, t + 1, 1 - p) <= 1 - confidence:
        return Verdict.HOLDS
    if t > 0 and betainc(t, n - t + 1, p) <= 1 - confidence:
        return Verdict.FAILS
    return Verdict.UNDECIDED


def required_n(over: int, quantile: float, confidence: float = CONFIDENCE) -> int:
    """Fewest independent requests with ``over`` late ones that prove the objective.

    >>> [required_n(t, 0.99) for t in (0, 1, 2, 5)]
    [459, 662, 838, 1307]
    """
    low, high = over, over + 1
    while not _proves(high, over, quantile, confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _proves(middle, over, quantile, confidence):
            high = middle
        else:
            low = middle
    return high


def backlog_grows(latencies_s: np.ndarray) -> bool:
    """Whether the queue grew from beginning to end, shape [n] in order of due time.

    A stable queue empties now and then, and then latency is back where it began. In one
    that grows, hardly a request of each third is as fast as the middle one of the third
    before, and by the last third latency has doubled: a host that slows down a little
    also moves all requests, and makes no backlog. A hundredth is forgiven, for answers
    that overtake.
    """
    latencies = latencies_s[np.isfinite(latencies_s)]
    if len(latencies) < _GROWTH_SAMPLES:
        return False
    first, second, third = np.array_split(latencies, 3)
    last = np.quantile(third, 0.01)
    return bool(
        np.quantile(second, 0.01) > np.median(first)
        and last > np.median(second)
        and last > 2 * np.median(first)
    )


def _proves(n: int, over: int, quantile: float, confidence: float) -> bool:
    return bool(betainc(n - over, over + 1, quantile) <= 1 - confidence)


def _verdict(seen: Evidence, quantile: float, confidence: float, times: float) -> Verdict:
    """What the evidence says, or would say of so many ``times`` the requests."""
    if seen.score is None:
        return decide(seen.effective_n * times, seen.share, quantile, confidence)
    certain = seen.score * math.sqrt(times) / float(norm.ppf(confidence))
    return Verdict.HOLDS if certain >= 1 else Verdict.FAILS if certain <= -1 else Verdict.UNDECIDED


def _of_this_run(latencies: np.ndarray, slo: Slo, confidence: float) -> Evidence:
    """The run as it was, with n deflated by correlation.

    Few clusters of late requests reach the limit itself, fewest when the objective holds,
    so the inflation at the run's own quantile and further down is looked at, too. The
    variance is itself estimated, which is what Student's t is for. The error of the
    quantile is that of its share, over the slope of the tail in between.
    """
    n, tail = len(latencies), 1 - slo.quantile
    if n < batch_means.FEWEST:
        share = float(np.mean(latencies > slo.limit_ms / 1e3)) if n else 0.0
        return Evidence(share=share, quantile_s=math.inf, quantile_error=1.0, effective_n=n)
    wider = min(_WIDER * tail, (1 + tail) / 2)
    own, lower = np.quantile(latencies, [1 - tail, 1 - wider], method="inverted_cdf")
    late = latencies > slo.limit_ms / 1e3
    cost = max(batch_means.inflation(x) for x in (late, latencies > own, latencies > lower))
    doubt = student.ppf(confidence, batch_means.BATCHES - 1) / norm.ppf(confidence)
    effective = float(n / (cost * doubt**2))
    flat = math.log(own / lower) / math.log(wider / tail) if 0 < lower < own < math.inf else 0.0
    return Evidence(
        share=float(late.mean()),
        quantile_s=float(own),
        quantile_error=flat * math.sqrt((1 - tail) / (tail * effective)),
        effective_n=effective,
    )


def _missing(n: int, rule: Callable[[float], Verdict]) -> int | None:
    """More requests until a verdict, if late ones and correlation stay what they are."""
    low = high = 1.0
    while rule(high) == Verdict.UNDECIDED:
        low, high = high, 2 * high
        if high * n > _FOREVER:
            return None
    for _ in range(40):
        middle = (low + high) / 2
        if rule(middle) == Verdict.UNDECIDED:
            low = middle
        else:
            high = middle
    return max(math.ceil(high * n) - n, batch_means.FEWEST - n, 1)


def _reason(verdict: Verdict, missing: int | None, *, growing: bool, replayed: bool) -> str:
    if growing:
        return "the backlog grew from beginning to end"
    if verdict != Verdict.UNDECIDED:
        how = "share expected over all schedules" if replayed else "binomial rule"
        return f"{how}, correlation counted"
    if missing is None:
        return "too near the limit to be decided by any number of requests"
    return f"about {missing} more requests are needed"
