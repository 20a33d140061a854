"""Whether a latency objective is proven: holds, fails, or undecided for want of samples.

The rule is MLPerf's early stopping (Reddi et al., MLPerf Inference Benchmark, 2020, and
the LoadGen's early_stopping): with ``over`` of n requests beyond the limit, "the quantile
is at most the limit" holds at confidence c when P(Binomial(n, 1 - quantile) <= over) is
at most 1 - c. Its mirror image proves the contrary. Both are for independent requests.
Ours queue, so n and ``over`` are first divided by what correlation costs, see
:mod:`loadtests.batch_means`; and where the service times are known, luck with the
schedule is taken out, see :mod:`loadtests.replay`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betainc
from scipy.stats import norm
from scipy.stats import t as student

from loadtests import batch_means
from loadtests.objective import Slo, SloVerdict, Verdict
from loadtests.replay import Replay, Share, conditioned

_FOREVER = 1e8  # requests; an objective that needs more is at its limit
_GROWTH_SAMPLES = 600


def judge_slo(
    latencies_s: np.ndarray,
    slo: Slo,
    confidence: float = 0.99,
    *,
    replay: Replay | None = None,
    seed: int = 0,
) -> SloVerdict:
    """Judge ``slo`` by due-to-done latencies, shape [n], in order of due time.

    Failed and unsent requests are inf, which is over any limit. The confidence is that of
    one look: a verdict that is asked for again and again until it comes out deserves a
    higher one. Give a ``replay`` where requests were served one at a time and their
    service times are known; it is used where it is found to apply.

    Raises ValueError for latencies that are negative or not a number.
    """
    latencies = np.asarray(latencies_s, dtype=float)
    if np.isnan(latencies).any() or (latencies < 0).any():
        raise ValueError("latencies must be numbers from 0; a failed request is inf")
    n, over = len(latencies), int(np.count_nonzero(latencies > slo.limit_ms / 1e3))
    growing = backlog_grows(latencies)
    share, replayed, why = Share(over / n if n else 0.0, 1.0), False, ""
    if n >= batch_means.FEWEST:
        found = None if growing or replay is None else _replayed(latencies, slo, replay, seed)
        replayed, why = isinstance(found, Share), found if isinstance(found, str) else ""
        share = found if isinstance(found, Share) else _plain(latencies, slo)
    # The variance is itself estimated, which is what Student's t is for.
    doubt = student.ppf(confidence, batch_means.BATCHES - 1) / norm.ppf(confidence)
    effective = n / (share.inflation * doubt**2)
    enough = n >= batch_means.FEWEST
    verdict = decide(effective, share.value, slo.quantile, confidence) if enough else None
    if growing:
        verdict = Verdict.FAILS
    verdict = verdict or Verdict.UNDECIDED
    missing = None
    if verdict == Verdict.UNDECIDED:
        missing = _missing(n, effective, share.value, slo.quantile, confidence)
    return SloVerdict(
        slo=slo,
        verdict=verdict,
        reason=_reason(verdict, missing, growing=growing) + (f" ({why})" if why else ""),
        n=n,
        over=over,
        share_over=min(share.value, 1.0),
        effective_n=effective,
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


def required_n(over: int, quantile: float, confidence: float = 0.99) -> int:
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


def _plain(latencies: np.ndarray, slo: Slo) -> Share:
    """The measured share, and the largest inflation seen at the limit and below it.

    Few clusters reach the limit itself, fewest when the objective holds, so the
    inflation at the run's own quantile and at five times its tail are looked at, too.
    """
    late = latencies > slo.limit_ms / 1e3
    levels = [q for q in (slo.quantile, 1 - 5 * (1 - slo.quantile)) if q > 0]
    own = np.quantile(latencies, levels, method="inverted_cdf")
    seen = [batch_means.inflation(latencies > level) for level in own]
    return Share(float(late.mean()), max(batch_means.inflation(late), *seen))


def _replayed(latencies: np.ndarray, slo: Slo, replay: Replay, seed: int) -> Share | str:
    return conditioned(latencies, slo.limit_ms / 1e3, slo.quantile, replay, seed)


def _missing(
    n: int, effective: float, share: float, quantile: float, confidence: float
) -> int | None:
    """More requests until a verdict, if late ones and correlation stay what they are."""
    if not n:
        return max(required_n(0, quantile, confidence), batch_means.FEWEST)
    low = high = max(effective, 1.0)
    while decide(high, share, quantile, confidence) == Verdict.UNDECIDED:
        low, high = high, 2 * high
        if high > _FOREVER:
            return None
    for _ in range(40):
        middle = (low + high) / 2
        if decide(middle, share, quantile, confidence) == Verdict.UNDECIDED:
            low = middle
        else:
            high = middle
    return max(math.ceil(high * n / effective) - n, batch_means.FEWEST - n, 1)


def _reason(verdict: Verdict, missing: int | None, *, growing: bool) -> str:
    if growing:
        return "the backlog grew from beginning to end"
    if verdict != Verdict.UNDECIDED:
        return "binomial rule on the effective number of requests"
    if missing is None:
        return "too near the limit to be decided by any number of requests"
    return f"about {missing} more requests are needed"
