"""Occupancy: how long one request keeps a replica from serving the next.

The in-replica service time is not it. A tiny model answers in 0.05 ms, while its replica
spends 0.2 ms of CPU on the request, most of it on HTTP: the replica's process is one core's
work, and no request overtakes another on it. The measured capacity of a replica knows the
whole, so the shape comes from the service histogram and the mean from the capacity: a queue
whose mean occupancy is 1 / capacity saturates where the measured replica did.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.records import ServiceProfile
from planner.simulate import QUOTA_PERIOD_S


class Occupancy(NamedTuple):
    """Occupancies over the buckets of a service histogram; arrays of shape [buckets].

    ``busy_s`` holds when a request follows another, ``first_s`` when it finds its replica
    idle (they are one object when there is no difference). With ``quota`` below 1 both are
    CPU times. ``beyond_s`` is what the round trip adds outside of the replica.
    """

    busy_s: np.ndarray
    first_s: np.ndarray
    counts: np.ndarray
    beyond_s: float
    quota: float | None


def quota_of(profile: ServiceProfile) -> float | None:
    """CPUs that bandwidth control grants a replica, or None where it cannot throttle.

    One inference call at a time burns one CPU at most, so from one CPU on a quota does not
    bind it. (Helper threads can still be throttled; the open-loop points show that.)
    """
    instance = profile.instance
    return instance.vcpus if instance.enforcement == "quota" and instance.vcpus < 1 else None


def occupancy(
    profile: ServiceProfile, service_s: np.ndarray, counts: np.ndarray, capacity_rps: float
) -> Occupancy:
    """Occupancies for a service histogram (the profile's, or a resampled one).

    Three cases, by the mean CPU time or wall time that the capacity leaves per request:

    - it exceeds the mean service time: the rest is a constant, HTTP work of about the same
      length for every request. It is part of the measured overhead and not added twice.
    - it is less: requests at load are faster than paced ones, because caches and clocks are
      warm. Only a request that finds its replica idle takes as long as a paced one.
    - it is less under a quota, and a request outlasts a period's budget: the paced times
      contain the stalls that the simulated quota adds, so they are scaled down to CPU time.
    """
    quota = quota_of(profile)
    overhead_s = profile.overhead_ms / 1e3
    mean = float(np.average(service_s, weights=counts))
    target = (quota or 1.0) / capacity_rps
    if target >= mean:
        hidden = target - mean
        busy = service_s + hidden
        return Occupancy(busy, busy, counts, max(0.0, overhead_s - hidden), quota)
    busy = service_s * (target / mean)
    stalls = quota is not None and mean > quota * QUOTA_PERIOD_S
    return Occupancy(busy, busy if stalls else service_s, counts, overhead_s, quota)
