"""Sizing: the fewest instances of one kind that hold a demand, or what they fail on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, Protocol

from loadtests.objective import Slo
from planner.congestion import waits_ms
from planner.ranges import Range
from planner.records import (
    MOST_REPLICAS,
    Bottleneck,
    CpuFactor,
    Demand,
    Interval,
    ServiceProfile,
)
from planner.sharing import capacity
from planner.staffing import MANY, carried, may_wait, staffed
from planner.surface import HIGHEST_UTILISATION, SIMULATED_REPLICAS
from serving.calibration import HOST_FAMILY

UTILISATION_CAP = 0.7
"""Share of the measured capacity that a plan may use: beyond it latency grows faster than
any prediction is certain, and nothing is left for a burst. Bursts of very many replicas
cancel out: there the staffing law allows more, up to what is predicted at all."""


_TELLING = 0.3  # of a limit: such waits are worth a word


class Shortage(NamedTuple):
    """What a number of instances fails on."""

    bottleneck: Bottleneck
    reason: str


class Queue(Protocol):
    """What is asked of a replica's queue: :class:`planner.curve.Predictor` says the most of it."""

    profile: ServiceProfile

    @property
    def staffable(self) -> bool:
        """Whether the staffing law holds for many replicas."""

    def latency(
        self, replicas: int, rate_rps: float, quantile: float, through_rps: float = 0.0
    ) -> Range:
        """One quantile in ms with ``replicas`` replicas at ``rate_rps`` in all.

        ``through_rps`` pass one ingress whose waits count; 0 where they are not known.
        """

    def unloaded(self, quantile: float) -> float:
        """A quantile in ms of requests that meet no other one."""

    def share_waiting(self, replicas: int, rate_rps: float) -> float:
        """Share of requests that wait at all; 1 where no law says it."""


class Sizing:
    """A queue under one CPU factor, ``held`` replicas an instance, against one demand.

    Nothing here depends on what the instance is called or costs, so that one sizing serves
    every shape that holds as many replicas of a CPU family.
    """

    def __init__(self, queue: Queue, factor: CpuFactor, held: int, demand: Demand) -> None:
        self._queue, self._factor, self._held = queue, factor, held
        self._demand = demand
        self._most = demand.max_replicas // held
        self._may_wait = min(may_wait(slo.quantile) for slo in demand.slos)
        # Here all requests pass the ingress that the floor was measured through. What is bought
        # has one on each machine, and no generator beside it: nobody measured those.
        self._through_rps = demand.rate_rps if factor.target_family == HOST_FAMILY else 0.0

    @cached_property
    def needed(self) -> int:
        """Replicas that the utilisation cap asks for, spares not counted."""
        load = self._demand.rate_rps / self._each_rps(1)
        capped = max(1, math.ceil(load / UTILISATION_CAP - 1e-9))
        while capped <= MOST_REPLICAS and self._falls_short(capped):  # in company each carries less
            capped += 1
        if capped <= MANY or not self._queue.staffable:
            return capped
        full = math.ceil(load / HIGHEST_UTILISATION - 1e-9)
        if load > MOST_REPLICAS:  # more than may be planned, and the law's sums are as long
            return full
        return max(MANY, min(capped, max(full, staffed(load, self._may_wait))))

    @cached_property
    def fewest(self) -> int:
        """Instances below which the rate alone cannot be carried, spares counted."""
        return math.ceil((self.needed + self._demand.spare_replicas) / self._held)

    @cached_property
    def hopeless(self) -> Shortage | None:
        """What no number of instances cures; found without simulating anything."""
        demand = self._demand
        if (slo := self._out_of_reach) is not None:
            return Shortage(
                Bottleneck.LATENCY,
                f"{quantile_name(slo)} is {self.floor_ms(slo.quantile):.3g} ms without any load, "
                f"over the limit of {slo.limit_ms:g} ms",
            )
        working = self._most * self._held - demand.spare_replicas
        if working < self.needed:
            each = self._each_rps(self.needed)
            share = UTILISATION_CAP
            if self._queue.staffable and self._falls_short(self.needed):  # the staffing law's
                share = demand.rate_rps / self.needed / each
            return Shortage(
                Bottleneck.CAPACITY,
                f"{demand.rate_rps:g} req/s need {_working(self.needed)} of "
                f"{share * each:.3g} req/s (at {share:.0%} of capacity, "
                f"lower bound), {max(working, 0)} fit into max_replicas = {demand.max_replicas}",
            )
        return None

    @property
    def fast_enough(self) -> bool:
        """Whether a request that meets no other one is within every limit."""
        return self._out_of_reach is None

    @cached_property
    def smallest(self) -> int | Shortage:
        """Find the smallest number of instances that holds, or why none up to the limit does."""
        if self.hopeless is not None:
            return self.hopeless
        for begin, end in self._segments():
            if not self._over(begin):
                return begin
            if self._over(end):
                continue
            while end - begin > 1:
                middle = (begin + end) // 2
                begin, end = (middle, end) if self._over(middle) else (begin, middle)
            return end
        return self.shortage(self._most) or self._most

    def shortage(self, number: int) -> Shortage | None:
        """Name what ``number`` instances fail on, without their spares or with them."""
        demand = self._demand
        working = number * self._held - demand.spare_replicas
        if working < self.needed:
            working = max(working, 0)
            return Shortage(
                Bottleneck.CAPACITY,
                f"{_working(working)} carr{'ies' if working == 1 else 'y'} "
                f"{self.carried_rps(working):.3g} req/s at {self._share(working):.0%} "
                f"of capacity, {demand.rate_rps:g} are demanded",
            )
        slo = self._missed(number)
        if slo is not None:
            return Shortage(
                Bottleneck.LATENCY,
                f"{quantile_name(slo)} may be {self.upper_ms(number, slo.quantile):.3g} ms with "
                f"{_working(working)} (upper bound), over the limit of {slo.limit_ms:g} ms"
                f"{self._waits_in_words(slo, working)}",
            )
        return None

    def _waits_in_words(self, slo: Slo, working: int) -> str:
        """Says where more replicas help little: what is waited before any of them."""
        points = self._queue.profile.platform
        waits = waits_ms(points, self._through_rps, slo.quantile).high
        if working < 2 or not self._through_rps or waits < _TELLING * slo.limit_ms:
            return ""
        return (
            f"; generator and ingress alone may add {waits:.3g} ms at {self._through_rps:g} req/s, "
            "however many replicas there are"
        )

    @cached_property
    def may_hold(self) -> bool:
        """Whether as many instances as are allowed hold, were the profile at its best end.

        Of a predicted size: then only a measurement can tell.
        """
        demand, speed = self._demand, self._factor.low
        profile, rate = self._queue.profile, self._demand.rate_rps / self._factor.low
        working = self._most * self._held - demand.spare_replicas
        if working < 1:
            return False
        each = capacity(profile, working)
        most = min(
            UTILISATION_CAP * each.high,
            HIGHEST_UTILISATION * each.mid,
        )
        if rate > working * most:
            return False
        return all(
            self._queue.latency(working, rate, slo.quantile).low / speed <= slo.limit_ms
            for slo in demand.slos
        )

    def upper_ms(self, number: int, quantile: float) -> float:
        """Upper bound of a quantile, with and without the spare replicas."""
        replicas, speed = number * self._held, self._factor.low
        rate = self._demand.rate_rps / speed
        return max(
            self._queue.latency(k, rate, quantile, self._through_rps).high / speed
            for k in {replicas, replicas - self._demand.spare_replicas}
        )

    def floor_ms(self, quantile: float) -> float:
        """A quantile without any load: a limit below it is hopeless."""
        return self._queue.unloaded(quantile) / self._factor.low

    def least_ms(self, quantile: float) -> float:
        """The tightest limit on a quantile that any number of instances up to the limit holds.

        The demand's objectives on other quantiles hold there, too; inf where they never do,
        or where the rate is too much for all instances.
        """
        others = [slo for slo in self._demand.slos if slo.quantile != quantile]
        if any(self.floor_ms(slo.quantile) > slo.limit_ms for slo in others):
            return math.inf
        if self.fewest > self._most:
            return math.inf
        least = math.inf
        for _, end in self._segments():  # within one, more instances are never slower
            if all(self.upper_ms(end, slo.quantile) <= slo.limit_ms for slo in others):
                least = min(least, self.upper_ms(end, quantile))
        return max(least, self.floor_ms(quantile))

    def latency(self, replicas: int, quantile: float) -> Interval:
        """Latency in ms where a vCPU is ``factor`` times as fast as the measured one.

        A queue on a faster CPU is the same queue in faster time: latency(rate) there is
        latency(rate / factor) / factor here.
        """
        factor, rate = self._factor, self._demand.rate_rps
        low, mid, high = (
            self._queue.latency(replicas, rate / speed, quantile, self._through_rps)[part] / speed
            for part, speed in enumerate((factor.high, factor.mid, factor.low))
        )
        return Interval(low=low, mid=max(low, mid), high=max(low, mid, high))

    def carried_rps(self, replicas: int) -> float:
        """Rate that so many replicas may be given, at the lower bound."""
        return replicas * self._share(replicas) * self._each_rps(replicas)

    def staffing(self, number: int) -> str:
        """Say by which law so many replicas are planned; "" where they were simulated."""
        replicas = number * self._held
        working = replicas - self._demand.spare_replicas
        wait = self._queue.share_waiting(working, self._demand.rate_rps / self._factor.low)
        if wait > self._may_wait:
            return ""
        load = self._demand.rate_rps / self._each_rps(working)
        spread = (working - load) / math.sqrt(load)
        return (
            f"{working:,} working replicas follow from a staffing law, not from a simulation: "
            f"{load:,.1f} erlangs + {spread:.2f} times their square root; by Erlang C {wait:.2g} "
            "of all requests wait. One router has to see every replica."
        )

    def _each_rps(self, replicas: int) -> float:
        """Requests per second of each of so many replicas, at the lower bound."""
        return capacity(self._queue.profile, replicas).low * self._factor.low

    def _falls_short(self, replicas: int) -> bool:
        carried = UTILISATION_CAP * replicas * self._each_rps(replicas)
        return carried < self._demand.rate_rps * (1 - 1e-9)

    def _share(self, replicas: int) -> float:
        """Share of the capacity that so many replicas may be used to."""
        if replicas < MANY or not self._queue.staffable:
            return UTILISATION_CAP
        allowed = carried(replicas, self._may_wait) / replicas
        return min(max(UTILISATION_CAP, allowed), HIGHEST_UTILISATION)

    @cached_property
    def _out_of_reach(self) -> Slo | None:
        """The first objective that not even a request without company meets."""
        slos = self._demand.slos
        return next((s for s in slos if self.floor_ms(s.quantile) > s.limit_ms), None)

    def _over(self, number: int) -> bool:
        return self._missed(number) is not None

    def _missed(self, number: int) -> Slo | None:
        """The first objective that so many instances may miss."""
        slos = self._demand.slos
        missed = (s for s in slos if self.upper_ms(number, s.quantile) > s.limit_ms)
        return next(missed, None)

    def _segments(self) -> Iterator[tuple[int, int]]:
        """Numbers of instances between which only the utilisation changes, ends included.

        From one to the next another simulation may be used; within one, more instances are
        never slower, so that the first that holds is found by bisection.
        """
        spare, held = self._demand.spare_replicas, self._held
        edges = {
            math.ceil((count + kept) / held)
            for count in (*SIMULATED_REPLICAS, MANY)
            for kept in (0, spare)
        }
        inside = sorted(e for e in edges if self.fewest < e <= self._most)
        starts = [self.fewest, *inside]
        ends = [*(e - 1 for e in inside), self._most]
        yield from zip(starts, ends, strict=True)


def quantile_name(slo: Slo) -> str:
    """The quantile of an objective as one says it: p99."""
    return f"p{100 * slo.quantile:g}"


def _working(replicas: int) -> str:
    """Replicas that answer, spares not counted."""
    return f"{replicas} working replica" + ("" if replicas == 1 else "s")
