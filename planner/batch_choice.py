"""Dynamic batching as a dimension of the search: the cheapest candidate whose calls are shared.

A candidate with batching is one without it, and the most requests that a call may answer. It is
held against the objectives as any other: at the upper bound of the interval, with the spare
replicas gone, at most 70 % of what full calls carry. It exists where the replica was measured at
the demanded batch size and at a larger one, on whole CPUs (the law across batch sizes knows no
stalls of a quota). Calls of the measured batch sizes are tried, and of the largest that fits
between them, while a larger one carries more.

No call waits for company. A free replica takes what is there, so calls grow with the load by
themselves, and at the load that a plan may have they are as full with a wait as without: over the
laws of a test a wait of a tenth of a call lowered no p99 by more than noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from planner.allocatable import allocatable_gib, allocatable_vcpus
from planner.batch_law import BatchLaw
from planner.batched_queue import BatchedQueue
from planner.candidates import Placement, fitting_on, ingress_vcpus
from planner.occupancy import quota_of
from planner.options import Cost, Option, cost_of, names_of
from planner.records import (
    HOURS_PER_MONTH,
    BatchChoice,
    Bottleneck,
    Candidate,
    Demand,
    Interval,
    PredictedProfile,
    Rejection,
    ServiceProfile,
)
from planner.row_law import FEWEST
from planner.sizing import Shortage, Sizing
from serving.errors import BadInput
from serving.records import COMMAND, InstanceType, Variant

MOST_SIMULATIONS = 4
"""Of a sixth of a second each: a search that has made as many begins no other candidate."""

MOST_A_CALL = 128
"""Half of the requests that a replica is sent at once (``max_ongoing_requests``): while one call
runs, only the other half can wait for the next."""

COMPANY = "int8 dynamic"
"""In the method of a variant whose answers depend on the rows that share a call: it chooses its
scales by call."""

OF_A_MIX = (
    "calls that answer several requests were not tried: the law of a shared call is one of "
    "requests of equal size, and those of a mix are not"
)

_FEWEST_A_CALL = 2
"""What is refused of a mix is refused from here on."""

_WORTH = 1.05
"""A larger call has to carry so many times as much as a smaller one to be tried as well."""


class Found(NamedTuple):
    """The cheapest candidate with batching, and the number of instances that holds."""

    option: Option
    number: int
    queue: BatchedQueue


class Batchings:
    """The candidates with batching of one demand; queues and sizings are made once.

    ``profiles`` are all that were measured. Of a mix there are none, see :meth:`refused`.
    """

    def __init__(self, demand: Demand, profiles: Iterable[ServiceProfile], seed: int) -> None:
        self._demand, self._seed = demand, seed
        self._cells: dict[tuple[str, str, int], dict[int, ServiceProfile]] = {}
        for p in profiles:
            if not isinstance(p, PredictedProfile):
                self._cells.setdefault(_cell(p), {})[p.batch] = p
        self._queues: dict[int, list[BatchedQueue]] = {}
        self._sizings: dict[tuple[int, float, float, float, int], Sizing] = {}
        self._room: dict[str, tuple[float, float]] = {}

    def cheapest(self, placements: Iterable[Placement], below: Cost | None) -> Found | None:
        """The first that is strictly cheaper than ``below``, if it is not None.

        ``placements`` are those without batching, all with a price or none. By the cost of what the
        rate alone asks for, so that none left untried is cheaper, unless ``MOST_SIMULATIONS`` end
        the search: then the cheapest of those that were tried.
        """
        options = sorted(
            self._options(placements, below),
            key=lambda pair: (
                pair[0].bound,
                -pair[1].profile.capacity_rps,
                names_of(pair[0].placement),
            ),
        )
        best: Found | None = None
        for option, queue in options:
            if below is not None and not _cheaper(option, option.bound, below):
                break
            number = option.sizing.smallest
            if not isinstance(number, Shortage):
                cost = cost_of(option.placement, number)
                if below is None or _cheaper(option, cost, below):
                    best, below = Found(option, number, queue), cost
            if self._simulations >= MOST_SIMULATIONS:
                break
        return best

    def refused(self, placements: Iterable[Placement], below: Cost | None) -> list[Rejection]:
        """Of a mix, what would have been tried: a rejection for each variant, size and threads.

        Those whose calls may be shared, where the fewest instances that may be are strictly cheaper
        than ``below``, if it is not None. None without a mix.
        """
        if self._demand.mix is None:
            return []
        found: dict[tuple[str, str, int], tuple[Cost, Candidate]] = {}
        for placement in placements:
            profile, candidate = placement.profile, placement.candidate
            if isinstance(profile, PredictedProfile) or quota_of(profile) is not None:
                continue
            if not may_share(profile.variant):
                continue
            fewest = math.ceil((1 + self._demand.spare_replicas) / candidate.replicas_per_instance)
            cost, cell = cost_of(placement, fewest), _cell(profile)
            if below is not None and not _less(placement, cost, below):
                continue
            if cell not in found or cost < found[cell][0]:
                found[cell] = cost, candidate
        return [
            Rejection(
                candidate=candidate.model_copy(update={"max_batch": _FEWEST_A_CALL}),
                bottleneck=Bottleneck.UNMEASURED,
                reason=OF_A_MIX,
            )
            for _, candidate in found.values()
        ]

    @property
    def _simulations(self) -> int:
        return sum(queue.simulations for queues in self._queues.values() for queue in queues)

    def _options(
        self, placements: Iterable[Placement], below: Cost | None
    ) -> Iterator[tuple[Option, BatchedQueue]]:
        for placement in placements:
            for queue in self._of(placement.profile):
                held = self._held(placement, queue.profile)
                if not held:
                    continue
                sizing = self._sizing(queue, placement, held)
                if sizing.hopeless is not None:
                    continue
                bound = cost_of(placement, sizing.fewest)
                option = Option(placement, sizing, bound)
                if below is None or _cheaper(option, bound, below):
                    yield Option(_shared(placement, queue, held), sizing, bound), queue

    def _of(self, profile: ServiceProfile) -> list[BatchedQueue]:
        """The queues of a measured cell, by the most requests that a call may answer."""
        if isinstance(profile, PredictedProfile) or self._demand.mix is not None:
            return []
        # By identity: hashing a profile takes longer than all else here.
        if id(profile) not in self._queues:
            cell = self._cells[_cell(profile)].values()
            self._queues[id(profile)] = queues_of(cell, self._demand.batch, self._seed)
        return self._queues[id(profile)]

    def _held(self, placement: Placement, profile: ServiceProfile) -> int:
        """Replicas that an instance holds when calls are shared; 0 for none."""
        candidate, instance = placement.candidate, placement.instance
        needed = placement._replace(profile=profile).replica_memory_gib
        if needed > (self._demand.max_replica_memory_gib or math.inf):
            return 0
        if candidate.instance == candidate.size:
            return int(needed <= instance.memory_gib)
        if instance.name not in self._room:
            self._room[instance.name] = allocatable_vcpus(instance), allocatable_gib(instance)
        beside = ingress_vcpus(profile) if instance.enforcement == "cpuset" else 0.0
        fitting = fitting_on(*self._room[instance.name], profile.instance.vcpus + beside, needed)
        return min(*fitting, self._demand.max_replicas)

    def _sizing(self, queue: BatchedQueue, placement: Placement, held: int) -> Sizing:
        factor = placement.factor
        key = (id(queue), factor.low, factor.mid, factor.high, held)
        if key not in self._sizings:
            self._sizings[key] = Sizing(queue, factor, held, self._demand)
        return self._sizings[key]


def queues_of(cell: Iterable[ServiceProfile], batch: int, seed: int) -> list[BatchedQueue]:
    """The queues with batching of one variant, size and threads, for requests of ``batch`` rows.

    None where nothing measured says them, or where sharing calls gains nothing.
    """
    usable = sorted((p for p in cell if p.batch >= batch), key=lambda p: p.batch)
    if len(usable) < FEWEST or usable[0].batch != batch or quota_of(usable[0]) is not None:
        return []
    if not may_share(usable[0].variant):
        return []
    law = BatchLaw.of(usable)
    largest = min(MOST_A_CALL, law.most)
    calls = sorted({largest} | {p.batch // batch for p in usable if 1 < p.batch // batch < largest})
    found: list[BatchedQueue] = []
    carried = usable[0].capacity_interval.low
    for most in calls:
        if most < 2:
            continue
        queue = BatchedQueue(usable, law, most, seed)
        if queue.profile.capacity_interval.low > _WORTH * carried:
            carried = queue.profile.capacity_interval.low
            found.append(queue)
    return found


def may_share(variant: Variant) -> bool:
    """Whether requests may share a call of a variant, and every answer is what it is alone."""
    return variant.batched and variant.runtime != COMMAND and COMPANY not in variant.method


def predicted_share(
    profiles: Iterable[ServiceProfile],
    candidate: Candidate,
    size: InstanceType,
    batch: int,
    replicas: int,
    rate_rps: float,
    quantile: float,
    seed: int,
) -> Interval | None:
    """A quantile in ms of ``replicas`` replicas of a candidate with batching, on this host.

    None where nothing says it, or beyond the load that a plan may have.
    """
    wanted = (candidate.variant, size.label, candidate.threads)
    cell = [p for p in profiles if _cell(p) == wanted and not isinstance(p, PredictedProfile)]
    queues = queues_of(cell, batch, seed)
    queue = next((q for q in queues if q.most == candidate.max_batch), None)
    try:
        found = None if queue is None else queue.latency(replicas, rate_rps, quantile, rate_rps)
    except BadInput:
        return None
    return None if found is None else Interval(low=found.low, mid=found.mid, high=found.high)


def batch_choice(found: Found, demand: Demand, instead_of: int | None) -> BatchChoice:
    """What is said of a best plan with batching; ``instead_of`` as in the record."""
    placement, sizing = found.option.placement, found.option.sizing
    replicas = found.number * placement.candidate.replicas_per_instance
    price = placement.price
    return BatchChoice(
        max_batch=found.queue.most,
        batch_wait_ms=0.0,
        replicas=replicas,
        instances=found.number,
        instead_of=instead_of,
        latency_ms=sizing.latency(replicas - demand.spare_replicas, demand.slo.quantile),
        residual=found.queue.law.residual,
        measured_batches=tuple(found.queue.law.batches.tolist()),
        usd_per_month=None
        if price is None
        else found.number * price.usd_per_hour * HOURS_PER_MONTH,
    )


def _shared(placement: Placement, queue: BatchedQueue, held: int) -> Placement:
    """The placement with calls shared: another candidate, whose profile is that of full calls."""
    update = {"max_batch": queue.most, "replicas_per_instance": held}
    candidate = placement.candidate.model_copy(update=update)
    return placement._replace(candidate=candidate, profile=queue.profile)


def _cheaper(option: Option, cost: Cost, than: Cost) -> bool:
    """Strictly: in dollars, or in vCPUs where there is no price."""
    return _less(option.placement, cost, than)


def _less(placement: Placement, cost: Cost, than: Cost) -> bool:
    at = 2 if placement.price is None else 0
    return cost[at] < than[at] * (1 - 1e-9)


def _cell(profile: ServiceProfile) -> tuple[str, str, int]:
    return profile.variant.name, profile.instance.label, profile.threads
