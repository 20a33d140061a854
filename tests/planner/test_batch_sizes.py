"""Batch sizes never measured: the profile of one, what is refused, and how plans use them."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.histogram import Histogram
from planner.batch_sizes import out_of_reach, predict_batch, predict_batches
from planner.curve import predictor
from planner.prices import Price, PriceList
from planner.probes import probes
from planner.profile import Refusal
from planner.recommend import best_on_host, recommend
from planner.records import (
    Bottleneck,
    CpuFactor,
    PredictedProfile,
    Recommendation,
    ServiceProfile,
)

from .cells import Cell

Build = Callable[..., Any]

FACTORS = (CpuFactor(target_family="cloud", low=0.9, mid=1.0, high=1.1, basis="assumed"),)
PRICES = (
    Price(
        instance="vm4",
        usd_per_hour=0.2,
        region="x",
        as_of="2025-01-15",
        source="list",
        cpu_family="cloud",
    ),
)


def cell_of(profile: Build, fixed_ms: float = 2.0, row_ms: float = 0.5) -> Cell:
    """Calls take ``fixed_ms`` and ``row_ms`` for each row."""
    return Cell(profile, "batch", lambda n: fixed_ms + row_ms * n, 1, idle_cores=0.02)


@pytest.fixture(scope="module")
def cell(profile: Build) -> Cell:
    return cell_of(profile)


@pytest.mark.parametrize("batch", [3, 9, 24, 30])
def test_an_exact_law_gives_the_profile_that_a_measurement_would(cell: Cell, batch: int) -> None:
    """Service, its shape, capacity and CPU time; between measured batches and beyond them."""
    known = [cell.at(n) for n in (16, 1, 4)]
    (found,) = predict_batches(known, batch)
    truth = cell.at(batch)
    assert found.batch == batch
    assert found.unmeasured == "batch size"
    assert found.measured_at == ("1", "4", "16")
    assert found.left_out_error == pytest.approx(0, abs=0.01)
    for q in (0.1, 0.5, 0.9):
        assert found.service.quantile_s(q) == pytest.approx(truth.service.quantile_s(q), rel=0.01)
    assert found.service.mean_s() == pytest.approx(truth.service.mean_s(), rel=0.005)
    assert found.capacity_rps == pytest.approx(truth.capacity_rps, rel=0.01)
    assert found.saturated == pytest.approx(truth.saturated, rel=0.01)
    assert found.cpu_ms == pytest.approx(truth.cpu_ms, rel=0.01)
    assert found.first_cpu_ms == pytest.approx(truth.first_cpu_ms, rel=0.01)
    assert found.idle_cores == truth.idle_cores
    assert found.beyond is not None
    assert found.beyond.quantile_s(0.9) == pytest.approx(truth.beyond.quantile_s(0.9), rel=0.01)
    assert found.peak_memory_bytes >= truth.peak_memory_bytes
    interval = found.capacity_interval
    assert interval.low < truth.capacity_rps < interval.high
    assert interval.high / interval.low > truth.capacity_interval.high / truth.capacity_interval.low


def test_memory_is_bounded_and_not_guessed(cell: Cell) -> None:
    """A peak may be of another batch of its deployment; beyond the largest it grows as rows do."""
    peaks = {1: 190, 100: 136, 6000: 200}
    known = tuple(cell.at(n, peak_memory_bytes=mib << 20) for n, mib in peaks.items())
    assert predict_batch(known, 50).peak_memory_bytes == 136 << 20
    assert predict_batch(known, 3000).peak_memory_bytes == 200 << 20
    assert predict_batch(known, 9000).peak_memory_bytes == 300 << 20


def test_a_figure_that_older_records_lack_is_not_made_up(cell: Cell) -> None:
    """What a paced request costs, or its round trip, has no law if one batch size lacks it."""
    found = predict_batch((cell.at(1, first_cpu_ms=None, beyond=None), cell.at(16)), 8)
    assert found.first_cpu_ms is None
    assert found.beyond is None


def test_a_law_of_few_times_adds_none(cell: Cell) -> None:
    """25 calls at the next batch size are 25 here: a bootstrap shall know how few there were."""
    few = Histogram.of(np.linspace(0.009, 0.011, 25))
    found = predict_batch((cell.at(1), cell.at(16, service=few)), 8)
    assert found.service.count == 25


@pytest.mark.parametrize(
    ("measured", "batch", "why"),
    [
        ((1, 16), 16, ""),
        ((1, 16), 32, ""),
        ((1, 16), 33, "a law from these reaches from 1 to 32 rows"),
        ((4, 1000), 3, "a law from these reaches from 4 to 2,000 rows"),
        ((4,), 5, "one batch size makes no law"),
    ],
)
def test_the_reach_of_a_law(measured: tuple[int, ...], batch: int, why: str) -> None:
    """From the smallest measured batch size to twice the largest."""
    assert out_of_reach(measured, batch) == why


def test_cells_are_not_mixed_and_nothing_measured_is_predicted(
    cell: Cell, instance: Build, variant: Build
) -> None:
    """Another variant, size or number of threads is another law; a law's profile makes none."""
    one = cell.at(1)
    for changed in ({"variant": variant("int8")}, {"instance": instance("sim-2")}, {"threads": 2}):
        assert predict_batches([one, cell.at(16, **changed)], 8) == []
    assert predict_batches([one, cell.at(8), cell.at(16)], 8) == []
    guess = predict_batches([one, cell.at(16)], 8)
    assert predict_batches([one, *guess], 4) == []


@settings(max_examples=30, deadline=None)
@given(fixed=st.floats(0, 20), row=st.floats(0.01, 5), batch=st.integers(2, 127))
def test_a_predicted_batch_queues_as_a_measured_one_would(
    profile: Build, fixed: float, row: float, batch: int
) -> None:
    """Simulated at half of its capacity, the p99 is that of the truth, and less certain."""
    cell = cell_of(profile, fixed, row)
    (found,) = predict_batches([cell.at(1), cell.at(128)], batch)
    truth = cell.at(batch)
    rate = 0.5 * truth.capacity_rps
    # The middle of one simulation is its luck as well.
    guess, known = (
        [predictor(p, seed).latency(1, rate, 0.99) for seed in range(6)] for p in (found, truth)
    )
    assert fmean(g.mid for g in guess) == pytest.approx(fmean(k.mid for k in known), rel=0.1)
    assert fmean(g.high / g.low for g in guess) > fmean(k.high / k.low for k in known)


def test_what_the_queue_did_not_explain_is_not_lost(cell: Cell) -> None:
    """Runs at the nearest batch that were 200 ms slower than their queue are so here as well."""
    point = {"rate_rps": 40.0, "utilisation": 0.5, "p50_ms": 30.0, "p95_ms": 90.0, "p99_ms": 220.0}
    quiet, noisy = (
        predict_batch((cell.at(1), cell.at(16, measured_points=points)), 12)
        for points in ((), ({**point, "n": 900},))
    )
    rate = 0.5 * quiet.capacity_rps
    calm, lifted = (predictor(p, 0).latency(1, rate, 0.99) for p in (quiet, noisy))
    assert lifted.high - calm.high > 150


def test_a_predicted_profile_survives_its_json(cell: Cell) -> None:
    """Written and read again it is the same, also where nothing tested the law."""
    found = predict_batch((cell.at(1), cell.at(16)), 8)
    assert found.left_out_error is None
    assert PredictedProfile.model_validate_json(found.model_dump_json()) == found


class World:
    """One variant on one vCPU, measured at some batches, and a machine of four to buy."""

    def __init__(self, cell: Cell, variant: Build, instance: Build, demand: Build) -> None:
        self.cell, self._demand = cell, demand
        self.variants = [variant()]
        self.sizes = {
            "sim-1": instance("sim-1"),
            "vm4": instance("vm4", vcpus=4, cpu_family="cloud", memory_gib=8),
        }

    def ask(
        self, batches: tuple[int, ...], batch: int, rate: float, limit: float, **changes: Any
    ) -> Recommendation:
        wanted = self._demand(rate, limit, batch=batch, batch_range=(batch, batch))
        known = changes.get("profiles") or [self.cell.at(n) for n in batches]
        refused = changes.get("refused", [])
        return recommend(wanted, known, refused, self.variants, self.sizes, PRICES, FACTORS, 0)


@pytest.fixture(scope="module")
def world(cell: Cell, variant: Build, instance: Build, demand: Build) -> World:
    return World(cell, variant, instance, demand)


def test_a_plan_on_a_predicted_batch_says_so(world: World) -> None:
    """In its own field, with the law's error, and never as what can be confirmed."""
    answer = world.ask((1, 4, 16), 8, 60, 100)
    assert answer.best is not None
    assert answer.best.predicted == "batch size"
    assert answer.best.predicted_size == ""
    assert answer.best.predicted_batch == (
        "predicted batch size, from 1, 4, 16; each between left out in turn is missed by at most 0%"
    )
    assert answer.best.latency_basis == "predicted"
    assert best_on_host(answer) is None
    two = world.ask((1, 16), 8, 60, 100).best
    assert two is not None
    assert two.predicted_batch == (
        "predicted batch size, from 1, 16; two make a line, and nothing tests it"
    )


def test_a_measured_batch_is_not_predicted(world: World) -> None:
    """The same demand at a batch that was measured rests on that alone."""
    best = world.ask((1, 4, 16), 16, 30, 200).best
    assert best is not None
    assert best.predicted == ""


def test_beyond_the_law_the_refusal_has_the_command(world: World) -> None:
    """33 rows are more than twice 16."""
    answer = world.ask((1, 16), 33, 10, 500)
    assert answer.best is None
    (reason,) = {r.reason for r in answer.rejections}
    assert reason == (
        "not measured at batch 33, only at batch 1, 16, and a law from these reaches from 1 to 32 "
        "rows; measure this: `tonnage measure RUN --variant onnx_fp32 --instance sim-1 "
        "--threads 1 --batch 33`"
    )
    assert {r.bottleneck for r in answer.rejections} == {Bottleneck.UNMEASURED}


def test_memory_that_is_only_bounded_is_measured(world: World) -> None:
    """Twice the rows may be twice 1 GiB, which this size has not got with headroom."""
    known = [world.cell.at(n, peak_memory_bytes=1 << 30) for n in (1, 16)]
    answer = world.ask((), 32, 10, 500, profiles=known)
    (own,) = (r for r in answer.rejections if r.candidate.instance == "sim-1")
    assert own.bottleneck is Bottleneck.UNMEASURED
    assert own.reason.startswith(
        "may need 2.50 GiB with 25% headroom, has 2 GiB; its peak at batch 32 was not measured; "
        "measure this: `tonnage measure RUN "
    )


def test_an_interval_across_the_limit_says_what_to_measure(world: World) -> None:
    """Batch 32 from 1 and 16 takes 18 ms, or it does not hold 20: only a measurement tells."""
    answer = world.ask((1, 16), 32, 5, 20)
    assert answer.best is None
    (found,) = {r.reason for r in answer.rejections if r.candidate.instance == "sim-1"}
    assert found.startswith("predicted batch size, from 1, 16; ")
    assert "at the lower end of its interval it holds; measure this: `tonnage measure" in found
    assert "--batch 32`" in found


def test_what_was_measured_and_cannot_be_believed_is_measured_again(world: World) -> None:
    """An invalid run is not talked away by a law."""
    key = ("onnx_fp32", "sim-1 (cpuset)", 1, 8)
    why = "no valid paced run: noisy_host: 12 % steal"
    answer = world.ask((1, 16), 8, 60, 100, refused=[Refusal(key, why)])
    assert answer.best is None
    assert {(r.bottleneck, r.reason) for r in answer.rejections} == {(Bottleneck.INVALID, why)}


def test_of_two_laws_the_narrower_one_is_taken(
    cell: Cell, variant: Build, instance: Build, demand: Build
) -> None:
    """Four vCPUs at batch 8: by this size's own batches 4 and 9 rather than by other sizes."""
    sizes = {f"sim-{n}": instance(f"sim-{n}", vcpus=n, enforcement="cpuset") for n in (1, 2, 4)}

    def known(*batches: int) -> list[ServiceProfile]:
        smaller = [cell.at(8, instance=sizes[f"sim-{n}"], threads=n) for n in (1, 2)]
        return smaller + [cell.at(n, instance=sizes["sim-4"], threads=4) for n in batches]

    def law(*batches: int) -> str:
        wanted = demand(10, 500, batch=8, batch_range=(8, 8))
        answer = recommend(wanted, known(*batches), [], [variant()], sizes, [], [], 0)
        plans = [p for p in (answer.best, *answer.alternatives) if p]
        return next(p.predicted for p in plans if p.candidate.size == "sim-4")

    assert law() == "size"
    assert law(7, 9) == "batch size"
    assert law(1, 4000) == "size"


def test_probes_know_a_predicted_batch_and_an_unmeasured_one(world: World) -> None:
    """The answer's own cell, and beyond the law the cell whose refusal is the only answer."""
    known = [world.cell.at(n) for n in (1, 4, 16)]
    prices = PriceList(PRICES, FACTORS)
    for batch, why in (
        (8, "the recommendation stands on this predicted batch size"),
        (
            40,
            "no plan holds yet; not measured at batch 40, only at batch 1, 4, 16, and a law "
            "from these reaches from 1 to 32 rows",
        ),
    ):
        answer = world.ask((), batch, 10, 500, profiles=known)
        (found,) = probes(
            answer, known, world.sizes, prices, takes_s=lambda s, _: 5 + 1000 * s, budget_s=1e4
        )
        assert (found.size, found.batch, found.why) == ("sim-1", batch, why)
        assert found.command.endswith(f"--batch {batch}")
    # A request alone takes at least what one of 16 rows does at its best: more are no faster.
    assert found.seconds == pytest.approx(5 + (world.cell.ms(16) + 0.3) / 1.05)
