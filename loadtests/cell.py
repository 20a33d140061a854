"""Measure one cell: a deployment under paced, closed-loop and open-loop traffic.

About ten seconds, more for slow models: a warm-up that also finds the scale, paced single
requests for the service time, a ladder of users for the capacity, and two open-loop runs at
half and at seven tenths of it, never at the knee, where a short window is mostly luck.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from loadtests import laws
from loadtests.arrivals import Trace
from loadtests.dwell import Dwell, open_for, paced_for, paced_rps, rung_for
from loadtests.fleet import Fleet
from loadtests.http_call import HttpCall
from loadtests.judge import faults_of, not_enforced
from loadtests.monitor import Host, Monitor, Snapshot
from loadtests.objective import Slo
from loadtests.quantiles import QuantileInterval, quantiles_of
from loadtests.records import (
    HOST_NOISE,
    ROUND_TRIP,
    CpuUse,
    LadderEnd,
    LoadRun,
    Measurement,
    Throttling,
)
from loadtests.summary import LoadResult
from loadtests.verdict import verdict_of
from serving.records import Deployment, Endpoint

_TRIES = 3
_SLICES = 20  # of a rung, in which answers are counted: their spread says how sure a gain is


@dataclass(frozen=True, kw_only=True)
class CellContext:
    """What all runs of one cell have in common."""

    host: Host
    fleet: Fleet
    deployment: Deployment
    endpoint: Endpoint
    payloads: Path
    batch: int
    seed: int
    environment: str
    length: int | None = None
    role: str = "cell"
    trace: Trace | None = None
    slos: tuple[Slo, ...] = ()
    call: HttpCall | None = None
    rates: tuple[float, ...] = ()  # of floors and shared cores, in req/s


def measure_cell(
    context: CellContext, dwell: Dwell, next_sequence: Callable[[], int]
) -> Iterator[Measurement]:
    """Run the whole cell, giving each measurement as soon as it is made."""
    warm = _load(context, closed(context, dwell.warmup_s, 1))
    single_rps = max(warm.ok / warm.elapsed_s, 0.5)
    idle = idle_cores(context, dwell.idle_s)
    run = paced(context, dwell.paced_s, paced_rps(1 / single_rps))
    for made in _until_quiet(context, run, next_sequence):
        yield made.model_copy(update={"idle_cores": idle})
    best = 0.0
    for rung in ladder(context, dwell, single_rps, next_sequence):
        if rung.valid:
            best = max(best, rung.completed_rps)
        yield rung
    for share in dwell.open_shares if best else ():
        yield from _until_quiet(context, opened(context, dwell, share * best), next_sequence)


def _until_quiet(
    context: CellContext, run: LoadRun, next_sequence: Callable[[], int]
) -> Iterator[Measurement]:
    """A run, and the same again while nothing but other programs speaks against it."""
    for _ in range(_TRIES):
        made = measure(context, run, next_sequence())
        yield made
        if not made.faults or not {fault.code for fault in made.faults} <= HOST_NOISE:
            break


def idle_cores(context: CellContext, seconds: float) -> float:
    """CPUs that one replica uses while nobody asks it anything: timers, metrics, heartbeats."""
    monitor = Monitor(context.host, context.endpoint)
    before = monitor.snapshot()
    time.sleep(seconds)
    window = monitor.between(before, monitor.snapshot())
    return window.replica_s / window.wall_s / context.deployment.replicas


def ladder(
    context: CellContext, dwell: Dwell, single_rps: float, next_sequence: Callable[[], int]
) -> Iterator[Measurement]:
    """Closed-loop rungs, users doubled until the gain is below 5 % for certain; the last says why.

    ``single_rps`` is about what one user gets; it sets how long a rung of a slow model takes.
    """
    first: laws.Rung | None = None
    previous: laws.Rung | None = None
    users = 1
    duration = rung_for(dwell, 1 / single_rps)
    end: LadderEnd | None = None
    while end is None:
        run = closed(context, duration, users)
        measurement, result = observe(context, run, next_sequence())
        rung = _rung(measurement, result)
        broken = tuple(map(str, laws.violations(rung, first)))
        end = laws.ladder_end(previous, rung, run.timeout_s) if previous else None
        users *= 2
        if end is None and users > dwell.most_users:
            end = LadderEnd.MOST_USERS
        yield measurement.model_copy(update={"broken_laws": broken, "ladder_end": end})
        first = first or (rung if rung.completed else None)
        previous = rung


def measure_reference(
    context: CellContext, dwell: Dwell, next_sequence: Callable[[], int]
) -> Iterator[Measurement]:
    """Two rungs of the ladder: enough to compare the host with itself over time."""
    _load(context, closed(context, dwell.warmup_s, 1))
    for users in (1, 2):
        yield measure(context, closed(context, dwell.rung_s, users), next_sequence())


def measure_sharing(
    context: CellContext, dwell: Dwell, next_sequence: Callable[[], int]
) -> Iterator[Measurement]:
    """Replicas that fill a core, at each of the context's rates: what sharing it costs."""
    _load(context, closed(context, dwell.warmup_s, context.deployment.replicas))
    for rate in context.rates:
        yield from _until_quiet(context, opened(context, dwell, rate), next_sequence)


def measure_ceiling(
    context: CellContext, dwell: Dwell, next_sequence: Callable[[], int]
) -> Iterator[Measurement]:
    """The ladder alone: what the fleet of no-op replicas carries."""
    warm = _load(context, closed(context, dwell.warmup_s, 1))
    yield from ladder(context, dwell, max(warm.ok / warm.elapsed_s, 0.5), next_sequence)


def measure_floor(
    context: CellContext, dwell: Dwell, next_sequence: Callable[[], int]
) -> Iterator[Measurement]:
    """What a no-op takes alone, and at each of the context's rates."""
    warm = _load(context, closed(context, dwell.warmup_s, 1))
    single_rps = max(warm.ok / warm.elapsed_s, 0.5)
    runs = [paced(context, dwell.paced_s, paced_rps(1 / single_rps))]
    for run in runs + [opened(context, dwell, rate) for rate in context.rates]:
        yield from _until_quiet(context, run, next_sequence)


def closed(context: CellContext, duration_s: float, users: int) -> LoadRun:
    """A closed-loop run of ``users`` users."""
    return LoadRun(
        mode="closed",
        batch=context.batch,
        length=context.length,
        duration_s=duration_s,
        users=users,
        seed=context.seed,
    )


def paced(context: CellContext, duration_s: float, rate_rps: float) -> LoadRun:
    """Single requests, far enough apart not to meet."""
    return LoadRun(
        mode="paced",
        batch=context.batch,
        length=context.length,
        duration_s=paced_for(duration_s, rate_rps),
        rate_rps=round(rate_rps, 2),
        seed=context.seed,
    )


def opened(context: CellContext, dwell: Dwell, rate_rps: float) -> LoadRun:
    """An open-loop run; a slow model's tail needs samples more than seconds."""
    return LoadRun(
        mode="open",
        batch=context.batch,
        length=context.length,
        duration_s=open_for(dwell, rate_rps),
        rate_rps=round(rate_rps, 3),
        seed=context.seed,
    )


def measure(context: CellContext, run: LoadRun, sequence: int) -> Measurement:
    """Carry out one run between two readings of the kernel's counters, and judge it."""
    return observe(context, run, sequence)[0]


def observe(
    context: CellContext,
    run: LoadRun,
    sequence: int,
    on_start: Callable[[], None] = lambda: None,
) -> tuple[Measurement, LoadResult]:
    """:func:`measure`, with the samples behind it; ``on_start`` is called as the clock begins.

    A closed loop is held against the operational laws, as far as one run alone can break them.
    """
    monitor = Monitor(context.host, context.endpoint, context.fleet.process.pids())
    ends: list[Snapshot] = []
    started_at = datetime.now(UTC).isoformat(timespec="seconds")

    def begin() -> None:
        ends.append(monitor.snapshot())
        on_start()

    result = _load(context, run, begin, lambda: ends.append(monitor.snapshot()))
    window = monitor.between(*ends)
    deployment, grant = context.deployment, context.endpoint.replicas[0].grant
    faults = faults_of(run, deployment, grant, result, window)
    denied = not_enforced(deployment, grant)
    measurement = Measurement.model_validate(
        {
            "id": secrets.token_hex(6),
            "role": context.role,
            "sequence": sequence,
            "started_at": started_at,
            "deployment": deployment,
            "grant": grant,
            "inference": ROUND_TRIP if context.call else result.inference,
            "run": run.model_copy(update={"workers": result.workers}),
            "elapsed_s": result.elapsed_s,
            "offered": result.offered,
            "ok": result.ok,
            "errors": result.errors,
            "unsent": result.unsent,
            "checked": result.checked,
            "wrong": result.wrong,
            "lost": result.lost,
            "steady": result.steady,
            "due_to_done": result.due_to_done,
            "sent_to_done": result.sent_to_done,
            "dispatch_lag": result.dispatch_lag,
            "read_lag_p99_s": result.read_lag_p99_s,
            "queue": result.queue,
            # A server that is not ours does not say its service time; paced round trips,
            # which meet no queue, stand in for it.
            "service": result.sent_to_done if context.call else result.service,
            "quantiles": _quantiles(result, round_trip=context.call is not None),
            "cpu": CpuUse(
                replica_s=window.replica_s,
                ingress_s=window.ingress_s,
                generator_s=result.generator_cpu_s,
                others_on_replica_cores=window.others_on_replica_cores,
                platform_busy=window.platform_busy,
                others_on_platform_cores=window.others_on_platform_cores,
                steal=window.steal,
                load_average=window.load_average,
            ),
            "throttling": Throttling(
                periods=window.periods,
                throttled_periods=window.throttled_periods,
                throttled_s=window.throttled_s,
            ),
            "peak_memory_bytes": window.peak_memory_bytes,
            "startup_s": context.endpoint.startup_s,
            "worker_start_s": context.endpoint.worker_start_s,
            "model_load_s": context.endpoint.model_load_s,
            "environment": context.environment,
            "verdicts": tuple(
                verdict_of(result, run, slo, replicas=deployment.queueing_replicas)
                for slo in (context.slos if run.mode == "open" else ())
            ),
            "faults": (denied, *faults) if denied else faults,
        }
    )
    if run.mode == "closed":
        broken = tuple(map(str, laws.violations(_rung(measurement, result))))
        measurement = measurement.model_copy(update={"broken_laws": broken})
    return measurement, result


def _quantiles(result: LoadResult, *, round_trip: bool) -> tuple[QuantileInterval, ...]:
    """Those of all histograms; where the round trip stands in for the service time, it has its."""
    found = quantiles_of(result)
    if not round_trip:
        return found
    trips = (one.model_copy(update={"of": "service"}) for one in found if one.of == "sent_to_done")
    return (*(one for one in found if one.of != "service"), *trips)


def _rung(measurement: Measurement, result: LoadResult) -> laws.Rung:
    """The rung that a closed-loop run is, with its answers in equal slices of the time."""
    good = result.samples.take(result.samples.ok)
    counts, _ = np.histogram(good.done_s, bins=_SLICES, range=(0.0, measurement.run.duration_s))
    return laws.Rung.of(measurement, tuple(counts.tolist()), good.busy_s)


def _load(
    context: CellContext,
    run: LoadRun,
    on_start: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> LoadResult:
    return context.fleet.run(
        run,
        context.endpoint,
        context.payloads,
        on_start,
        on_end,
        call=context.call,
        trace=context.trace,
    )
