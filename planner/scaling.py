"""Scaling: the profile of a size never measured, by a law from the sizes that were.

Sizes of whole CPUs and sizes under a quota follow different laws, each with one parameter
that decides how much a larger size gains:

- *whole CPUs* (cpuset, as many threads as vCPUs): the time of a request falls with Amdahl's
  law, T(n) = T(1) (s + (1 - s) / n) (G. M. Amdahl, 1967). Prior of the serial share s: density
  2 (1 - s) on [0, 1]. The second term of the Universal Scalability Law (N. J. Gunther, 1993)
  cannot be told from noise by two to four sizes; what it would cost is in ``DISCREPANCY``.
- *quota* (shares of one CPU): T(q) = T(1) q^-e. Time on the CPU grows as the share shrinks,
  because caches are cold after every throttled stretch: for the time that a replica is occupied
  (1 / capacity) the prior of e is normal around 1.05, sd 0.1, within [0.9, 1.4]. A service
  time of less than a period's budget is not stretched at all, a longer one as the share
  shrinks: there e is normal around 0.5, sd 0.5, within [0, 1.4].

The parameter is the maximum of the posterior on a grid, T(1) is free. Uncertainty, in the
logarithm of the time: noise (redeployments differ by ``NOISE`` until the records say more), the
posterior of the parameter, and ``DISCREPANCY`` for every doubling away from the nearest
measured size. Two sizes are the least; a law with one size is its prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from loadtests.histogram import Histogram
from planner.records import Interval, PredictedProfile, ServiceProfile
from serving.records import Enforcement, InstanceType

NOISE = 0.05
"""Standard deviation of a log time between redeployments of the same thing."""

DISCREPANCY = 0.05
"""Standard deviation of a log time that the law may be wrong by, for every doubling."""

REACH = 2.0
"""A size is predicted up to so many times the largest measured one."""

FEWEST_SIZES = 2

_NOISE_WEIGHT = 4  # ``NOISE`` counts as so many residuals
_Z = 1.645  # a 90 % interval
_SAMPLES = 1000
_GRID = np.linspace(0.0, 1.0, 281)

Quantity = Literal["service", "occupancy"]


class Law(NamedTuple):
    """One parameter's grid, its log prior there, and the log time it gives at a size.

    ``shape(parameters, x)`` is relative to a size of one vCPU and falls with ``x``.
    """

    parameters: np.ndarray
    log_prior: np.ndarray
    shape: Callable[[np.ndarray, float], np.ndarray]


def _amdahl(serial: np.ndarray, x: float) -> np.ndarray:
    return np.asarray(np.log(serial + (1 - serial) / x))


def _power(exponent: np.ndarray, x: float) -> np.ndarray:
    return np.asarray(-exponent * math.log(x))


def _normal(grid: np.ndarray, mean: float, sd: float) -> np.ndarray:
    return np.asarray(-0.5 * ((grid - mean) / sd) ** 2)


_OCCUPIED, _SERVED = 0.9 + 0.5 * _GRID, 1.4 * _GRID
LAWS: Mapping[tuple[Enforcement, Quantity], Law] = {
    # 1 - s has density 2 (1 - s); the last of the grid is left a trace.
    ("cpuset", "occupancy"): Law(_GRID, np.log(np.maximum(1 - _GRID, 1e-3)), _amdahl),
    ("cpuset", "service"): Law(_GRID, np.log(np.maximum(1 - _GRID, 1e-3)), _amdahl),
    ("quota", "occupancy"): Law(_OCCUPIED, _normal(_OCCUPIED, 1.05, 0.1), _power),
    ("quota", "service"): Law(_SERVED, _normal(_SERVED, 0.5, 0.5), _power),
}


class Fit:
    """A law fitted to times (seconds, of any scale) at sizes (vCPUs); at least one of each."""

    def __init__(self, law: Law, sizes: Sequence[float], times: Sequence[float]) -> None:
        self._law, self._sizes = law, tuple(sizes)
        n = len(sizes)
        shapes = np.stack([law.shape(law.parameters, x) for x in sizes])  # [sizes, grid]
        apart = np.log(np.asarray(times))[:, None] - shapes
        self._scale = apart.mean(axis=0)
        squares = ((apart - self._scale) ** 2).sum(axis=0)
        degrees = _NOISE_WEIGHT + n - 1
        variance = (_NOISE_WEIGHT * NOISE**2 + float(squares.min())) / degrees
        density = law.log_prior - squares / (2 * variance)
        self._map = int(density.argmax())
        weights = np.exp(density - density[self._map])
        self._weights = weights / weights.sum()
        self._noise = variance * (1 + 1 / n)
        self._width = interval_width(degrees)

    @property
    def parameter(self) -> float:
        """The serial share, or the exponent, of the largest posterior density."""
        return float(self._law.parameters[self._map])

    def time(self, x: float) -> float:
        """Predicted time at a size; never rises with it."""
        return float(np.exp(self._log_times(x)[self._map]))

    def interval(self, x: float) -> Interval:
        """90 % interval of the time that one deployment of this size will have."""
        logs = self._log_times(x)
        middle = float(logs[self._map])
        away = min(abs(math.log2(x / size)) for size in self._sizes)
        spread = float(self._weights @ (logs - middle) ** 2)
        sd = math.sqrt(self._noise + spread + (DISCREPANCY * away) ** 2)
        reach = self._width * sd
        return Interval(
            low=math.exp(middle - reach), mid=math.exp(middle), high=math.exp(middle + reach)
        )

    def _log_times(self, x: float) -> np.ndarray:
        return np.asarray(self._scale + self._law.shape(self._law.parameters, x))


def interval_width(degrees: int) -> float:
    """Half of a 90 % interval in standard deviations that so many ``degrees`` of freedom tell.

    Student's t by the first term of its Cornish-Fisher expansion.
    """
    return _Z + (_Z**3 + _Z) / (4 * degrees)


def left_out_error(law: Law, sizes: Sequence[float], times: Sequence[float]) -> float:
    """Worst relative error at a size that was left out and predicted from the others.

    ``sizes`` are at least two distinct ones, each once.
    """
    errors = []
    for left, (size, time) in enumerate(zip(sizes, times, strict=True)):
        rest = [i for i in range(len(sizes)) if i != left]
        fit = Fit(law, [sizes[i] for i in rest], [times[i] for i in rest])
        errors.append(abs(fit.time(size) / time - 1))
    return max(errors)


def predict_sizes(
    profiles: Iterable[ServiceProfile], catalogue: Mapping[str, InstanceType]
) -> list[PredictedProfile]:
    """Profiles of all sizes of ``catalogue`` that a law reaches and nobody measured.

    For each variant and batch: the host sizes that the catalogue has, as whole CPUs or shares,
    and those with the quota that a container of a cloud would put on them. A size is reached when
    at least two smaller or equal ones under the same enforcement were measured with as many
    threads as vCPUs, and it is neither below the smallest nor beyond twice the largest.
    """
    groups: dict[tuple[str, int, Enforcement], list[ServiceProfile]] = {}
    for profile in profiles:
        if not isinstance(profile, PredictedProfile) and _uses_all(profile):
            key = (profile.variant.name, profile.batch, profile.instance.enforcement)
            groups.setdefault(key, []).append(profile)
    wanted = _wanted(catalogue)
    found = []
    for (_, _, enforcement), group in sorted(groups.items(), key=lambda item: item[0]):
        chosen = tuple(sorted(group, key=lambda p: (p.instance.vcpus, p.instance.name)))
        measured = {p.instance.vcpus for p in chosen}
        if len(measured) < FEWEST_SIZES:
            continue
        for size in wanted:
            known = size.vcpus in measured or size.enforcement != enforcement
            if not known and min(measured) < size.vcpus <= REACH * max(measured) + 1e-9:
                found.append(predict_size(chosen, size))
    return found


def _uses_all(profile: ServiceProfile) -> bool:
    """Whether a cell says what its whole size can do: a thread for each of its vCPUs.

    A quota of more than one CPU throttles threads, not shares of one; no law is kept for it.
    0 threads are those that a server of the user's own chose.
    """
    size = profile.instance
    if size.is_container or not size.is_host_size:
        return False
    if size.enforcement == "quota":
        return size.vcpus <= 1 and profile.threads <= 1
    return profile.threads in (0, size.vcpus)


def _wanted(catalogue: Mapping[str, InstanceType]) -> list[InstanceType]:
    """Sizes that may be predicted: the host's own, and as a cloud's containers enforce them."""
    host = [s for s in catalogue.values() if s.is_host_size and not s.is_container]
    shares = {
        s.vcpus for s in catalogue.values() if not s.is_host_size and s.enforcement == "quota"
    }
    under_quota = [
        s.model_copy(update={"enforcement": "quota"})
        for s in host
        if s.enforcement == "cpuset" and s.vcpus in shares
    ]
    return [s for s in (*host, *under_quota) if s.enforcement == "cpuset" or s.vcpus <= 1]


@lru_cache(maxsize=1024)
def predict_size(measured: tuple[ServiceProfile, ...], size: InstanceType) -> PredictedProfile:
    """Profile of ``size`` from those of other sizes of one variant, batch and enforcement.

    ``measured`` is sorted by vCPUs. Times come from the law; memory is the largest measured,
    start-up and the fixed overhead those of the nearest size.
    """
    x = size.vcpus
    nearest = min(measured, key=lambda p: abs(math.log(p.instance.vcpus / x)))
    occupied = _fit(measured, "occupancy")
    served = _fit(measured, "service")
    occupancy, service = occupied.interval(x), served.interval(x)
    mean = nearest.service.mean_s()
    scale = Interval(low=service.low / mean, mid=service.mid / mean, high=service.high / mean)
    capacity = Interval(low=1 / occupancy.high, mid=1 / occupancy.mid, high=1 / occupancy.low)
    known = nearest.model_dump(
        include={
            "overhead_ms",
            "cpu_ms",
            "ingress_cpu_ms",
            "startup_s",
            "batch",
            "length",
            "first_cpu_ms",
            "idle_cores",
        }
    ) | {name: getattr(nearest, name) for name in ("beyond", "platform", "sharing")}
    return PredictedProfile(
        **known,
        variant=nearest.variant,
        instance=size,
        threads=int(x) if size.enforcement == "cpuset" and nearest.threads else nearest.threads,
        service=_scaled(nearest.service, scale.mid),
        capacity_rps=capacity.mid,
        capacity_interval=capacity,
        peak_memory_bytes=max(p.peak_memory_bytes for p in measured),
        measurement_ids=tuple(i for p in measured for i in p.measurement_ids),
        nearest=nearest,
        service_scale=scale,
        unmeasured="size",
        measured_at=tuple(p.instance.label for p in measured),
        left_out_error=max(_error(measured, "occupancy"), _error(measured, "service")),
    )


def _times(
    measured: Sequence[ServiceProfile], quantity: Quantity
) -> tuple[Law, list[float], list[float]]:
    """The law of a quantity, the distinct sizes, and the (geometric) mean time at each."""
    by_size: dict[float, list[float]] = {}
    for p in measured:
        time = 1 / p.capacity_rps if quantity == "occupancy" else p.service.mean_s()
        by_size.setdefault(p.instance.vcpus, []).append(math.log(time))
    law = LAWS[measured[0].instance.enforcement, quantity]
    return law, list(by_size), [math.exp(sum(logs) / len(logs)) for logs in by_size.values()]


def _fit(measured: Sequence[ServiceProfile], quantity: Quantity) -> Fit:
    return Fit(*_times(measured, quantity))


def _error(measured: Sequence[ServiceProfile], quantity: Quantity) -> float:
    return left_out_error(*_times(measured, quantity))


def _scaled(histogram: Histogram, factor: float) -> Histogram:
    """The histogram with every time multiplied, thinned to what a simulation can tell apart."""
    values, counts = histogram.values()
    total = int(counts.sum())
    if total > _SAMPLES:
        places = (np.arange(_SAMPLES) + 0.5) / _SAMPLES * total
        return Histogram.of(factor * values[np.searchsorted(np.cumsum(counts), places)])
    return Histogram.of(factor * np.repeat(values, counts))
