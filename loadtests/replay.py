"""A measured run, judged over all schedules that might have been drawn instead of its own.

At utilisation .8 the p99 of 20,000 requests often misses its long-run value by a tenth,
mostly because the schedule happened to hold more or fewer bunches than usual. But the
law of the schedule is known: we drew it. So the share of late requests is conditioned on
the service times that were measured (conditional Monte Carlo as a control variate; Law,
Simulation Modeling and Analysis, 11.4 and 11.5):

    share = measured - replayed on the schedule that was used + expected over all schedules

Replayed is Lindley's recursion; expected is exact, see :mod:`loadtests.stationary`. The
replay need not be a true model of the server: what it gets wrong stays in the first
difference, with its variance. Assumed is one server whose service times follow neither
from the queue nor from one another. Both are tested: a small fault costs a margin, a large
one the replay.

What a run does not show is not known: service that wanders more slowly than over an eighth
of the run, stalls so rare that none occurred, a dependence on the load that is within
chance. Simulated faults of that size (services 1 % slower in the queue, or wandering by
1 %) left verdicts 10 % off the limit right, but on the limit a fifth to half of them claimed
to know. Several replicas have no such exact law and are not replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loadtests.batch_means import inflation, variance_of_mean
from loadtests.stationary import headroom, influence, quantile, share_late

FEWEST = 2000
"""Below this many requests the law of the service times is itself too uncertain."""

MOST_UTILISATION = 0.95
"""Nearer to saturation hardly a run is long enough to be called stationary."""

_BELIEVED = 3.0  # standard errors
_QUEUE = 32  # requests; queues at usual utilisations forget within these
_LONGEST = 8  # sums of an eighth of the run: slower changes cannot be told from chance
_WORSE = 1.5  # of what the longest quarter of the waits shows
_MOST_MARGIN = 0.05  # of the service times
_MOST_SKEW = 0.25  # of an estimate's error; beyond, a handful of service times decides
_EXPLAINED = 0.5  # of the variance; a replay that explains less is of another queue
_FLAT = 1e-6  # of a share: nothing to divide by
_RESOLUTION = 5e-4  # of the service times: what lattice and clocks can tell apart


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay needs, in the order of the latencies; arrays of shape [n].

    ``rate_rps`` is the rate of the Poisson process that ``due_s`` was drawn from, not the
    one that came of it. A service time that is unknown (the request failed) is nan.
    """

    due_s: np.ndarray
    service_s: np.ndarray
    rate_rps: float
    replicas: int = 1


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the latencies against an objective.

    ``share`` over the limit, and the quantile (inf: of a failed request) with its relative
    standard error. ``effective_n`` independent requests would say as much; after a replay
    these may be more than were sent. ``score``, after a replay: the distance to the
    objective in standard errors, normal where it is just met, positive where it holds.
    """

    share: float
    quantile_s: float
    quantile_error: float
    effective_n: float
    score: float | None = None


@dataclass(frozen=True)
class _Doubt:
    """What faults of the assumptions cost: more variance, slower services, and a margin.

    ``stretch`` and ``margin`` are relative to the service times.
    """

    memory: float
    stretch: float
    margin: float


@dataclass(frozen=True)
class _Rest:
    """The share of requests late only in measurement, less that late only in the replay.

    ``own_s`` is the replay's quantile.
    """

    share: float
    variance: float
    own_s: float


def long_run(
    latencies_s: np.ndarray, limit_s: float, quantile: float, replay: Replay
) -> Evidence | str:
    """Judge latencies of shape [n], in order of due time (inf: failed), or say why not."""
    if not len(latencies_s) == len(replay.due_s) == len(replay.service_s):
        sizes = f"{len(replay.due_s)} due times, {len(replay.service_s)} service times"
        raise ValueError(f"{len(latencies_s)} latencies, {sizes}: give one of each a request")
    answered = np.isfinite(latencies_s) & np.isfinite(replay.service_s)
    served, service = replay.service_s[answered], np.nan_to_num(replay.service_s)
    if replay.replicas != 1:
        return f"a replay needs one replica, not {replay.replicas}"
    if len(served) < FEWEST:
        return f"{len(served)} answers are too few for a replay, {FEWEST} are needed"
    busy = replay.rate_rps * float(served.mean())
    if not 0 < busy <= MOST_UTILISATION:
        return f"a replay needs a server at most {MOST_UTILISATION:.0%} busy, not {busy:.0%}"
    again = replayed(latencies_s, replay.due_s, service)
    doubt = _doubt(served, (again - service)[answered], busy)
    if max(doubt.stretch, doubt.margin) > _MOST_MARGIN:
        return "service times depend on the load or on one another, so they cannot be redrawn"
    overhead = float(np.median((latencies_s - again)[answered]))
    if overhead >= limit_s:
        return "what is neither queue nor service takes longer than the limit"
    rest = _rest(latencies_s - overhead, again, limit_s - overhead, quantile)
    if rest is None:
        return "the replay does not explain which requests were late"
    found = _judged(served, replay.rate_rps, limit_s - overhead, 1 - quantile, rest, doubt)
    if found is None:
        return "a handful of slow requests decides, and too few of them were seen"
    return replace(found, quantile_s=found.quantile_s + overhead)


def replayed(latencies_s: np.ndarray, due_s: np.ndarray, service_s: np.ndarray) -> np.ndarray:
    """Time in system behind one server, first come first served; all of shape [n].

    With U the partial sums of S - A, the wait is U minus its running minimum, which is at
    most 0 (Lindley, The theory of queues with a single server, 1952). U begins with the
    work that was there before, the most of it that no later latency contradicts.
    """
    walk = np.append(0.0, np.cumsum(service_s[:-1] - np.diff(due_s)))
    walk += max(0.0, float(np.min(latencies_s - service_s - walk)))
    return np.asarray(walk - np.minimum(np.minimum.accumulate(walk), 0.0) + service_s)


def _doubt(service: np.ndarray, wait: np.ndarray, busy: float) -> _Doubt:
    """How far the service times are from being independent, where that is beyond chance.

    Memory makes a queue longer as more variable services would: in heavy traffic it goes
    with (1 + c^2 memory) / (1 - rho), so it is about that of services slower by
    ``stretch``. Memory longer than queues last does less; how much is not known. Neither
    is it of a dependence on the load, of which the size is: how much slower or faster
    those were served who had waited longest, for reasons that earlier requests made.
    """
    n, mean = len(service), float(service.mean())
    spread = float(service.var()) / mean**2
    if spread < _RESOLUTION**2:
        return _Doubt(1.0, 0.0, 0.0)
    short, memory = _memory(service, _QUEUE), _memory(service, n // _LONGEST)
    each = (1 - busy) * spread / (1 + spread)
    longest = wait >= np.quantile(wait, 0.75)
    slower = abs(float(service[longest].mean()) / mean - 1)
    chance = np.sqrt(spread * memory * (1 / np.count_nonzero(longest) - 1 / n))
    load = _WORSE * slower if slower > max(_BELIEVED * chance, _RESOLUTION) else 0.0
    return _Doubt(memory, each * (short - 1), each * (memory - 1) / 2 + load)


def _memory(service: np.ndarray, longest: int) -> float:
    """Variance of sums of neighbours over that of independent ones, where beyond chance.

    That is 1 + 2 sum (1 - k/m) r_k for sums of m, with autocorrelations r_k of variance
    1/n by chance. The greatest is taken, of m up to ``longest``.
    """
    n = len(service)
    sums = np.append(0.0, np.cumsum(service - service.mean()))
    lengths = 2 ** np.arange(1, int(np.log2(longest)) + 1)
    ratios = [float(np.var(sums[m:] - sums[:-m])) / (m * float(service.var())) for m in lengths]
    chance = np.sqrt(4 / n * (lengths / 3 - 1 / 2 + 1 / (6 * lengths)))
    believed = np.array(ratios) > 1 + _BELIEVED * chance
    return max(np.array(ratios)[believed], default=1.0)


def _rest(
    latencies: np.ndarray, again: np.ndarray, limit_s: float, quantile: float
) -> _Rest | None:
    """What the replay gets wrong at the limit; None when it is about another queue.

    Few requests reach the limit while the objective holds, so its variance is also looked
    for at the replay's own quantile.
    """
    own = float(np.quantile(again, quantile))
    late = again > own
    off = _variance((latencies > own).astype(float) - late)
    if off > _EXPLAINED * inflation(late) * quantile * (1 - quantile) / len(late):
        return None
    missed = (latencies > limit_s).astype(float) - (again > limit_s)
    return _Rest(float(missed.mean()), max(off, _variance(missed)), own)


def _judged(
    service: np.ndarray,
    rate_rps: float,
    limit_s: float,
    allowed: float,
    rest: _Rest,
    doubt: _Doubt,
) -> Evidence | None:
    """The score of the queue and of the ``rest``; None when the law's tail is unknown.

    Judged is the headroom: the factor by which all service times could grow until the
    objective is just met. Its error is that at the null hypothesis, since services that
    were faster by luck also look more certain, and skewness is corrected for (Hall, On
    the removal of skewness by transformation, 1992).
    """
    service = np.exp(doubt.stretch) * service
    n, now = len(service), share_late(service, rate_rps, limit_s)
    share, binomial = min(max(now + rest.share, 0.0), 1.0), allowed * (1 - allowed)
    if rest.share >= allowed:  # even without a queue
        return Evidence(
            share=share,
            quantile_s=np.inf,
            quantile_error=1.0,
            effective_n=binomial / rest.variance,
            score=(allowed - rest.share) / float(np.sqrt(rest.variance)),
        )
    factor, steep = headroom(service, rate_rps, limit_s, allowed - rest.share)
    pull = influence(np.exp(factor) * service, rate_rps, limit_s)
    deviation = float(pull.std())
    skew = float(np.mean(pull**3)) / (deviation**3 or 1.0) / np.sqrt(n)
    if abs(skew) > _MOST_SKEW:
        return None
    error = deviation * np.sqrt(doubt.memory / n) / max(steep, _FLAT)
    error = np.hypot(error, _RESOLUTION)
    late_by = -np.sign(factor) * max(abs(factor) - doubt.margin, 0.0) / error
    late_by += skew / 3 * late_by**2 + skew**2 / 27 * late_by**3 + skew / 6
    gap = max(abs(now + rest.share - allowed), _FLAT)
    at, steep_here = quantile(service, rate_rps, allowed - rest.share, rest.own_s)
    here = influence(service, rate_rps, np.exp(at)).std() * np.sqrt(doubt.memory / n)
    return Evidence(
        share=share,
        quantile_s=float(np.exp(at)),
        quantile_error=np.hypot(here, np.sqrt(rest.variance)) / max(-steep_here, _FLAT),
        effective_n=binomial / ((steep * error) ** 2 + rest.variance + _FLAT**2),
        score=-late_by / float(np.hypot(1.0, late_by * np.sqrt(rest.variance) / gap)),
    )


def _variance(values: np.ndarray) -> float:
    """Of the mean; never below that of independent values, which periodic ones could seem."""
    return max(variance_of_mean(values), float(values.var()) / len(values))
