"""Dynamic batching in the search: the best plan where it is strictly cheaper, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.histogram import Histogram
from planner import batch_choice
from planner.allocatable import allocatable_gib
from planner.batch_choice import COMPANY, may_share, predicted_share, queues_of
from planner.batch_law import PRIOR_RESIDUAL, BatchLaw
from planner.batched_queue import BatchedQueue
from planner.batching import batched_sojourns
from planner.candidates import replica_memory_gib
from planner.prices import Price
from planner.recommend import best_on_host, recommend
from planner.records import CpuFactor, Demand, MeasuredPoint, Plan, Recommendation
from serving.compressors.onnx_int8 import DynamicInt8
from serving.compressors.torch_int8 import TorchDynamicInt8
from serving.records import TensorSpec

Build = Callable[..., Any]

BATCHES = (1, 4, 16)
ROWS = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
PRICE = Price(
    instance="vm-4",
    usd_per_hour=0.1,
    region="us-east-1",
    as_of="2026-01-15",
    source="list",
    cpu_family="cloud",
)
FACTOR = CpuFactor(target_family="cloud", low=0.8, mid=0.9, high=1.0, basis="assumed")


class World:
    """One size, what it measured at several batches, and what is recommended of it."""

    def __init__(self, profile: Build, variant: Build, instance: Build) -> None:
        self._profile, self._size = profile, instance("sim-1")
        self._bought = instance("vm-4", vcpus=4, memory_gib=8, cpu_family="cloud")
        self.variant = variant(inputs=(ROWS,), outputs=(ROWS,))

    def profiles(self, fixed_ms: float, row_ms: float, batches: tuple[int, ...]) -> list[Any]:
        made = []
        for batch in batches:
            mean = fixed_ms + row_ms * batch
            times = np.repeat([0.95 * mean, mean, 1.05 * mean], 200) / 1e3
            made.append(
                self._profile(
                    service=Histogram.of(times),
                    batch=batch,
                    capacity_rps=1e3 / (mean + 0.3),
                    instance=self._size,
                    variant=self.variant,
                )
            )
        return made

    def ask(
        self, demand: Demand, profiles: list[Any], *, prices: bool = False, batching: bool = True
    ) -> Recommendation:
        sizes = {"sim-1": self._size, "vm-4": self._bought}
        offers, factors = ([PRICE], [FACTOR]) if prices else ([], [])
        return recommend(
            demand,
            profiles,
            [],
            [p.variant for p in profiles[:1]],
            sizes,
            offers,
            factors,
            0,
            batching=batching,
        )


@pytest.fixture(scope="module")
def world(profile: Build, variant: Build, instance: Build) -> World:
    return World(profile, variant, instance)


def test_a_large_fixed_part_is_shared(world: World, demand: Build) -> None:
    """10 ms a call and .2 ms a row: fewer replicas than one at a time needs, within the limit."""
    asked, measured = demand(300, 150), world.profiles(10, 0.2, BATCHES)
    answer, plain = (world.ask(asked, measured, batching=b) for b in (True, False))
    best, choice = answer.best, answer.batching
    assert best is not None
    assert choice is not None
    assert plain.best is not None
    assert best.vcpus < plain.best.vcpus
    assert best.candidate.max_batch == choice.max_batch == 16
    assert (best.replicas, choice.instead_of) == (choice.replicas, plain.best.replicas)
    assert best.p99_ms.high <= choice.latency_ms.high <= 150
    assert best.latency_basis == "predicted"
    assert choice.residual < 0.02
    assert choice.measured_batches == BATCHES
    assert best_on_host(answer) is best


def test_what_is_without_batching_stays_as_it_was(world: World, demand: Build) -> None:
    """The plans and rejections of the search without it, in its order, the batched one before."""
    asked, measured = demand(300, 150), world.profiles(10, 0.2, BATCHES)
    answer, plain = (world.ask(asked, measured, batching=b) for b in (True, False))

    def bare(plan: Plan) -> Plan:
        return plan.model_copy(update={"pareto": False})

    assert plain.best is not None
    before = [bare(p) for p in (plain.best, *plain.alternatives)]
    assert [bare(p) for p in answer.alternatives] == before
    assert answer.rejections == plain.rejections
    assert plain.batching is None


def test_as_many_machines_are_not_cheaper(world: World, demand: Build) -> None:
    """One machine holds either way, with fewer replicas or not: one request a call stays best."""
    asked, measured = demand(150, 150), world.profiles(10, 0.2, BATCHES)
    priced = world.ask(asked, measured, prices=True)
    assert priced.best is not None
    assert priced.best.usd_per_month is not None
    assert priced.best.instances == 1
    assert priced.batching is None
    assert all(p.candidate.max_batch == 1 for p in (priced.best, *priced.alternatives))


def test_it_is_bought_where_it_saves_a_machine(world: World, demand: Build) -> None:
    """Priced by the machine, and as cautious about its CPU as any plan."""
    asked, measured = demand(600, 150), world.profiles(10, 0.2, BATCHES)
    answer, plain = (world.ask(asked, measured, prices=True, batching=b) for b in (True, False))
    assert answer.best is not None
    assert plain.best is not None
    assert answer.batching is not None
    assert answer.best.usd_per_month == answer.batching.usd_per_month
    assert (answer.best.usd_per_month or 0) < (plain.best.usd_per_month or 0)
    assert answer.best.p99_ms.high <= 150
    assert "0.8 to 1 of one here" in answer.best.price_basis


def test_it_may_hold_what_nothing_else_does(world: World, demand: Build) -> None:
    """Two replicas carry 130 req/s one at a time; sharing calls they carry 300."""
    answer = world.ask(demand(300, 150, max_replicas=2), world.profiles(10, 0.2, BATCHES))
    assert answer.best is not None
    assert answer.batching is not None
    assert answer.batching.instead_of is None
    assert not answer.alternatives


@settings(max_examples=25, deadline=None)
@given(
    fixed=st.floats(0.5, 20),
    row=st.floats(0.01, 10),
    rate=st.floats(20, 2000),
    limit=st.floats(20, 400),
    spare=st.integers(0, 2),
)
def test_it_is_never_dearer_and_always_holds(
    world: World, demand: Build, fixed: float, row: float, rate: float, limit: float, spare: int
) -> None:
    """Strictly fewer vCPUs or not there; simulated at its slow end, spares gone, it is in time."""
    asked = demand(rate, limit, spare_replicas=spare, max_replicas=32)
    measured = world.profiles(fixed, row, BATCHES)
    answer, plain = (world.ask(asked, measured, batching=b) for b in (True, False))
    if answer.batching is None:
        assert answer == plain
        return
    best = answer.best
    assert best is not None
    if plain.best is not None:
        assert best.vcpus < plain.best.vcpus
    law = BatchLaw.of(measured)
    doubt = max(p.capacity_rps / p.capacity_interval.low for p in measured)
    slow = law.table(best.candidate.max_batch) * ((1 + law.residual) * doubt)
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(1 / rate, (900, 20)), axis=0)
    times = batched_sojourns(
        arrivals, rng.random((900, 20)), slow, wait_s=0, replicas=best.replicas - spare
    )
    assert 1e3 * float(np.quantile(times[300:], 0.99) + law.beyond_s) <= 1.15 * limit


def test_two_batches_are_a_wide_law(world: World, demand: Build) -> None:
    """Nothing tests a line through two points, so the prior counts against it."""
    asked = demand(300, 150)
    tested = world.ask(asked, world.profiles(10, 0.2, BATCHES)).batching
    assumed = world.ask(asked, world.profiles(10, 0.2, (1, 16))).batching
    assert tested is not None
    assert assumed is not None
    assert assumed.residual == PRIOR_RESIDUAL
    assert assumed.replicas >= tested.replicas
    assert assumed.latency_ms.high > tested.latency_ms.high


@pytest.mark.usefixtures("no_own_error")
def test_what_was_measured_beyond_the_prediction_is_added(world: World, demand: Build) -> None:
    """Runs that were 200 ms slower than their queue explains are so in batches as well."""
    asked, plain = demand(300, 2000), world.profiles(10, 0.2, BATCHES)
    slow = MeasuredPoint(rate_rps=10, utilisation=0.1, p50_ms=11, p95_ms=20, p99_ms=220, n=1000)
    seen = [p.model_copy(update={"measured_points": (slow,)}) for p in plain[:1]] + plain[1:]
    without, added = (world.ask(asked, profiles).batching for profiles in (plain, seen))
    assert without is not None
    assert added is not None
    assert added.latency_ms.low == pytest.approx(without.latency_ms.low)
    assert 180 < added.latency_ms.mid - without.latency_ms.mid < 220
    assert 180 < added.latency_ms.high - without.latency_ms.high < 220


def test_a_batch_that_does_not_fit_is_not_offered(world: World, demand: Build) -> None:
    """Two GiB at 16 rows and a quarter more are over what a replica has; 4 rows fit."""
    profiles = world.profiles(10, 0.2, BATCHES)
    large = profiles[2].model_copy(update={"peak_memory_bytes": 2 << 30})
    answer = world.ask(demand(300, 150), [*profiles[:2], large])
    assert answer.best is not None
    assert answer.best.candidate.max_batch == 4


def test_memory_of_a_full_call_bounds_how_many_an_instance_holds(
    world: World, demand: Build
) -> None:
    """1.6 GiB at 16 rows, 2 with headroom: two of them in what an 8 GiB machine gives."""
    profiles = world.profiles(10, 0.2, (1, 16))
    large = profiles[1].model_copy(update={"peak_memory_bytes": round(1.6 * 2**30)})
    best = world.ask(demand(600, 150), [profiles[0], large], prices=True).best
    assert best is not None
    assert best.candidate.max_batch == 16
    room = allocatable_gib(world._bought)
    assert best.candidate.replicas_per_instance == room // replica_memory_gib(large)
    assert best.replica_memory_gib == replica_memory_gib(large)


def test_a_spare_replica_is_kept(world: World, demand: Build) -> None:
    """With one to spare, the others hold alone."""
    profiles = world.profiles(10, 0.2, BATCHES)
    alone, spare = (
        world.ask(demand(300, 150, spare_replicas=n, max_replicas=16), profiles).batching
        for n in (0, 1)
    )
    assert alone is not None
    assert spare is not None
    assert spare.replicas == alone.replicas + 1


@pytest.mark.parametrize("batches", [(1,), (4, 16)])
def test_it_needs_the_demanded_batch_and_another(
    world: World, demand: Build, batches: tuple[int, ...]
) -> None:
    """One batch size is no law, and neither is one that begins above what is asked for."""
    assert world.ask(demand(300, 150), world.profiles(10, 0.2, batches)).batching is None


def test_rows_that_cost_what_they_cost_share_nothing(world: World, demand: Build) -> None:
    """Without a fixed part a batch takes as long as its rows one by one."""
    assert world.ask(demand(200, 200), world.profiles(0.01, 10, BATCHES)).batching is None


def test_a_share_of_a_cpu_is_left_alone(world: World, demand: Build, instance: Build) -> None:
    """The law across batch sizes knows no stalls of a quota."""
    half = [
        p.model_copy(update={"instance": instance("sim-0.5")})
        for p in world.profiles(10, 0.2, (1, 4))
    ]
    assert queues_of(half, 1, 0) == []


def test_only_answers_that_no_other_row_changes_share_a_call(world: World) -> None:
    """Dynamic int8 chooses its scales by call; a model without a batch axis takes one row."""
    assert may_share(world.variant)
    for step in (DynamicInt8(), TorchDynamicInt8(dict)):
        assert COMPANY in step.title
        assert not may_share(world.variant.model_copy(update={"method": step.title}))
    assert not may_share(world.variant.model_copy(update={"one_row_a_call": True}))


def test_few_simulations_are_made(
    world: World, demand: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing that is tried holds it ends; where nothing can be cheaper it never begins."""
    made: list[int] = []

    def counted(*args: Any, **options: Any) -> np.ndarray:
        made.append(1)
        return batched_sojourns(*args, **options)

    monkeypatch.setattr("planner.batched_queue.batched_sojourns", counted)
    alike = [
        p.model_copy(update={"threads": threads})
        for threads in range(1, 9)
        for p in world.profiles(10, 0.2, BATCHES)
    ]
    assert world.ask(demand(3000, 17, max_replicas=256), alike).batching is None
    assert batch_choice.MOST_SIMULATIONS <= len(made) <= batch_choice.MOST_SIMULATIONS + 2
    made.clear()
    world.ask(demand(20, 150), alike)
    assert made == []


def test_a_share_is_predicted_as_the_whole_is(world: World, demand: Build) -> None:
    """On this host, at its part of the rate; nothing beyond the load of a plan, or another call."""
    measured = world.profiles(10, 0.2, BATCHES)
    best = world.ask(demand(1500, 150), measured).best
    assert best is not None
    size = measured[0].instance

    def said(plan: Plan, replicas: int, rate: float) -> Any:
        return predicted_share(measured, plan.candidate, size, 1, replicas, rate, 0.99, 0)

    whole = said(best, best.replicas, 1500)
    assert whole == best.p99_ms
    assert said(best, 1, 1500 / best.replicas).high >= whole.high
    assert said(best, 1, 1500) is None
    other = best.candidate.model_copy(update={"max_batch": 7})
    assert said(best.model_copy(update={"candidate": other}), 1, 10) is None


@pytest.mark.parametrize(("fixed", "row"), [(10, 0.2), (10, 1), (10, 4), (1, 10)])
@pytest.mark.parametrize("most", [4, 16])
def test_a_wait_for_company_saves_nothing(fixed: float, row: float, most: int) -> None:
    """At no load that a plan may have is the p99 more than noise lower with a wait."""
    table = np.array([0, *(fixed + row * n for n in range(1, most + 1))])[:, None] / 1e3
    rng = np.random.default_rng(0)
    gaps, places = rng.exponential(size=(700, 24)), rng.random((700, 24))
    for replicas in (1, 4):
        for load in (0.05, 0.4, 0.7):
            rate = load * replicas * most / float(table[most, 0])
            arrivals = np.cumsum(gaps / rate, axis=0)
            at_once, later = (
                np.quantile(
                    batched_sojourns(
                        arrivals, places, table, wait_s=wait * table[1, 0], replicas=replicas
                    )[150:],
                    0.99,
                )
                for wait in (0.0, 0.1)
            )
            assert later > 0.96 * at_once


@pytest.mark.parametrize("replicas", [1, 3, 6])
@pytest.mark.parametrize("most", [4, 16])
def test_the_grid_says_what_a_simulation_of_the_rate_says(
    world: World, replicas: int, most: int
) -> None:
    """Between loads of the grid and numbers of replicas: never less, and not much more."""
    measured = world.profiles(10, 1, BATCHES)
    law = BatchLaw.of(measured)
    queue = BatchedQueue(measured, law, most, 0)
    slow = queue.profile.capacity_rps / queue.profile.capacity_interval.low
    rng = np.random.default_rng(5)
    for load in (0.15, 0.5, 0.69):
        rate = load / slow * replicas * queue.profile.capacity_rps
        arrivals = np.cumsum(rng.exponential(1 / rate, (1500, 24)), axis=0)
        times = batched_sojourns(
            arrivals, rng.random((1500, 24)), law.table(most), wait_s=0, replicas=replicas
        )
        found = 1e3 * float(np.quantile(times[300:], 0.99) + law.beyond_s)
        assert 0.95 * found < queue.latency(replicas, rate, 0.99).mid < 1.3 * found
