"""How sure a quantile of a run is: an interval from order statistics, or a refusal.

Of n independent values the number below the true quantile q is binomial, whatever their law;
so two order statistics enclose it with a known probability (David and Nagaraja, Order
Statistics, 2003, 7.1). Where not even the largest value is beyond it surely enough, nothing is
known of the quantile from above, and it is refused. Requests that queue are worth fewer
independent ones, see :mod:`loadtests.batch_means`; ranks are chosen for that number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from loadtests import batch_means
from loadtests.histogram import Histogram
from loadtests.samples import UNSENT
from loadtests.summary import LoadResult
from serving.records import Record

CONFIDENCE = 0.95
QUANTILES = (0.5, 0.95, 0.99)
Kind = Literal["due_to_done", "sent_to_done", "dispatch_lag", "queue", "service"]

_WIDER = 5.0  # times the tail beyond the quantile, as in slo.py


class QuantileInterval(Record):
    """A quantile of one histogram of a run, of answered requests, and its 95 % interval.

    A refused one has no value; ``needed`` then says how many samples it takes.
    """

    of: Kind
    quantile: float = Field(gt=0, lt=1)
    value_s: float | None = Field(description="null: refused")
    low_s: float | None
    high_s: float | None
    n: int = Field(ge=0)
    effective_n: float = Field(ge=0, description="independent samples that would say as much")
    needed: int | None = Field(default=None, description="refused: samples that it takes")


def quantiles_of(result: LoadResult) -> tuple[QuantileInterval, ...]:
    """The quantiles of every histogram of a run; what correlation costs is seen in its samples."""
    return tuple(
        interval_of(kind, histogram, q, effective_n(values, q))
        for kind, histogram, values in _series(result)
        for q in QUANTILES
    )


def quantiles_in(
    recorded: Sequence[QuantileInterval], kind: Kind, histogram: Histogram
) -> tuple[QuantileInterval, ...]:
    """The quantiles of one histogram as they were recorded.

    Records from before they were get them from the histogram, as if samples were independent:
    their order is not in it.
    """
    found = tuple(one for one in recorded if one.of == kind and one.n == histogram.count)
    return found or tuple(interval_of(kind, histogram, q, histogram.count) for q in QUANTILES)


def interval_of(
    kind: Kind, histogram: Histogram, quantile: float, effective_n: float
) -> QuantileInterval:
    """The interval of a quantile whose samples are worth ``effective_n`` independent ones."""
    n, trials = histogram.count, int(effective_n)
    least = required_n(quantile)
    value = low = high = needed = None
    if trials < least:
        needed = max(n + 1, math.ceil(least * n / effective_n)) if effective_n >= 1 else least
    else:
        below, above = _ranks(trials, quantile)
        scale = (n + 1) / (trials + 1)
        (value,) = histogram.quantiles_s([quantile])
        low = histogram.at_rank_s(math.floor(below * scale))[0] if below else 0.0
        high = histogram.at_rank_s(math.ceil(above * scale))[1]
    return QuantileInterval(
        of=kind,
        quantile=quantile,
        value_s=value,
        low_s=low,
        high_s=high,
        n=n,
        effective_n=effective_n,
        needed=needed,
    )


def required_n(quantile: float) -> int:
    """Fewest independent samples of which the largest is beyond the quantile surely enough.

    >>> [required_n(q) for q in QUANTILES]
    [6, 72, 368]
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(quantile))


def fewest_n(quantile: float) -> int:
    """Fewest samples of which :func:`quantiles_of` prints the quantile: those without correlation.

    Requests that wait in one queue take a multiple of it.

    >>> [fewest_n(q) for q in QUANTILES]
    [6, 72, 399]
    """
    n = least = required_n(quantile)
    while n >= batch_means.FEWEST and n < least * _doubt(n) ** 2:
        n += 1
    return n


def effective_n(values: np.ndarray, quantile: float) -> float:
    """Independent values that would say as much of ``quantile`` as these, shape [n], in order.

    Few clusters of late requests reach a high quantile, so the correlation further down is
    looked at, too; that it is itself estimated is what Student's t is for. Of fewer values than
    show any correlation they count as independent.
    """
    n, tail = len(values), 1 - quantile
    if n < batch_means.FEWEST:
        return float(n)
    wider = min(_WIDER * tail, (1 + tail) / 2)
    own, lower = np.quantile(values, [quantile, 1 - wider], method="inverted_cdf")
    cost = max(batch_means.inflation(values > x) for x in (own, lower))
    return float(n / (cost * _doubt(n) ** 2))


def _doubt(n: int) -> float:
    """How much wider an interval is because its variance is estimated: Student's t over normal."""
    from scipy.special import ndtri, stdtrit  # slow to import, and most verbs measure nothing

    sure = (1 + CONFIDENCE) / 2
    return float(stdtrit(min(batch_means.BATCHES, n // 10) - 1, sure) / ndtri(sure))


def _ranks(trials: int, quantile: float) -> tuple[int, int]:
    """Ranks from 1 of the order statistics around the quantile; 0 is the bound below all."""
    from scipy.special import bdtr, bdtrik

    def fewest(sure: float) -> int:
        """The least count that is reached or stayed below with probability ``sure``."""
        count = max(0, math.ceil(float(bdtrik(sure, trials, quantile))))
        return count - 1 if count and bdtr(count - 1, trials, quantile) >= sure else count

    return fewest((1 - CONFIDENCE) / 2), fewest((1 + CONFIDENCE) / 2) + 1


def _series(result: LoadResult) -> Iterator[tuple[Kind, Histogram, np.ndarray]]:
    """Each histogram of the steady part with the values behind it, in order of due time."""
    steady = result.samples.take(result.samples.due_s >= result.steady_from_s)
    good = steady.take(steady.ok)
    sent = steady.take((steady.status != UNSENT) & ~steady.waited)
    yield "due_to_done", result.due_to_done, good.done_s - good.due_s
    yield "sent_to_done", result.sent_to_done, good.done_s - good.sent_s
    yield "dispatch_lag", result.dispatch_lag, sent.sent_s - sent.due_s
    yield "queue", result.queue, good.queue_s[~np.isnan(good.queue_s)]
    yield "service", result.service, good.service_s[~np.isnan(good.service_s)]
