"""Lengths of rows: their law against known times, what is refused, and how plans use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loadtests.records import LoadRun, Measurement
from planner.lengths import at_length, lengths_needed, predicted_at
from planner.profile import Refusal, build_profiles
from planner.recommend import best_on_host, recommend
from planner.records import (
    Bottleneck,
    Demand,
    PredictedProfile,
    Recommendation,
    ServiceProfile,
)
from planner.request_sizes import ROWS, TOKENS, out_of_reach, predict_request
from planner.row_law import RowLaw
from serving.errors import BadInput
from serving.records import TensorSpec

from .cells import Cell

Build = Callable[..., Any]


def cell_of(profile: Build, a: float = 2.0, b: float = 0.05, c: float = 2e-4) -> Cell:
    """Calls take ``a`` ms, ``b`` for each token and ``c`` for each pair of them."""
    return Cell(profile, "length", lambda n: a + b * n + c * n**2, 0.25)


@pytest.fixture(scope="module")
def cell(profile: Build) -> Cell:
    return cell_of(profile)


@pytest.mark.parametrize("length", [48, 100, 128, 180])
def test_an_exact_line_gives_the_profile_that_a_measurement_would(
    profile: Build, length: int
) -> None:
    """Service, its shape, capacity and CPU time; between measured lengths and beyond them."""
    line = cell_of(profile, c=0)
    known = tuple(line.at(n) for n in (32, 64, 120))
    found, truth = predict_request(TOKENS, known, length), line.at(length)
    assert (found.length, found.batch, found.unmeasured) == (length, 1, "length")
    assert found.measured_at == ("32", "64", "120")
    assert found.left_out_error == pytest.approx(0, abs=0.01)
    for q in (0.1, 0.5, 0.9):
        assert found.service.quantile_s(q) == pytest.approx(truth.service.quantile_s(q), rel=0.01)
    assert found.capacity_rps == pytest.approx(truth.capacity_rps, rel=0.01)
    assert found.saturated == pytest.approx(truth.saturated, rel=0.01)
    assert found.cpu_ms == pytest.approx(truth.cpu_ms, rel=0.01)
    assert found.first_cpu_ms == pytest.approx(truth.first_cpu_ms, rel=0.01)
    assert found.peak_memory_bytes >= truth.peak_memory_bytes
    assert PredictedProfile.model_validate_json(found.model_dump_json()) == found


SHARES = st.floats(0, 1)


def _times(rows: Sequence[int], fixed: float, square: float) -> Callable[[float], float]:
    """Of a + b n + c n^2, one at the longest: the square's share, and a's of the rest."""
    longest = rows[-1]
    a, c = fixed * (1 - square), square / longest**2
    b = (1 - fixed) * (1 - square) / longest
    return lambda n: a + b * n + c * n**2


@settings(max_examples=300, deadline=None)
@given(fixed=SHARES, square=SHARES, place=SHARES)
def test_between_lengths_a_prediction_is_on_the_safe_side(
    fixed: float, square: float, place: float
) -> None:
    """A line between two points of a time that bends upwards lies above it."""
    rows = (32, 64, 128, 256, 512)
    time = _times(rows, fixed, square)
    law = RowLaw(rows, [time(n) for n in rows], degree=2)
    n = rows[0] + place * (rows[-1] - rows[0])
    assert law.time(n) >= time(n) * (1 - 1e-9)


@settings(max_examples=300, deadline=None)
@given(fixed=SHARES, square=SHARES, place=SHARES, most=st.integers(3, 5))
@example(fixed=1.0, square=0.75, place=1.0, most=4)
@example(fixed=1.0, square=0.8125, place=1.0, most=5)
def test_beyond_the_longest_the_interval_holds_the_truth(
    fixed: float, square: float, place: float, most: int
) -> None:
    """However much of the time is the square, once three lengths tested the line."""
    rows = (32, 64, 128, 256, 512)[:most]
    time = _times(rows, fixed, square)
    law = RowLaw(rows, [time(n) for n in rows], degree=2)
    n = rows[-1] * (1 + place * (TOKENS.reach - 1))
    found = law.interval(n)
    assert found.mid <= time(n) * (1 + 1e-9)
    assert time(n) <= found.high * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(fixed=SHARES, square=st.floats(0, 0.5))
def test_two_lengths_hold_what_is_half_a_square(fixed: float, square: float) -> None:
    """Nothing tests their line; at the end of the reach the prior is wide enough for that."""
    rows = (64, 128)
    time = _times(rows, fixed, square)
    law = RowLaw(rows, [time(n) for n in rows], degree=2)
    assert time(1.5 * 128) <= law.interval(1.5 * 128).high


def test_what_the_reach_is_short_for() -> None:
    """A line misses a square by 37 % at twice the longest, by 22 at 1.5; half of one 25, 13."""
    rows = (128, 256)
    for square, at_twice, at_most in ((1.0, 0.375, 0.222), (0.5, 0.25, 0.133)):
        time = _times(rows, 0, square)
        law = RowLaw(rows, [time(n) for n in rows], degree=2)
        assert 1 - law.time(512) / time(512) == pytest.approx(at_twice, abs=0.001)
        assert 1 - law.time(384) / time(384) == pytest.approx(at_most, abs=0.001)


@settings(max_examples=100, deadline=None)
@given(
    times=st.lists(st.floats(0.001, 10), min_size=2, max_size=5),
    places=st.tuples(SHARES, SHARES),
    degree=st.sampled_from([1, 2]),
)
def test_longer_rows_are_never_faster(
    times: list[float], places: tuple[float, float], degree: int
) -> None:
    """Whatever was measured, noise included."""
    rows = [16 * 2**i for i in range(len(times))]
    law = RowLaw(rows, times, degree)
    near, far = (rows[0] + p * (2 * rows[-1] - rows[0]) for p in sorted(places))
    assert law.time(near) <= law.time(far) * (1 + 1e-9)
    found = law.interval(far)
    assert found.low <= found.mid <= found.high


@pytest.mark.parametrize(
    ("measured", "length", "why"),
    [
        ((32, 64), 96, ""),
        ((32, 64), 97, "a law from these reaches from 32 to 96 tokens"),
        ((32, 64), 31, "a law from these reaches from 32 to 96 tokens"),
        ((128,), 64, "one length makes no law"),
    ],
)
def test_the_reach_of_a_law(measured: tuple[int, ...], length: int, why: str) -> None:
    """From the shortest measured length to one and a half times the longest."""
    assert out_of_reach(TOKENS, measured, length) == why


def test_memory_may_grow_as_the_square(cell: Cell) -> None:
    """Between lengths it is that of a longer one; beyond them the square of what was seen."""
    known = tuple(cell.at(n, peak_memory_bytes=mib << 20) for n, mib in ((64, 300), (128, 200)))
    assert predict_request(TOKENS, known, 100).peak_memory_bytes == 200 << 20
    assert predict_request(TOKENS, known, 192).peak_memory_bytes == 450 << 20


def test_an_unknown_length_lies_on_no_axis(cell: Cell) -> None:
    """Its rows do: those are always known."""
    assert ROWS.of(cell.at(None)) == 1
    with pytest.raises(ValueError, match="no axis"):
        TOKENS.of(cell.at(None))


class World:
    """One variant on one vCPU, measured at some lengths."""

    def __init__(self, cell: Cell, variant: Build, instance: Build, demand: Build) -> None:
        self.cell, self._demand = cell, demand
        self.variants = [variant()]
        self.sizes = {"sim-1": instance("sim-1")}

    def wanted(self, length: int | None, **changes: Any) -> Demand:
        found: Demand = self._demand(10, 500, length=length, **changes)
        return found

    def there(
        self, wanted: Demand, known: Sequence[ServiceProfile], refused: Sequence[Refusal] = ()
    ) -> tuple[list[ServiceProfile], list[Refusal]]:
        return at_length(wanted, known, refused, self.variants, self.sizes)

    def ask(
        self, wanted: Demand, known: Sequence[ServiceProfile], refused: Sequence[Refusal] = ()
    ) -> Recommendation:
        there, lacking = self.there(wanted, known, refused)
        return recommend(wanted, there, lacking, self.variants, self.sizes, [], [], 0)


@pytest.fixture(scope="module")
def world(cell: Cell, variant: Build, instance: Build, demand: Build) -> World:
    return World(cell, variant, instance, demand)


def test_a_measured_length_is_taken_as_it_is(world: World) -> None:
    """And nothing of another length comes with it."""
    known = [world.cell.at(n) for n in (32, 64, 128)]
    assert world.there(world.wanted(64), known) == ([known[1]], [])
    best = world.ask(world.wanted(64), known).best
    assert best is not None
    assert best.predicted == ""
    assert "predicted_length" not in best.model_dump()


def test_without_lengths_everything_stays_as_it_is(world: World) -> None:
    """Profiles and refusals go through untouched."""
    known, refused = [world.cell.at(None)], [Refusal(("v", "sim-1 (cpuset)", 1, 8), "no paced run")]
    assert world.there(world.wanted(None), known, refused) == (known, refused)
    assert predicted_at(known, None) == []


def test_a_plan_on_a_predicted_length_says_so(world: World) -> None:
    """In its own field, with the law's error, and never as what can be confirmed."""
    wanted = world.wanted(96)
    answer = world.ask(wanted, [world.cell.at(n) for n in (32, 64, 128)])
    assert answer.best is not None
    assert answer.best.predicted == "length"
    assert answer.best.predicted_length == (
        "predicted length, from 32, 64, 128; each between left out in turn is missed by at most 7%"
    )
    assert answer.best.unmeasured_on("sim-1", wanted) == "96 tokens on sim-1"
    assert best_on_host(answer) is None
    two = world.ask(wanted, [world.cell.at(n) for n in (64, 128)]).best
    assert two is not None
    assert two.predicted_length == (
        "predicted length, from 64, 128; two make a line, and nothing tests it"
    )


def test_beyond_the_law_the_refusal_has_the_command(world: World) -> None:
    """200 tokens are more than one and a half times 128."""
    answer = world.ask(world.wanted(200), [world.cell.at(n) for n in (64, 128)])
    assert answer.best is None
    (found,) = answer.rejections
    assert found.bottleneck is Bottleneck.UNMEASURED
    assert found.reason == (
        "not measured at 200 tokens, only at 64, 128, and a law from these reaches from 64 to 192 "
        "tokens; measure this: `tonnage measure RUN --variant onnx_fp32 --instance sim-1 "
        "--threads 1 --batch 1 --length 200`"
    )


def test_nothing_is_said_of_rows_that_a_model_does_not_take(world: World, variant: Build) -> None:
    """Within the reach of the law, and beyond what the variant knows."""
    spec = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1), longest=150)
    known = [world.cell.at(n) for n in (64, 128)]
    for length, why in ((150, None), (151, "its rows have at most 150 tokens")):
        there, lacking = at_length(
            world.wanted(length), known, [], [variant(inputs=(spec,))], world.sizes
        )
        assert [r.reason for r in lacking] == ([why] if why else [])
        assert [p.length for p in there] == ([] if why else [length])


def test_what_was_measured_and_cannot_be_believed_is_not_predicted(world: World) -> None:
    """An invalid run at 64 tokens is not talked away by 32 and 128."""
    why = "no valid paced run: noisy_host: 12 % steal"
    refused = [Refusal(("onnx_fp32", "sim-1 (cpuset)", 1, 1), why, length) for length in (64, 256)]
    answer = world.ask(world.wanted(64), [world.cell.at(n) for n in (32, 128)], refused)
    assert [(r.bottleneck, r.reason) for r in answer.rejections] == [(Bottleneck.INVALID, why)]


def test_cells_are_not_mixed(world: World, instance: Build, variant: Build) -> None:
    """Another variant, size, number of threads or batch is another law."""
    one = world.cell.at(32)
    for changed in (
        {"variant": variant("int8")},
        {"instance": instance("sim-2")},
        {"threads": 2},
        {"batch": 8},
    ):
        assert predicted_at([one, world.cell.at(128, **changed)], 64) == []
    assert len(predicted_at([one, world.cell.at(128)], 64)) == 1


def test_nothing_is_predicted_from_a_prediction(world: World) -> None:
    """Batches 1 and 8 at a predicted length make no law of batch 4 there."""
    known = [world.cell.at(n, batch=batch) for n in (32, 128) for batch in (1, 8)]
    answer = world.ask(world.wanted(64, batch=4, batch_range=(1, 8)), known)
    assert answer.best is None
    (found,) = answer.rejections
    assert found.reason.startswith(
        "not measured at batch 4, nor at any other, and what is predicted makes no law; measure "
    )
    assert "--batch 4 --length 64`" in found.reason


def test_nothing_of_a_mix_is_predicted(world: World) -> None:
    """A mix is made of measured profiles; at another length each part is refused by itself."""
    mix = {"batches": (1, 8), "weights": (0.5, 0.5)}
    wanted = world.wanted(64, batch=8, batch_range=(1, 8), mix=mix)
    known = [world.cell.at(n, batch=batch) for n in (32, 128) for batch in (1, 8)]
    there, lacking = world.there(wanted, known)
    assert there == []
    assert [r.key[3] for r in lacking] == [1, 8]
    assert all("nothing of a mix of batch sizes is predicted" in r.reason for r in lacking)


def test_a_demand_and_a_run_speak_of_lengths_both_or_neither(world: World) -> None:
    """Else it says what to give, or to leave out."""
    with pytest.raises(BadInput, match=r"rows of 32, 64 tokens were measured.*give a length"):
        world.there(world.wanted(None), [world.cell.at(64), world.cell.at(32)])
    with pytest.raises(BadInput, match=r"length = 64, and what was measured has no lengths"):
        world.there(world.wanted(64), [world.cell.at(None)])


def test_which_lengths_answer_a_demand(world: World) -> None:
    """Its own where it is measured; all of them where a law has to be made."""
    lengths = (32, 64, 128)
    assert lengths_needed([world.wanted(64)], lengths) == [64]
    assert lengths_needed([world.wanted(64), world.wanted(96)], lengths) == [32, 64, 128]
    assert lengths_needed([world.wanted(None)], ()) == []


def test_profiles_are_of_one_length_each(measurement: Build) -> None:
    """Runs of one key at two lengths make two profiles; a length that lacks a run is refused."""

    def at(length: int, mode: str, rps: float) -> Measurement:
        made: Measurement = measurement(mode, completed_rps=rps)
        run = made.run.model_copy(update={"length": length})
        return made.model_copy(update={"id": f"{mode}-{length}", "run": run})

    runs = [at(n, mode, 1e4 / n) for n in (64, 8) for mode in ("paced", "closed")]
    profiles, refused = build_profiles([*runs, at(16, "paced", 100)])
    assert [p.length for p in profiles] == [8, 64]
    assert [p.measurement_ids for p in profiles] == [
        ("paced-8", "closed-8"),
        ("paced-64", "closed-64"),
    ]
    assert [p.capacity_rps for p in profiles] == pytest.approx([1e4 / 8, 1e4 / 64], rel=0.001)
    assert [(r.length, r.reason) for r in refused] == [(16, "no closed-loop run")]


def test_records_without_a_length_are_written_as_before(profile: Build, demand: Build) -> None:
    """So their hashes stay, by which runs find what they have simulated and proven."""
    run = LoadRun(mode="closed", batch=1, duration_s=1, users=1)
    for record in (run, profile(), demand()):
        assert "length" not in record.model_dump_json()
        assert type(record).model_validate_json(record.model_dump_json()) == record
        told = record.model_copy(update={"length": 64})
        assert '"length":64' in told.model_dump_json()
        assert told.content_hash() != record.content_hash()
