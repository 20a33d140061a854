"""Sharing: what it costs replicas that others run on their core.

Quotas are packed: four quarters of a CPU are one core. Each replica finds the caches as another one
left them, and the core does what all of them do unasked. How much that is depends on the model and
on the host: 6 % of a request on one EPYC, nothing to 30 % on others. So a study measures it, with
as many replicas as a core holds asked as often each as one was by itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from loadtests.records import Measurement
from planner.occupancy import quota_of
from planner.profile import told_by
from planner.ranges import Range
from planner.records import ServiceProfile
from planner.shared_core import SharedCore

SHARED_CORE = 0.06
"""By so much more CPU time a request takes where it was not measured, see docs/design.md."""

_BETWEEN = 0.10  # standard deviation from host to host and model to model, of the logarithm
_NOISE = 0.07  # of two runs of seconds against each other: each varies by 5 %
_SIGMAS = 1.645  # of a normal law 90 % lie within so many standard deviations
_LEAST_LEFT = 0.1  # of a core, however much its replicas do unasked

_ONCE = Range(1.0, 1.0, 1.0)


def on_a_core(profile: ServiceProfile, replicas: int) -> float:
    """How many of ``replicas`` are on each core; 1 where each has one of its own."""
    quota = quota_of(profile)
    if quota is None or replicas < 2:
        return 1.0
    return max(1.0, replicas / math.ceil(replicas * quota - 1e-9))


def shares_core(profile: ServiceProfile, replicas: int) -> bool:
    """Whether any of ``replicas`` have company on their core."""
    return on_a_core(profile, replicas) > 1


def crowding(profile: ServiceProfile, replicas: int) -> Range:
    """How many times as long the work takes where ``replicas`` under a quota share cores.

    Beside the caches it is what the others on a core do while nobody asks them anything. 1 for a
    replica by itself, and where each has a core of its own.
    """
    together = on_a_core(profile, replicas)
    if together <= 1:
        return _ONCE
    left = max(1 - together * profile.idle_cores, _LEAST_LEFT)
    return Range(*(times / left for times in _work(profile, together)))


def capacity(profile: ServiceProfile, replicas: int) -> Range:
    """What each of ``replicas`` carries, in requests per second.

    Those that share a core carry less by as much as a request takes more there, where that was
    measured. The doubts about one replica and about sharing are independent.
    """
    alone = profile.capacity_interval
    together = on_a_core(profile, replicas)
    if together <= 1 or profile.sharing is None:
        return Range(alone.low, profile.capacity_rps, alone.high)
    work = _work(profile, together)
    mid = profile.capacity_rps / max(1.0, work.mid)
    below = math.hypot(math.log(alone.mid / alone.low), math.log(work.high / work.mid))
    above = math.hypot(math.log(alone.high / alone.mid), math.log(work.mid / work.low))
    return Range(mid * math.exp(-below), mid, min(mid * math.exp(above), alone.high))


def _work(profile: ServiceProfile, together: float) -> Range:
    """CPU time of a request among ``together`` replicas on a core, against one by itself.

    Between one replica and as many as were measured on a straight line.
    """
    measured = profile.sharing
    if measured is None:
        return Range(*(1 + SHARED_CORE,) * 3)
    share = (together - 1) / (measured.replicas - 1)
    low, mid, high = (
        max(1 + share * (times - 1), 0.1) for times in (measured.low, measured.mid, measured.high)
    )
    return Range(low, mid, high)


def draws(of: Range, many: int, rng: np.random.Generator) -> np.ndarray:
    """``many`` values evenly over the range, half of them on each side of its middle, shuffled."""
    return rng.permutation(np.interp(np.linspace(0, 1, many), (0, 0.5, 1), of))


def with_sharing(
    profiles: Iterable[ServiceProfile], measurements: Sequence[Measurement]
) -> list[ServiceProfile]:
    """The profiles with what runs of replicas that fill a core say about sharing it.

    Those of one size, variant and number of threads count for every batch size and length of it.
    As they are where there were no such runs.
    """
    made = list(profiles)
    told = told_by(m for m in measurements if m.deployment.max_batch == 1 and m.run.mix is None)
    runs = [m for m in told if m.role == "sharing"]
    for key in {m.key[:3] for m in runs}:
        own = [p for p in made if _key(p) == key]
        together = [m for m in runs if m.key[:3] == key]
        alone = [
            m for m in told if m.role == "cell" and m.key[:3] == key and m.deployment.replicas == 1
        ]
        found = _measured(together, alone, own)
        if found is not None:
            made = [p.model_copy(update={"sharing": found}) if p in own else p for p in made]
    return made


def _key(profile: ServiceProfile) -> tuple[str, str, int]:
    return profile.variant.name, profile.instance.label, profile.threads


def _measured(
    together: Sequence[Measurement], alone: Sequence[Measurement], own: Sequence[ServiceProfile]
) -> SharedCore | None:
    """Each run against the one of a single replica that was asked most nearly as often.

    The ratio of two runs of seconds is as unsure as it differs from host to host, so both are
    weighed (the mean of a normal law with a normal prior).
    """
    idle = {(p.batch, p.length): p.idle_cores for p in own}
    logs, pairs = [], []
    for m in together:
        asked = m.run.batch, m.run.length
        like = [a for a in alone if (a.run.batch, a.run.length) == asked]
        if not like or asked not in idle:
            continue
        rate = m.offered_rps / m.deployment.replicas
        other = min(like, key=lambda a: abs(math.log(a.offered_rps / rate)))
        works = _work_s(m, idle[asked]), _work_s(other, idle[asked])
        if min(works) > 0:
            logs.append(math.log(works[0] / works[1]))
            pairs.append((m.id, other.id))
    if not logs:
        return None
    noise = _NOISE / math.sqrt(len(logs))
    weight = _BETWEEN**2 / (_BETWEEN**2 + noise**2)
    before = math.log1p(SHARED_CORE)
    middle = before + weight * (statistics.fmean(logs) - before)
    doubt = _SIGMAS * math.sqrt(weight) * noise
    return SharedCore(
        replicas=together[0].deployment.replicas,
        low=math.exp(middle - doubt),
        mid=math.exp(middle),
        high=math.exp(middle + doubt),
        runs=tuple(pairs),
    )


def _work_s(m: Measurement, idle_cores: float) -> float:
    """CPU seconds of a request, without what the replicas do unasked."""
    unasked = idle_cores * m.deployment.replicas * m.elapsed_s
    return (m.cpu.replica_s - unasked) / m.ok
