"""Service profiles: what a deployment size does with rows of one number and length, as measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from loadtests.histogram import Histogram
from loadtests.records import OVERLOAD, Measurement, Mode
from planner.records import Interval, MeasuredPoint, ServiceProfile
from serving.errors import BadInput

Key = tuple[str, str, int, int]
"""(variant, instance label, threads, batch), as ``Measurement.key``."""


class Refusal(NamedTuple):
    """What gives no profile, at one length where lengths were measured, and why."""

    key: Key
    reason: str
    length: int | None = None


NOT_VALID = "no valid"
"""How the reason of a refusal begins when there were runs, and none can be believed."""

CAPACITY_FLOOR = 0.08
"""Two deployments of the same thing differ by this much before anything is wrong: a spread
within one deployment's ladder says nothing about the next one. 90 % of a normal law whose
standard deviation is ``planner.scaling.NOISE``."""

_LEAST_UTILISATION = 0.3
"""Below it the fixed work of a replica (timers, health checks) outweighs that of requests."""

CAPACITY_CEILING = 0.15
"""A rung further below the best is not the plateau seen twice but a rung before it. A lone
rung shows no plateau at all and gets this much."""

_FEWEST_VISITS = 3
_MOST_UNSTEADY = 0.5  # of a host that varies more nothing can be said at all
_MOST_PLACES = 1000
_ALIKE = 0.1  # medians of service times of the same kind
_BUSY = 0.5  # utilisation from which most requests follow another


def build_profiles(
    measurements: Iterable[Measurement],
) -> tuple[list[ServiceProfile], list[Refusal]]:
    """Profiles by key and length, sorted, and those that give none, each with its reason.

    Floors (no-op replicas) are left out, and so are runs of shared calls, which say nothing of one
    request at a time, those of a mix, which say nothing of one batch size, and every measurement
    with faults. BadInput when the measurements come from
    unlike environments or unlike files of one variant.
    """
    relevant = [
        m for m in measurements if m.role in ("cell", "reference") and m.deployment.max_batch == 1
    ]
    _refuse_mixtures(relevant)
    groups: dict[tuple[Key, int], list[Measurement]] = {}
    for measurement in relevant:
        if measurement.run.mix is not None:
            continue
        asked = measurement.key, measurement.run.length or 0
        groups.setdefault(asked, []).append(measurement)
    unsteady = host_unsteadiness(relevant)
    profiles, refusals = [], []
    for (key, length), group in sorted(groups.items()):
        reason = _refusal(group)
        if reason is None:
            overloaded = [m for m in group if fell_behind(m)]
            profiles.append(_profile([m for m in group if m.valid], overloaded, unsteady))
        else:
            refusals.append(Refusal(key, reason, length or None))
    return profiles, refusals


def host_unsteadiness(measurements: Iterable[Measurement]) -> float:
    """By how much this host's speed varies from one minute to another: relative, at 90 %.

    From the reference, which is deployed again and again: the standard deviation of the
    logarithm of what it answered per second, at as many users, times 1.645. 0 below three visits.
    """
    visits: dict[tuple[object, ...], list[float]] = {}
    for m in measurements:
        if m.role == "reference" and m.run.mode == "closed" and _usable(m):
            visit = m.key, m.run.length, m.run.users
            visits.setdefault(visit, []).append(math.log(m.completed_rps))
    spreads = [statistics.stdev(logs) for logs in visits.values() if len(logs) >= _FEWEST_VISITS]
    return 1.645 * statistics.median(spreads) if spreads else 0.0


def _refuse_mixtures(measurements: Sequence[Measurement]) -> None:
    environments = sorted({m.environment for m in measurements})
    if len(environments) > 1:
        raise BadInput(
            f"measurements come from {len(environments)} environments "
            f"({', '.join(environments)}); plan from one at a time"
        )
    shas: dict[str, str] = {}
    for m in measurements:
        variant = m.deployment.variant
        if shas.setdefault(variant.name, variant.model_sha256) != variant.model_sha256:
            raise BadInput(
                f"measurements of '{variant.name}' come from two model files "
                f"({shas[variant.name][:12]}, {variant.model_sha256[:12]}); measure it again"
            )


def _refusal(group: Sequence[Measurement]) -> str | None:
    for mode, words in (("paced", "paced run"), ("closed", "closed-loop run")):
        runs = [m for m in group if m.run.mode == mode]
        if not runs:
            return f"no {words}"
        if not any(_usable(m) for m in runs):
            fault = next((m.faults[0] for m in runs if m.faults), None)
            why = f"{fault.code}: {fault.detail}" if fault else "not one request was answered"
            return f"{NOT_VALID} {words}: {why}"
    return None


def _usable(measurement: Measurement) -> bool:
    return measurement.valid and measurement.ok > 0 and measurement.service.count > 0


def fell_behind(measurement: Measurement) -> bool:
    """An open-loop run with nothing against it but that the server fell behind."""
    codes = {fault.code for fault in measurement.faults}
    return measurement.run.mode == "open" and bool(codes) and codes <= OVERLOAD


def _profile(
    valid: Sequence[Measurement], overloaded: Sequence[Measurement], unsteady: float
) -> ServiceProfile:
    """Profile of one key; ``valid`` holds at least one paced and one closed-loop run.

    ``overloaded`` are open-loop runs that the server could not keep up with, ``unsteady`` is how
    much the host's speed varies.
    """
    paced = _of_mode(valid, "paced")
    closed = sorted(_of_mode(valid, "closed"), key=_per_replica_rps, reverse=True)
    service = Histogram.merge(m.service for m in paced)
    best = closed[0]
    opened = [*_of_mode(valid, "open"), *(m for m in overloaded if m.ok)]
    capacity = min([_per_replica_rps(best), *map(cpu_bound_rps, opened)])
    startups = [m.startup_s for m in valid if m.startup_s is not None]
    first_cpu_ms = _first_cpu_ms(paced)
    deployment = best.deployment
    return ServiceProfile(
        variant=deployment.variant,
        instance=deployment.instance,
        threads=deployment.threads,
        batch=best.run.batch,
        length=best.run.length,
        service=_with_others(service, opened),
        overhead_ms=_overhead_ms(paced, service),
        # At the highest load, where fixed work (timers, health checks) weighs least.
        cpu_ms=best.replica_cpu_ms,
        capacity_rps=capacity,
        capacity_interval=_capacity_interval(
            [_per_replica_rps(m) for m in closed], capacity, unsteady
        ),
        ingress_cpu_ms=1e3 * best.cpu.ingress_s / best.ok,
        saturated_rps=_saturated_rps(_per_replica_rps(best), capacity, opened, first_cpu_ms),
        first_cpu_ms=first_cpu_ms,
        idle_cores=_idle_cores(paced),
        beyond=_beyond(paced, service),
        peak_memory_bytes=max(m.peak_memory_bytes for m in valid),
        startup_s=statistics.median(startups) if startups else None,
        measured_points=points_of(opened, capacity),
        measurement_ids=tuple(m.id for m in valid),
    )


def told_by(runs: Iterable[Measurement]) -> list[Measurement]:
    """The open-loop runs that say something: valid ones, and those the server fell behind in."""
    return [m for m in runs if m.run.mode == "open" and m.ok and (_usable(m) or fell_behind(m))]


def _of_mode(measurements: Sequence[Measurement], mode: Mode) -> list[Measurement]:
    return [m for m in measurements if m.run.mode == mode and _usable(m)]


def _per_replica_rps(measurement: Measurement) -> float:
    return measurement.completed_rps / measurement.deployment.replicas


def cpu_bound_rps(measurement: Measurement) -> float:
    """Rate per replica at which an open-loop run would have used all the CPU granted.

    Utilisation law: U = X D. A tight closed loop keeps caches warm and shares wake-ups
    between requests, so its best rung can be out of reach of traffic that arrives at random,
    and at seven tenths of it a quota may be spent already.
    """
    return _per_replica_rps(measurement) / max(measurement.utilisation, _LEAST_UTILISATION)


def _overhead_ms(paced: Sequence[Measurement], service: Histogram) -> float:
    """Subtract medians: what the round trip adds to the service time.

    Paced requests meet no queue, and with medians a stall in one part does not show up as
    a cost of the other.
    """
    sent_to_done = Histogram.merge(m.sent_to_done for m in paced).quantile_s(0.5)
    queue = Histogram.merge(m.queue for m in paced)
    waited = queue.quantile_s(0.5) if queue.count else 0.0
    return max(0.0, 1e3 * (sent_to_done - service.quantile_s(0.5) - waited))


def _idle_cores(paced: Sequence[Measurement]) -> float:
    found = [m.idle_cores for m in paced if m.idle_cores is not None]
    return statistics.median(found) if found else 0.0


def _first_cpu_ms(paced: Sequence[Measurement]) -> float | None:
    """CPU time of a request that meets no other, without what the replica uses unasked.

    None where nobody looked how much that is: at a few requests per second it would count as
    theirs.
    """
    known = [m for m in paced if m.idle_cores is not None]
    if not known:
        return None
    used = sum(m.cpu.replica_s - (m.idle_cores or 0.0) * m.elapsed_s for m in known)
    return max(0.0, 1e3 * used / sum(m.ok for m in known))


def _beyond(paced: Sequence[Measurement], service: Histogram) -> Histogram:
    """Round trips less service times, by quantiles.

    The slowest round trips are taken to be those of the slowest services: both together are
    then as long as what was measured.
    """
    round_trip = Histogram.merge(m.due_to_done for m in paced)
    many = min(round_trip.count, _MOST_PLACES)
    places = ((np.arange(many) + 0.5) / many).tolist()
    whole, own = round_trip.quantiles_s(places), service.quantiles_s(places)
    return Histogram.of(max(0.0, a - b) for a, b in zip(whole, own, strict=True))


def _saturated_rps(
    best_rps: float, capacity_rps: float, opened: Sequence[Measurement], first_cpu_ms: float | None
) -> float:
    """What a replica does per second that always has some waiting, of traffic that is open.

    That is the best rung, ``best_rps``, unless requests that arrive at random cost more CPU than
    those of a closed loop, even counted that by Poisson's law a share 1 - U of them found the
    replica idle and cost ``first_cpu_ms``. Bodies that are read while the model computes, and
    caches that are shared with it, are what makes them dearer. At least ``capacity_rps``.
    """
    found = [best_rps]
    for m in opened:
        used = min(m.utilisation, 1.0)
        if used < _BUSY:
            continue
        idle = (1 - used) * (first_cpu_ms or 0.0) / 1e3 / m.grant.vcpus
        following = (1 / cpu_bound_rps(m) - idle) / used
        if following > 0:
            found.append(1 / following)
    return max(min(found), capacity_rps)


def _with_others(paced: Histogram, opened: Sequence[Measurement]) -> Histogram:
    """Service times of paced requests, and of open-loop runs where they are as long or longer.

    A slow model gives few paced samples, and a tail wants many; and where other requests are
    read beside it, it takes longer, as it will. A fast one is faster in company: there the
    paced ones are kept apart. So they are where a run was throttled, since its times contain the
    stalls that a simulated quota adds, and where round trips stand in for service times, which
    contain the waiting.
    """
    usual = paced.quantile_s(0.5)
    others = [
        m.service
        for m in opened
        if m.valid
        and m.tells_service
        and not m.throttling.throttled_periods
        and m.service.quantile_s(0.5) >= (1 - _ALIKE) * usual
    ]
    return Histogram.merge([paced, *others])


def _capacity_interval(rungs: Sequence[float], capacity: float, unsteady: float) -> Interval:
    """Range around ``capacity``, as wide as the two best ``rungs`` (descending) lie apart.

    No narrower than the host is ``unsteady``: the deployment that is planned will meet another
    minute of it.
    """
    best = rungs[0]
    spread = (best - rungs[1]) / best if len(rungs) > 1 else CAPACITY_CEILING
    share = max(min(max(spread, CAPACITY_FLOOR), CAPACITY_CEILING), min(unsteady, _MOST_UNSTEADY))
    return Interval(low=capacity * (1 - share), mid=capacity, high=capacity * (1 + share))


def points_of(runs: Sequence[Measurement], capacity_rps: float) -> tuple[MeasuredPoint, ...]:
    """Open-loop runs against one replica, by rate; several replicas queue otherwise."""
    single = sorted((m for m in runs if m.deployment.replicas == 1), key=lambda m: m.offered_rps)
    return tuple(_point(m, capacity_rps) for m in single)


def _point(measurement: Measurement, capacity_rps: float) -> MeasuredPoint:
    p50, p95, p99 = measurement.due_to_done.quantiles_s((0.5, 0.95, 0.99))
    return MeasuredPoint(
        rate_rps=measurement.offered_rps,
        utilisation=measurement.offered_rps / capacity_rps,
        p50_ms=1e3 * p50,
        p95_ms=1e3 * p95,
        p99_ms=1e3 * p99,
        n=measurement.due_to_done.count,
    )
