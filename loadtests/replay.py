"""A measured run replayed on fresh arrivals: luck with the schedule is taken out.

At utilisation .8 the p99 of 20,000 requests often misses its long-run value by a tenth,
mostly because the schedule happened to hold more or fewer bunches than usual. But the
law of the schedule is known: we drew it. So the share of late requests is conditioned on
the service times that were measured (conditional Monte Carlo as a control variate; Law,
Simulation Modeling and Analysis, 11.4 and 11.5):

    share = measured - replayed on the schedule that was used + expected over all schedules

The replay is Lindley's recursion W' = max(0, W + S - A) over the measured service times.
It need not be a true model of the server: whatever it gets wrong stays in the first
difference, with its variance. Assumed is that service times neither follow from the
arrivals nor remember for long; both are tested, and where they fail no replay is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import f

from loadtests.batch_means import BATCHES, inflation, variance_of_mean

MOST_UTILISATION = 0.9
"""Nearer to the knee a queue forgets its start too slowly for a replay of this length."""

FEWEST = 2000
"""Below this many requests the law of the service times is itself too uncertain."""

# Requests resampled together, so that their correlation survives. Longer blocks would also
# keep chance bunches of slow requests, which then look like the server's nature.
_BLOCK = 20
_STEPS = 2_400_000  # of all fresh lanes together: about 0.1 s
_DEPENDENT = 3.5  # standard errors
_MEMORY = 0.9995  # confidence that stretches vary by more than their blocks would make them
_EXPLAINED = 0.5  # of the variance; a replay that explains less is of another queue


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay needs, in the order of the latencies; arrays of shape [n].

    ``rate_rps`` is the rate of the Poisson process that ``due_s`` was drawn from, not the
    one that came of it. A service time that is unknown (the request failed) is nan.
    """

    due_s: np.ndarray
    service_s: np.ndarray
    rate_rps: float


@dataclass(frozen=True)
class Share:
    """A share of requests over the limit, and what correlation cost (1: nothing)."""

    value: float
    inflation: float


def conditioned(
    latencies_s: np.ndarray, limit_s: float, quantile: float, replay: Replay, seed: int
) -> Share | str:
    """The share over ``limit_s`` expected over all schedules, or why it cannot be had.

    ``latencies_s`` has shape [n], in order of due time; a failed request is inf. The
    inflation relates the variance of the share to that of n independent trials.
    """
    service = np.nan_to_num(replay.service_s)
    n, busy = len(service), replay.rate_rps * float(service.mean())
    if not len(latencies_s) == len(replay.due_s) == n:
        raise ValueError(f"{len(latencies_s)} latencies, {len(replay.due_s)} due times, {n} served")
    if n < FEWEST:
        return f"{n} requests are too few for a replay, {FEWEST} are needed"
    if not 0 < busy <= MOST_UTILISATION:
        return f"a replay needs one server at most {MOST_UTILISATION:.0%} busy, not {busy:.0%}"
    replayed = lindley(replay.due_s, service)
    doubt = _dependence(service, replayed - service)
    if doubt:
        return doubt
    answered = np.isfinite(latencies_s)
    overhead = float(np.median((latencies_s - replayed)[answered])) if answered.any() else 0.0
    draw = np.random.default_rng(seed)
    lanes = _fresh_lanes(service, replay.rate_rps, draw)
    value, variance = lanes.expected(limit_s - overhead)
    own_s = float(np.quantile(lanes.sojourn_s, quantile))
    late, again = latencies_s > own_s + overhead, replayed > own_s
    off = variance_of_mean(late.astype(float) - again)
    if off > _EXPLAINED * inflation(late) * late.mean() * (1 - late.mean()) / n:
        return "the replay does not explain which requests were late"
    missed = (latencies_s > limit_s).astype(float) - (replayed > limit_s - overhead)
    value = max(value + float(missed.mean()), 0.0)
    variance += variance_of_mean(missed)
    # What must be told apart from the measured server is one that just meets the limit,
    # so its variance counts, too: services faster by luck also look more certain.
    factor = _to_just_meet(busy, (limit_s - overhead) / own_s)
    null = _fresh_lanes(factor * service, replay.rate_rps, draw)
    _, null_variance = null.expected(float(np.quantile(null.sojourn_s, quantile)))
    spread = (null_variance + off) * n / (quantile * (1 - quantile))
    if 0 < value < 1:
        spread = max(spread, variance * n / (value * (1 - value)))
    return Share(value, max(1.0, spread))


def _to_just_meet(busy: float, ratio: float) -> float:
    """Factor on the service times that moves the quantile by ``ratio``, about.

    Under load the quantile goes with S / (1 - utilisation), as the mean wait does. Bounded:
    beyond, the verdict is clear, and near saturation lanes would have to be longer.
    """
    factor = ratio / max(1 - busy + ratio * busy, 0.01)
    return float(np.clip(factor, 0.8, min(1.15, 0.95 / busy)))


def lindley(due_s: np.ndarray, service_s: np.ndarray) -> np.ndarray:
    """Time in system behind one server, first come first served; shapes [..., n].

    With U the partial sums of S - A, the wait is U minus its running minimum (Lindley,
    The theory of queues with a single server, 1952).
    """
    steps = np.zeros_like(service_s)
    steps[..., 1:] = service_s[..., :-1] - np.diff(due_s, axis=-1)
    walk = np.cumsum(steps, axis=-1)
    return np.asarray(walk - np.minimum.accumulate(walk, axis=-1) + service_s)


@dataclass(frozen=True)
class _Lanes:
    """Independent replays on fresh schedules.

    ``sojourn_s`` has shape [lanes, requests]. ``moments`` [blocks, 3] are, of each block of
    measured service times, their mean, their mean square, and the square of their mean.
    ``features`` [lanes, 5] are a constant, the lane's excess over the measured moments,
    and that of its mean gap over the expected one.
    """

    sojourn_s: np.ndarray
    features: np.ndarray
    moments: np.ndarray

    def expected(self, threshold_s: float) -> tuple[float, float]:
        """Expected share over the threshold, and its variance from all sources.

        A regression over the lanes takes out what their own draws did (the constant is
        the share at the measured moments) and gives the slope by which the uncertainty
        of those moments reaches the share: the infinitesimal jackknife, of three features
        (Efron, Estimation and accuracy after model selection, 2014).
        """
        shares = (self.sojourn_s > threshold_s).mean(axis=1)
        slopes, *_ = np.linalg.lstsq(self.features, shares, rcond=None)
        residual = shares - self.features @ slopes
        lanes, known = self.features.shape
        noise = float(residual @ residual) / (lanes - known) / lanes
        return float(slopes[0]), noise + variance_of_mean(self.moments @ slopes[1:4])


def _fresh_lanes(service: np.ndarray, rate_rps: float, draw: np.random.Generator) -> _Lanes:
    """Many replays: service times in resampled blocks, gaps anew, the start left out."""
    busy = rate_rps * float(service.mean())
    spread = float(service.var() / service.mean() ** 2)
    # Ten times the relaxation time of the queue, in requests.
    warm = int(np.clip(10 * (1 + spread) / (1 - busy) ** 2, 500, 4000))
    length = 6 * warm // _BLOCK
    lanes = max(100, _STEPS // (length * _BLOCK))
    blocks = _blocks(service)
    means = blocks.mean(axis=1)
    moments = np.stack([means, (blocks**2).mean(axis=1), means**2], axis=1)
    places = draw.integers(0, len(blocks), (lanes, length))
    gaps = draw.exponential(1 / rate_rps, (lanes, length * _BLOCK))
    features = np.column_stack(
        [
            np.ones(lanes),
            moments[places].mean(axis=1) - moments.mean(axis=0),
            gaps.mean(axis=1) - 1 / rate_rps,
        ]
    )
    drawn = blocks[places].reshape(lanes, -1)
    sojourn = lindley(np.cumsum(gaps, axis=1), drawn)[:, warm:]
    return _Lanes(sojourn, features, moments)


def _blocks(service: np.ndarray) -> np.ndarray:
    """Consecutive service times, shape [blocks, requests of a block]."""
    return service[: len(service) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)


def _dependence(service: np.ndarray, wait: np.ndarray) -> str:
    """Why service times are not what a replay may redraw; empty when they are.

    They are when resampling blocks keeps the variance of their mean, and when a request's
    service time has nothing to do with its wait, which was made by earlier requests.
    """
    means = _blocks(service).mean(axis=1)
    short = means.var(ddof=1) / len(means)
    for length in (10, len(means) // BATCHES):
        stretches = means[: len(means) // length * length].reshape(-1, length).mean(axis=1)
        most = float(f.ppf(_MEMORY, len(stretches) - 1, len(means) - 1))
        if stretches.var(ddof=1) / len(stretches) > most * short > 0:
            return f"service times remember more than {_BLOCK} requests and cannot be redrawn"
    product = (service - service.mean()) * (wait - wait.mean())
    error = np.sqrt(variance_of_mean(product))
    if abs(product.mean()) > _DEPENDENT * error:
        return "service times depend on the load, so they cannot be replayed under another"
    return ""
