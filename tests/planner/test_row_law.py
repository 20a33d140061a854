"""The law of rows against times of known shape: lines, bends, steps, noise, and the real ones."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.row_law import RowLaw, between, left_out_error

PUBLISHED = Path(__file__).parents[2] / "reports" / "published" / "credit" / "report.json"

Time = Callable[[float], float]


def affine(fixed: float, row: float) -> Time:
    return lambda n: fixed + row * n


def concave(fixed: float, power: float) -> Time:
    return lambda n: fixed + n**power


def stepped(fixed: float, row: float, width: int) -> Time:
    """A call computes whole vectors of ``width`` rows."""
    return lambda n: fixed + row * width * math.ceil(n / width)


def law_of(time: Time, rows: Sequence[int]) -> RowLaw:
    return RowLaw(rows, [time(n) for n in rows])


@settings(deadline=None)
@given(
    fixed=st.floats(0, 100),
    row=st.floats(1e-3, 10),
    rows=st.lists(st.integers(1, 5000), min_size=2, max_size=6, unique=True).map(sorted),
    place=st.floats(0, 1),
)
def test_a_line_is_recovered_exactly(
    fixed: float, row: float, rows: list[int], place: float
) -> None:
    """A fixed part and one for each row: between measured sizes, and up to twice the largest."""
    truth = affine(fixed, row)
    law = law_of(truth, rows)
    n = rows[0] + place * (2 * rows[-1] - rows[0])
    assert law.time(n) == pytest.approx(truth(n), rel=1e-6)
    error = left_out_error(rows, [truth(k) for k in rows])
    assert (error is None) == (len(rows) < 3)
    assert error is None or error < 1e-6


ascending = st.lists(st.integers(1, 5000), min_size=2, max_size=6, unique=True).map(sorted)


@settings(deadline=None)
@given(rows=ascending, draw=st.data())
def test_a_time_never_falls_and_an_interval_holds_it(rows: list[int], draw: Any) -> None:
    """Whatever was measured: more rows are never faster, and beyond the largest less certain."""
    times = draw.draw(st.lists(st.floats(0.01, 100), min_size=len(rows), max_size=len(rows)))
    law = RowLaw(rows, times)
    at = np.linspace(rows[0], 2 * rows[-1], 60)
    found = [law.interval(n) for n in at]
    assert all(a.mid <= b.mid * (1 + 1e-9) for a, b in itertools.pairwise(found))
    assert all(0 < i.low <= i.mid <= i.high for i in found)
    beyond = [math.log(i.high / i.low) for n, i in zip(at, found, strict=True) if n >= rows[-1]]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(beyond))


def test_neighbours_that_contradict_each_other_do_not_explode() -> None:
    """A step from 2,499 rows to 2,500 widens the interval by no more than its height a doubling."""
    found = RowLaw([1, 2499, 2500], [0.01, 0.02, 100]).interval(5000)
    assert found.high / found.mid < 100 / 0.02


@pytest.mark.parametrize("rows", [(1, 100), (1, 10, 100)])
def test_an_interval_widens_away_from_what_was_measured(rows: tuple[int, ...]) -> None:
    """Of times that grow with the rows: up to the middle of a gap, as doublings count."""
    law = law_of(affine(0.1, 1), rows)
    middle = math.sqrt(rows[0] * rows[1])
    widths = [
        math.log(law.interval(n).high / law.interval(n).low)
        for n in np.geomspace(rows[0], middle, 9)
    ]
    assert all(a < b for a, b in itertools.pairwise(widths))


def test_between_two_sizes_a_time_lies_between_theirs() -> None:
    """Where a hundred rows take as long as one, so do ten, but for what a deployment may differ."""
    found = law_of(affine(10, 0.001), (1, 100)).interval(10)
    assert found.low / found.mid > 0.8
    assert found.high / found.mid < 1.25


@pytest.mark.parametrize(
    "truth",
    [
        *(concave(fixed, power) for fixed in (0, 1, 20) for power in (0.7, 0.85)),
        *(stepped(fixed, row, 16) for fixed in (0.5, 20) for row in (0.05, 1)),
    ],
)
@pytest.mark.parametrize("rows", [(1, 16, 128), (1, 8, 64, 512)])
def test_bent_and_stepped_times_stay_inside_the_interval(
    truth: Time, rows: tuple[int, ...]
) -> None:
    """At nearly all sizes up to twice the largest: that is what the discrepancy is for."""
    law = law_of(truth, rows)
    at = range(rows[0], 2 * rows[-1] + 1)
    inside = [law.interval(n).low <= truth(n) <= law.interval(n).high for n in at]
    assert np.mean(inside) > 0.95


@pytest.mark.parametrize("rows", [(1, 8), (1, 8, 64), (1, 100, 6000)])
@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_intervals_cover_the_truth_under_noise(rows: tuple[int, ...], noise: float) -> None:
    """Fixed parts and bends from all that is plausible; 90 % intervals hold at least 85 %."""
    rng = np.random.default_rng(3)
    trials, inside = 400, 0
    for _ in range(trials):
        truth = concave(10 ** rng.uniform(-1, 2), rng.uniform(0.8, 1.05))
        seen = [truth(n) * math.exp(rng.normal(0, noise)) for n in rows]
        n = math.exp(rng.uniform(math.log(rows[0]), math.log(2 * rows[-1])))
        found = RowLaw(rows, seen).interval(n)
        inside += found.low <= truth(n) * math.exp(rng.normal(0, noise)) <= found.high
    assert inside >= 0.85 * trials


def test_what_leaving_one_out_misses_makes_the_interval_wider() -> None:
    """Three sizes of a line say more than two of it, and three of a bend less."""
    two, straight = (
        law_of(affine(0, 1), rows).interval(300) for rows in ((1, 1000), (1, 30, 1000))
    )
    bent = law_of(concave(0, 0.5), (1, 30, 1000)).interval(300)
    assert straight.high / straight.mid < two.high / two.mid
    assert bent.mid / bent.low > straight.mid / straight.low


def test_the_left_out_error_by_hand() -> None:
    """4 at batch 4 between 3 and 9: the line says 6; ends have one neighbour and are not tried."""
    assert left_out_error([1, 4, 7], [3, 4, 9]) == pytest.approx(0.5)
    assert left_out_error([1, 4], [3, 4]) is None


def test_times_that_fall_are_noise() -> None:
    """Pooled to their geometric mean, and the interval knows by how much they disagreed."""
    law = RowLaw([1, 100, 6000], [0.9, 0.5, 8])
    calm = RowLaw([1, 100, 6000], [0.67, 0.67, 8])
    assert law.time(1) == law.time(100) == pytest.approx(math.sqrt(0.45))
    assert law.interval(1).high > 0.9
    assert law.interval(1).low < 0.5
    assert calm.interval(1).high < 0.9


def test_a_slope_beyond_is_no_steeper_than_in_proportion() -> None:
    """A step just before the largest size is no reason to expect another."""
    assert RowLaw([1, 16, 17], [1, 1, 2]).time(34) <= 4
    # Nor does noise in two sizes side by side decide: the line begins at half of the largest.
    assert RowLaw([1, 16, 30, 32], [2, 17, 28, 33]).time(64) == pytest.approx(65)


def test_between_takes_the_nearest_outside() -> None:
    """What dynamic batching asks for never lies there; a law of shapes does not extrapolate."""
    found = between(np.array([0, 3, 9]), np.array([1, 5]), np.array([[1.0], [3.0]]))
    assert found[:, 0].tolist() == [1, 2, 3]


def test_the_published_study_left_out_its_middle() -> None:
    """Batch 100 from batches 1 and 6,000: service to half, and never slower than the high end.

    (Lower than the low end it may be: at batch 1 on sim-1 a request occupied its replica for
    longer than at batch 100, which no law that never falls can know.)
    """
    profiles = json.loads(PUBLISHED.read_text())["records"]["profiles"]
    cells: dict[tuple[str, str, int], list[tuple[int, float, float]]] = {}
    for p in profiles:
        key = (p["variant"]["name"], p["instance"]["name"], p["threads"])
        figures = (p["batch"], p["service"]["p50_ms"], 1e3 / p["capacity_rps"])
        cells.setdefault(key, []).append(figures)
    three = [sorted(cell) for cell in cells.values() if len(cell) == 3]
    assert len(three) >= 6
    errors = []
    for cell in three:
        rows, *times = zip(*cell, strict=True)
        assert rows == (1, 100, 6000)
        errors.append(left_out_error(rows, times[0]))
        for least, truth, most in times:
            assert RowLaw([1, 6000], [least, most]).interval(100).high > truth
    assert np.median(errors) < 0.3
    assert max(errors) < 0.6
