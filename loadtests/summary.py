"""What the samples of a run say in numbers: counts, histograms, and where it was steady."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from loadtests.histogram import Histogram
from loadtests.samples import UNSENT, Samples
from loadtests.steady import NOT_LOOKED_FOR, Steady, steady_from

_BACKLOG_SAMPLES = 20
# A due time is split into whole seconds and nanoseconds for the timer.
_ROUNDING_S = 1e-6


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What the generator saw, over all its workers.

    ``scheduled`` is how many requests were to fall due; None in a closed loop. ``workers`` is how
    many shared them. Counts are of the
    whole run; histograms begin at the due time ``steady_from_s``. ``lost``
    are requests whose worker was lost with what it knew of them. ``waited`` found all
    ``connections`` that their worker may open busy. ``run_delay_s`` is how long the worker that
    was starved most wanted a CPU and had none. ``silence_s`` is the longest
    time without an answer while requests waited, ``silence_p99_s`` the 99th percentile of all
    the others, ``usual_s`` what one request takes, of several classes the slowest's.
    """

    scheduled: int | None
    workers: int
    offered: int
    ok: int
    unsent: int
    waited: int
    connections: int
    lost: int
    errors: dict[str, int]
    other_cell: int
    checked: int
    wrong: int
    inference: str
    elapsed_s: float
    backlog_growth: float
    silence_s: float
    silence_p99_s: float
    read_lag_p99_s: float | None
    usual_s: float
    backwards: int
    generator_cpu_s: float
    busiest_worker: float
    run_delay_s: float
    lost_workers: tuple[int, ...]
    stopped_workers: tuple[int, ...]
    steady: Steady
    steady_from_s: float
    due_to_done: Histogram
    sent_to_done: Histogram
    dispatch_lag: Histogram
    queue: Histogram
    service: Histogram
    samples: Samples


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What the workers report beside their samples; seconds are one figure per worker.

    ``run_delay_s`` is how long a worker wanted a CPU and had none.
    ``connections`` is how many a worker may open, of several the least.
    """

    checked: int = 0
    wrong: int = 0
    cpu_s: tuple[float, ...] = ()
    run_delay_s: tuple[float, ...] = ()
    connections: int = 0
    lost: tuple[int, ...] = ()
    stopped: tuple[int, ...] = ()


def summarise(
    samples: Samples,
    duration_s: float,
    workers: Workers,
    lost: int = 0,
    *,
    scheduled: int | None = None,
    stationary: bool = True,
    classes: np.ndarray | None = None,
) -> LoadResult:
    """Sum up one run of ``duration_s`` seconds; ``lost`` requests have no sample at all.

    ``scheduled`` is how many were to fall due, where that is known. Where arrivals change over
    the run (``stationary`` false) a hot start is traffic that was asked for, and nothing is left
    out as warm-up. ``classes`` are those of the bodies, shape [bodies], where there are several.
    """
    errors = Counter(samples.error[samples.error != ""].tolist())
    answered = (samples.error == "") & (samples.status != UNSENT)
    good = samples.take(samples.ok)
    sent = samples.take(samples.status != UNSENT)
    steady = steady_from(np.maximum(good.latency_s, 0.0)) if stationary else NOT_LOOKED_FOR
    cut = good.due_s[steady.index] if steady.index else 0.0
    used, sent = good.take(good.due_s >= cut), sent.take(sent.due_s >= cut)
    elapsed = float(np.max(sent.done_s[~np.isnan(sent.done_s)], initial=0.0)) or duration_s
    silent = np.sort(silences_s(samples))
    return LoadResult(
        scheduled=scheduled,
        workers=max(1, len(workers.cpu_s) + len(workers.lost)),
        offered=len(samples) + lost,
        ok=len(good),
        unsent=int(np.count_nonzero(samples.status == UNSENT)),
        waited=int(np.count_nonzero(samples.waited)),
        connections=workers.connections,
        lost=lost,
        errors=dict(errors),
        other_cell=int(np.count_nonzero(answered & ~samples.own_cell)),
        checked=workers.checked,
        wrong=workers.wrong,
        inference=_inference(good),
        elapsed_s=elapsed,
        backlog_growth=backlog_growth(samples, duration_s),
        silence_s=float(silent[-1]) if len(silent) else 0.0,
        silence_p99_s=float(np.quantile(silent[:-1], 0.99, method="higher"))
        if len(silent) > 1
        else 0.0,
        read_lag_p99_s=_read_lag_p99_s(used),
        usual_s=_usual_s(used, classes),
        backwards=_backwards(sent),
        generator_cpu_s=sum(workers.cpu_s),
        busiest_worker=max(workers.cpu_s, default=0.0) / max(elapsed, duration_s),
        run_delay_s=max(workers.run_delay_s, default=0.0),
        lost_workers=workers.lost,
        stopped_workers=workers.stopped,
        steady=steady,
        steady_from_s=float(cut),
        due_to_done=Histogram.of(used.done_s - used.due_s),
        sent_to_done=Histogram.of(used.done_s - used.sent_s),
        dispatch_lag=Histogram.of((sent.sent_s - sent.due_s)[~sent.waited]),
        queue=Histogram.of(used.queue_s[~np.isnan(used.queue_s)]),
        service=Histogram.of(used.service_s[~np.isnan(used.service_s)]),
        samples=samples,
    )


def backlog_growth(samples: Samples, duration_s: float) -> float:
    """Growth of the number of due but unfinished requests, per second, least squares.

    Sampled at 50 moments after the first fifth of the run, where it is still filling.
    """
    if len(samples) < _BACKLOG_SAMPLES:
        return 0.0
    done = np.sort(np.where(np.isnan(samples.done_s), np.inf, samples.done_s))
    at = np.linspace(duration_s / 5, duration_s, 50)
    backlog = np.searchsorted(samples.due_s, at) - np.searchsorted(done, at)
    return float(np.polyfit(at, backlog, 1)[0])


def _read_lag_p99_s(used: Samples) -> float | None:
    waited = used.read_s - used.done_s
    return float(np.quantile(waited, 0.99, method="higher")) if np.any(waited > 0) else None


def _usual_s(used: Samples, classes: np.ndarray | None) -> float:
    """Median time of a request in the class where it is longest; 0 without any.

    Large requests may be so few that the p99 of the silences knows nothing of them, and each of
    them is silent for as long as it takes.
    """
    if not len(used):
        return 0.0
    told = not np.isnan(used.service_s).all()
    took = used.service_s if told else used.done_s - used.sent_s
    known = ~np.isnan(took)
    of = np.zeros(len(used), dtype=int) if classes is None else classes[used.body]
    return max(float(np.median(took[known & (of == one)])) for one in np.unique(of[known]))


def silences_s(samples: Samples) -> np.ndarray:
    """Stretches without any answer while at least one request was under way, by their end.

    A request is under way from ``sent`` to ``done``: the stretch before each answer begins at
    the answer before it, or when the first request of a busy spell was sent. Of a server that
    does one thing at a time they are its service times, however long its queue.
    """
    sent = samples.take(~np.isnan(samples.done_s))
    done = np.sort(sent.done_s)
    order = np.argsort(sent.done_s, kind="stable")
    # Of all requests answered at or after each answer, the earliest that was sent.
    earliest = np.minimum.accumulate(sent.sent_s[order][::-1])[::-1]
    begins = np.maximum(np.concatenate([[-np.inf], done[:-1]]), earliest)
    return np.asarray(done - begins)


def _backwards(sent: Samples) -> int:
    """Requests of which something ended before it began: the clock cannot be trusted."""
    wrong = (sent.done_s < sent.sent_s) | (sent.sent_s < sent.due_s - _ROUNDING_S)
    return int(np.count_nonzero(wrong | (sent.queue_s < 0) | (sent.service_s < 0)))


def _inference(good: Samples) -> str:
    if not len(good):
        return "none"
    return "inline" if 2 * np.count_nonzero(good.inline) > len(good) else "thread"
