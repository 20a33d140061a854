"""Operational laws that a closed-loop rung must obey, whatever the server is.

Little: N = X (R + Z), with users N, throughput X, time in system R and think time Z.
Utilisation: U = X D, with D the CPU time of one request; and U is at most what was
granted. (Denning and Buzen, The Operational Analysis of Queueing Network Models, 1978.)
They hold for any queue over any window, so a rung that breaks one was measured wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import exp, inf, log, sqrt
from statistics import NormalDist
from typing import NamedTuple, Self

import numpy as np

from loadtests.records import LadderEnd, LoadRun, Measurement
from loadtests.summary import LoadResult

LITTLE_TOLERANCE = 0.03
"""Share of a user's time that the generator may spend between two requests."""

DEMAND_TOLERANCE = 0.20
"""CPU time of a request may differ by this between rungs: warm caches alone do as much."""

WORTH = 1.05
"""A doubling of users that gains less is the last."""

CONFIDENCE = 0.95
_FULL = 1.5  # a doubling that gains less finds the server full, or nearly so
_SIGMAS = 3.0
_TICK_S = 0.01  # the kernel accounts CPU time in these
_PERIOD_S = 0.1  # and deals out quotas by the period that Kubernetes uses


class Law(StrEnum):
    """The laws that are checked."""

    LITTLE = "little"
    UTILISATION = "utilisation"
    CAPACITY = "capacity"


class Violation(NamedTuple):
    """A broken law: what it demands, what was measured, and by how much they may differ."""

    law: Law
    expected: float
    got: float
    tolerance: float

    def __str__(self) -> str:
        meaning = {
            Law.LITTLE: "X R says {got:.3g} users, there were {expected:.3g}",
            Law.UTILISATION: "X D says {expected:.3g} CPUs busy, used were {got:.3g}",
            Law.CAPACITY: "{expected:.3g} CPUs were granted, {got:.3g} used",
        }[self.law]
        return f"{self.law}: {meaning.format(expected=self.expected, got=self.got)}"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One closed-loop run of a ladder.

    ``response_s`` is the mean from sent to read, for so long a user is busy with a request,
    ``response_cv`` its coefficient of variation; ``cpu_s`` what the replicas burnt in all,
    ``vcpus`` what they were granted, by a quota that is dealt out every ``period_s`` (0 without
    one).
    ``counts`` are completions in equal slices of the window, where they are known.
    """

    users: int
    completed: int
    elapsed_s: float
    response_s: float
    response_cv: float
    cpu_s: float
    vcpus: float
    period_s: float = 0.0
    think_s: float = 0.0
    counts: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        measurement: Measurement,
        counts: tuple[int, ...] = (),
        response_s: np.ndarray | None = None,
    ) -> Self:
        """The rung that a closed-loop measurement is; ValueError for any other.

        ``response_s`` are the times of all its answers, until they were read. Histograms leave out
        the warm-up, whose answers are counted: without them a rung that was fast at first adds up
        to too many users.
        """
        if measurement.run.users is None:
            raise ValueError(f"a rung is a closed-loop run, not a {measurement.run.mode} one")
        if response_s is None:
            values, weights = measurement.sent_to_done.values()
        else:
            values, weights = response_s, np.ones(len(response_s))
        mean = float(np.average(values, weights=weights)) if len(values) else 0.0
        square = float(np.average((values - mean) ** 2, weights=weights)) if len(values) else 0.0
        return cls(
            users=measurement.run.users,
            completed=measurement.ok,
            elapsed_s=measurement.elapsed_s,
            response_s=mean,
            response_cv=sqrt(square) / mean if len(values) else 0.0,
            cpu_s=measurement.cpu.replica_s,
            vcpus=measurement.grant.vcpus * measurement.deployment.replicas,
            period_s=_PERIOD_S if measurement.grant.quota_cpus else 0.0,
            counts=counts,
        )

    @property
    def throughput_rps(self) -> float:
        """Completions per second."""
        return self.completed / self.elapsed_s

    @property
    def demand_s(self) -> float:
        """CPU-seconds of one request."""
        return self.cpu_s / self.completed


def violations(rung: Rung, reference: Rung | None = None) -> list[Violation]:
    """The laws that ``rung`` breaks, with D from ``reference`` where there is one.

    Tolerances are relative. Each user may have one request cut off by the end of the
    window (users / completed), means have their standard error, CPU time its ticks.
    Without completions every law is void, and Little's is reported broken.
    """
    if not rung.completed:
        return [Violation(Law.LITTLE, rung.users, 0.0, LITTLE_TOLERANCE)]
    cut = rung.users / rung.completed
    noise = _SIGMAS * rung.response_cv / sqrt(rung.completed)
    inside = rung.throughput_rps * (rung.response_s + rung.think_s)
    tolerance = LITTLE_TOLERANCE + cut + noise
    found = []
    if abs(inside / rung.users - 1) > tolerance:
        found.append(Violation(Law.LITTLE, float(rung.users), inside, tolerance))
    ticks = _TICK_S * max(1.0, rung.vcpus)
    used = rung.cpu_s / rung.elapsed_s
    # A window cut anywhere may hold one period's quota more than its share.
    tolerance = LITTLE_TOLERANCE + (ticks / rung.vcpus + rung.period_s) / rung.elapsed_s
    if used > rung.vcpus * (1 + tolerance):
        found.append(Violation(Law.CAPACITY, rung.vcpus, used, tolerance))
    if reference is not None and reference.completed and reference.cpu_s > 0:
        expected = rung.throughput_rps * reference.demand_s
        tolerance = DEMAND_TOLERANCE + cut + ticks / reference.cpu_s
        tolerance += ticks / (expected * rung.elapsed_s)
        if abs(used / expected - 1) > tolerance:
            found.append(Violation(Law.UTILISATION, expected, used, tolerance))
    return found


def little(run: LoadRun, result: LoadResult) -> Violation | None:
    """How a closed-loop run breaks Little's law, from all its answers; None if it does not.

    Nothing is said of other runs, nor of one in which requests failed or a worker was lost:
    their users were busy with what is not counted.
    """
    good = result.samples.take(result.samples.ok)
    if run.users is None or not len(good) or result.errors or result.lost_workers:
        return None
    response_s = good.busy_s
    mean = float(np.mean(response_s))
    rung = Rung(
        users=run.users,
        completed=len(good),
        elapsed_s=result.elapsed_s,
        response_s=mean,
        response_cv=float(np.std(response_s)) / mean if mean > 0 else 0.0,
        cpu_s=0.0,
        vcpus=1.0,
    )
    return next((found for found in violations(rung) if found.law == Law.LITTLE), None)


def gain(previous: Rung, this: Rung, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of this rung's throughput over the previous one's.

    Normal on the logarithm of the ratio (delta method). A count of completions varies by
    its index of dispersion: measured from slices where there are any, else that of a
    Poisson count, 1, which is more than a saturated server shows whose service times vary
    less than exponential ones.
    """
    if not previous.completed:
        return (0.0, float("inf"))
    if not this.completed:
        return (0.0, 0.0)
    spread = _dispersion(previous.counts) / previous.completed
    spread += _dispersion(this.counts) / this.completed
    middle = log(this.throughput_rps / previous.throughput_rps)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * sqrt(spread)
    return exp(middle - half), exp(middle + half)


def worth_doubling(previous: Rung, this: Rung, confidence: float = CONFIDENCE) -> bool | None:
    """Whether the users should be doubled again, after ``this`` rung.

    True: the last doubling gained more than 5 % for certain. False: it gained less for
    certain, so stop. None: not known, so measure longer, or go on.
    """
    low, high = gain(previous, this, confidence)
    if low > WORTH:
        return True
    return False if high < WORTH else None


def ladder_end(previous: Rung, this: Rung, timeout_s: float = inf) -> LadderEnd | None:
    """Why ``this`` rung is the last of its ladder; None where the users are to be doubled again.

    Where the last doubling brought less than half of itself, twice the users would share this
    rung's throughput, or little more: so long each of them waits, by Little's law.
    """
    if worth_doubling(previous, this) is not False:
        full = this.throughput_rps < _FULL * previous.throughput_rps
        waiting = full and 2 * this.users > timeout_s * this.throughput_rps
        return LadderEnd.TIMEOUT if waiting else None
    if not this.completed:
        return LadderEnd.NO_ANSWERS
    _, most = gain(previous, this)
    return LadderEnd.THROUGHPUT_FELL if most < 1 else LadderEnd.GAIN_SMALL


def _dispersion(counts: Sequence[int]) -> float:
    """Variance over mean of the counts in slices; 1 where there are too few slices."""
    if len(counts) < 8 or not sum(counts):
        return 1.0
    # Never quite zero: a clockwork's slices agree, its rate still has an end effect.
    return max(float(np.var(counts, ddof=1) / np.mean(counts)), 0.01)
