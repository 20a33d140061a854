"""Occupancy: how long one request keeps a replica from serving the next.

The in-replica service time is not it. A tiny model answers in 0.1 ms, while its replica
spends 0.3 to 1 ms of CPU on the request, most of it on HTTP: the replica's process is one
core's work, and no request overtakes another on it. How much depends on company. A request
that finds its replica asleep pays for waking it, with cold caches, and costs what one of the
paced requests cost; one that follows another costs what one costs at saturation, where a
single wake-up serves many.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.records import ServiceProfile
from planner.simulate import QUOTA_PERIOD_S

_PLACES = (np.arange(400) + 0.5) / 400


class Occupancy(NamedTuple):
    """Occupancies over the buckets of a service histogram; arrays of shape [buckets].

    ``busy_s`` holds when a request follows another, ``first_s`` when it finds its replica
    idle (they are one object when there is no difference). With ``quota`` below 1 both are
    CPU times, and the quota is what the replica's own background work leaves of it.
    ``beyond_s`` is what the round trip adds outside of the replica: values that are equally
    likely, ascending.
    """

    busy_s: np.ndarray
    first_s: np.ndarray
    counts: np.ndarray
    beyond_s: np.ndarray
    quota: float | None

    def alone_s(self, quantile: float) -> float:
        """A quantile of the latency of requests that meet no other, without a quota's stalls.

        Service and round trip are taken at the same quantile, which is how both were found.
        """
        places = np.cumsum(self.counts)
        at = int(np.searchsorted(places, quantile * places[-1]))
        own = float(self.first_s[min(at, len(self.first_s) - 1)])
        return own + float(self.beyond_at(np.array(quantile)))

    def beyond_at(self, uniform: np.ndarray) -> np.ndarray:
        """What the round trip adds in seconds, drawn at ``uniform`` (in [0, 1], any shape)."""
        most = len(self.beyond_s)
        places = np.minimum((uniform * most).astype(int), most - 1)
        return np.asarray(self.beyond_s[places])


def quota_of(profile: ServiceProfile) -> float | None:
    """CPUs that bandwidth control grants a replica, or None where it cannot throttle.

    One inference call at a time burns one CPU at most, so from one CPU on a quota does not
    bind it. (Helper threads can still be throttled; the open-loop points show that.)
    """
    instance = profile.instance
    return instance.vcpus if instance.enforcement == "quota" and instance.vcpus < 1 else None


def occupancy(
    profile: ServiceProfile,
    service_s: np.ndarray,
    counts: np.ndarray,
    capacity_rps: float,
    rng: np.random.Generator | None = None,
) -> Occupancy:
    """Occupancies for a service histogram (the profile's, or a resampled one).

    ``capacity_rps`` is the profile's or another one of its interval: the work at saturation and
    of waking is scaled by how far it is from the profile's, as ``service_s`` has to be already.
    With ``rng`` the round trips are resampled, too.

    A request that follows another, by the mean CPU time or wall time that saturation leaves:

    - it exceeds the mean service time: the rest is a constant, HTTP work of about the same
      length for every request. It is part of the measured round trip and not added twice.
    - it is less: requests at load are faster than paced ones, because caches and clocks are
      warm.
    - it is less under a quota, and a request outlasts a period's budget: the paced times
      contain the stalls that the simulated quota adds, so they are scaled down to CPU time.

    A request that finds its replica idle: the paced service time, and what the replica's CPU
    time exceeds it by; at least as much as one that follows another.
    """
    granted = quota_of(profile)
    quota = None if granted is None else max(granted - profile.idle_cores, 0.1 * granted)
    mean = float(np.average(service_s, weights=counts))
    slower = profile.capacity_rps / capacity_rps
    busy_mean = slower * (quota or 1.0) / profile.saturated
    cpu = slower * (profile.first_cpu_ms or 0.0) / 1e3
    if granted is not None and mean > granted * QUOTA_PERIOD_S and busy_mean < mean:
        busy = first = service_s * (busy_mean / mean)
        hidden = 0.0
    else:
        more = busy_mean >= mean
        busy = service_s + (busy_mean - mean) if more else service_s * (busy_mean / mean)
        # With all its threads at work the model itself may have used so much of it.
        hidden = max(0.0, cpu - profile.threads * mean, busy_mean - mean)
        wakes = hidden > max(0.0, busy_mean - mean)
        first = service_s + hidden if wakes or not more else busy
    return Occupancy(busy, first, counts, _beyond_s(profile, hidden, rng), quota)


def _beyond_s(
    profile: ServiceProfile, hidden_s: float, rng: np.random.Generator | None
) -> np.ndarray:
    """What a round trip adds beside the ``hidden_s`` seconds of the replica; ascending."""
    if profile.beyond is None:  # of an older record the median is known
        return np.array([max(0.0, profile.overhead_ms / 1e3 - hidden_s)])
    values, counts = profile.beyond.values()
    if rng is not None:
        counts = rng.multinomial(int(counts.sum()), counts / counts.sum())
    cumulative = np.cumsum(counts)
    at = np.searchsorted(cumulative, _PLACES * cumulative[-1], side="right")
    return np.asarray(np.maximum(values[np.minimum(at, len(values) - 1)] - hidden_s, 0.0))
