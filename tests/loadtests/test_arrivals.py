"""Arrival schedules: their law, their seeds, their shards; traces read from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loadtests.arrivals import (
    Constant,
    Mix,
    Poisson,
    Ramp,
    Recorded,
    Step,
    Steps,
    Trace,
    classes,
    constant,
    due_times,
    mean_rps,
    parse_arrivals,
    peak_rps,
    poisson,
)
from loadtests.trace_file import read_trace
from serving.errors import BadInput

RATES = st.floats(1, 2000)
DURATIONS = st.floats(0.1, 5)


@given(RATES, DURATIONS, st.integers(0, 2**32))
def test_poisson_is_sorted_bounded_and_seeded(rate: float, duration: float, seed: int) -> None:
    """Due times lie in order within the run, and the same seed gives the same times."""
    due = poisson(rate, duration, seed)
    assert np.all(np.diff(due) >= 0)
    assert np.all((due >= 0) & (due < duration))
    np.testing.assert_array_equal(due, poisson(rate, duration, seed))


def test_poisson_gaps_are_exponential() -> None:
    """Mean and spread of the gaps are those of the exponential law, and so is its tail."""
    gaps = np.diff(poisson(1000, 100, 3))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.03)
    assert np.mean(gaps > 3e-3) == pytest.approx(np.exp(-3), rel=0.1)


def test_constant_is_evenly_spaced() -> None:
    """Ten a second for two seconds are twenty, a tenth apart, from zero."""
    due = constant(10, 2)
    assert len(due) == 20
    np.testing.assert_allclose(np.diff(due), 0.1)
    assert due[0] == 0


@pytest.mark.parametrize(("rate", "duration"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_nonsense_is_refused(rate: float, duration: float) -> None:
    """A rate or a duration that is not positive has no schedule."""
    with pytest.raises(ValueError, match="positive"):
        poisson(rate, duration, 1)


KINDS = st.one_of(
    RATES.map(lambda rate: Constant(rate_rps=rate)),
    RATES.map(lambda rate: Poisson(rate_rps=rate)),
    st.builds(lambda a, b: Ramp(from_rps=a, to_rps=b), st.floats(0, 2000), RATES),
    st.lists(
        st.builds(lambda r, s: Step(rate_rps=r, seconds=s), RATES, st.floats(0.01, 2)),
        min_size=1,
        max_size=4,
    ).map(lambda steps: Steps(steps=tuple(steps))),
)


def trace_of(*due: float) -> Trace:
    source = Recorded(file="t.csv", sha256="", time_scale=1, requests=max(1, len(due)))
    return Trace(np.array(due), None, source)


@given(KINDS, DURATIONS, st.integers(0, 2**32))
def test_every_kind_is_sorted_bounded_and_seeded(arrivals: Any, duration: float, seed: int) -> None:
    """Due times of all kinds lie in order within the run, and repeat."""
    due = due_times(arrivals, duration, seed)
    assert np.all(np.diff(due) >= 0)
    assert np.all((due >= 0) & (due < duration))
    np.testing.assert_array_equal(due, due_times(arrivals, duration, seed))


@given(KINDS, DURATIONS, st.integers(0, 2**32))
def test_the_mean_rate_is_what_comes(arrivals: Any, duration: float, seed: int) -> None:
    """As many requests fall due as the mean rate says, within seven standard deviations."""
    expected = mean_rps(arrivals, duration) * duration
    assert len(due_times(arrivals, duration, seed)) == pytest.approx(
        expected, abs=7 * np.sqrt(expected) + 8
    )


@pytest.mark.parametrize("arrivals", [Poisson(rate_rps=500), Ramp(from_rps=1, to_rps=900)])
def test_another_seed_is_another_schedule(arrivals: Any) -> None:
    """The seed decides, and nothing else does."""
    one, other = due_times(arrivals, 2, 1), due_times(arrivals, 2, 2)
    assert len(one) != len(other) or not np.array_equal(one, other)


@pytest.mark.parametrize(("start", "end"), [(0, 400), (400, 0), (100, 300), (200, 200)])
def test_a_ramp_counts_what_its_rate_integrates_to(start: float, end: float) -> None:
    """Every tenth of a ramp holds what its rate integrates to, within 4 standard deviations."""
    duration = 50.0
    due = due_times(Ramp(from_rps=start, to_rps=end), duration, 11)
    edges = np.linspace(0, duration, 11)
    integral = start * edges + (end - start) * edges**2 / (2 * duration)
    expected = np.diff(integral)
    counts = np.histogram(due, edges)[0]
    assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected) + 1)


def test_steps_burst_again_and_again() -> None:
    """Each piece gets its own rate, a pause gets nothing, and the pieces begin anew."""
    pieces = (
        Step(rate_rps=50, seconds=3),
        Step(rate_rps=0, seconds=1),
        Step(rate_rps=800, seconds=1),
    )
    due = due_times(Steps(steps=pieces), 100, 5)
    phase = due % 5
    quiet, pause, burst = np.histogram(phase, [0, 3, 4, 5])[0]
    assert quiet == pytest.approx(50 * 60, rel=0.06)
    assert pause == 0
    assert burst == pytest.approx(800 * 20, rel=0.03)
    assert len(due_times(Steps(steps=pieces), 7, 5)[:]) == pytest.approx(1050, rel=0.15)


def test_a_trace_is_played_as_recorded() -> None:
    """Due times of a trace are its own up to the end of the run; beyond it there are none."""
    trace = trace_of(0.0, 0.5, 0.5, 2.0)
    np.testing.assert_array_equal(due_times(trace, 1, 0), [0.0, 0.5, 0.5])
    with pytest.raises(BadInput, match="longer duration"):
        due_times(trace_of(5.0), 1, 0)


@pytest.mark.parametrize(
    ("due", "what"),
    [
        ((), "at least one"),
        ((1.0, 0.5), "sorted"),
        ((-1.0, 0.5), "negative"),
        ((0.0, np.inf), "fin"),
    ],
)
def test_a_trace_in_disorder_is_refused(due: tuple[float, ...], what: str) -> None:
    """Empty, unsorted, negative or endless traces are no traces."""
    with pytest.raises(ValueError, match=what):
        trace_of(*due)


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        ({"kind": "poisson", "rate_rps": 0}, "rate_rps: .*greater than 0"),
        ({"kind": "poisson", "rate_rps": -3}, "rate_rps: .*greater than 0"),
        ({"kind": "constant", "rate_rps": 1e9}, "rate_rps: .*less than or equal to 1000000"),
        ({"kind": "constant", "rate_rps": float("nan")}, "rate_rps"),
        ({"kind": "ramp", "from_rps": 0, "to_rps": 0}, "sends nothing"),
        ({"kind": "steps", "steps": [{"rate_rps": 0, "seconds": 1}]}, "rate 0"),
        ({"kind": "steps", "steps": []}, "steps: "),
        ({"kind": "flood"}, "kind: .*'flood'"),
        ({"rate_rps": 5}, "kind: "),
        ({"kind": "poisson", "rate_rps": 5, "rate": 6}, "rate: "),
    ],
)
def test_bad_arrivals_are_named_in_one_line(raw: dict[str, Any], what: str) -> None:
    """The user reads file, key and what is wrong, in one line."""
    with pytest.raises(BadInput, match=f"^study.toml: .*{what}") as caught:
        parse_arrivals(raw, "study.toml")
    assert "\n" not in str(caught.value)


def test_good_arrivals_are_parsed_by_their_kind() -> None:
    """The kind says which record a table is."""
    assert parse_arrivals({"kind": "ramp", "from_rps": 0, "to_rps": 9}, "x") == Ramp(
        from_rps=0, to_rps=9
    )


def test_absurd_loads_are_refused_before_they_start() -> None:
    """More than memory holds, or no time at all: refused, with the figure."""
    burst = Steps(steps=(Step(rate_rps=10, seconds=1), Step(rate_rps=5000, seconds=0.1)))
    assert peak_rps(burst) == 5000
    assert peak_rps(trace_of(0.0, 3.0, 3.2, 3.9, 4.5)) == 3
    assert peak_rps(Ramp(from_rps=90, to_rps=10)) == 90
    with pytest.raises(BadInput, match="lower rate"):
        due_times(Constant(rate_rps=1e6), 1e6, 0)
    for duration in (0, -1, float("inf"), float("nan")):
        with pytest.raises(BadInput, match="duration_s"):
            due_times(Constant(rate_rps=1), duration, 0)


def test_a_mix_follows_its_weights() -> None:
    """Classes come in the proportion of their weights, independent of the due times."""
    mix = Mix(batches=(1, 32, 6000), weights=(6, 3, 1))
    drawn = classes(20_000, mix.weights, 4)
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=4 * np.sqrt(0.25 / 20_000))
    np.testing.assert_array_equal(drawn, classes(20_000, mix.weights, 4))
    gaps = np.diff(poisson(1000, 20.5, 4), prepend=0)[:20_000]
    assert abs(np.corrcoef(gaps, drawn)[0, 1]) < 4 / np.sqrt(20_000)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 50))
def test_classes_are_within_the_mix(weights: list[float], requests: int) -> None:
    """Every request has one of the classes."""
    drawn = classes(requests, tuple(weights), 1)
    assert drawn.shape == (requests,)
    assert np.all((drawn >= 0) & (drawn < len(weights)))


def test_bad_mixes_are_refused() -> None:
    """Weights must be there, not negative, and one for each batch size."""
    for weights in ((), (0.0, 0.0), (1.0, -1.0), (float("nan"),)):
        with pytest.raises(BadInput, match="weights"):
            classes(5, weights, 0)
    with pytest.raises(ValidationError, match="2 weights for 1 batches"):
        Mix(batches=(1,), weights=(1, 2))


@given(st.floats(0.01, 100))
def test_time_scaling_stretches_a_trace(scale: float) -> None:
    """Twice the scale is twice the time between any two requests."""
    due = due_times(trace_of(*(np.array([0.0, 0.25, 1.0]) * scale)), 1000, 0)
    np.testing.assert_allclose(np.diff(due), [0.25 * scale, 0.75 * scale])


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_csv_trace_is_read(tmp_path: Path) -> None:
    """Seconds and batch sizes come out as written, the times scaled."""
    path = written(tmp_path, "timestamp,batch\n0.5,1\n1.0,32\n1.0,8\n")
    trace = read_trace(path, 0.5)
    assert trace.due_s.tolist() == [0.25, 0.5, 0.5]
    assert trace.batches is not None
    assert trace.batches.tolist() == [1, 32, 8]
    assert (trace.source.requests, trace.source.time_scale) == (3, 0.5)
    assert trace.source.mean_batch == pytest.approx(41 / 3)
    assert read_trace(written(tmp_path, "timestamp\n3\n")).batches is None


@pytest.mark.parametrize(
    "rows",
    [
        "2026-01-05T10:00:00Z\n2026-01-05T10:00:01.5Z\n2026-01-05T11:00:00+01:00\n",
        "2026-01-05 10:00:00\n2026-01-05 10:00:01.5\n",
        "1767607200.0\n1767607201.5\n",
        "1767607200000\n1767607201500\n",
        "1767607200000000\n1767607201500000\n",
        "1767607200000000000\n1767607201500000000\n",
    ],
    ids=["offsets", "naive", "epoch", "ms", "us", "ns"],
)
def test_dates_count_from_the_first(tmp_path: Path, rows: str) -> None:
    """ISO dates, with time zones or without, and times since 1970 become due times."""
    if "+01:00" in rows:
        with pytest.raises(BadInput, match="row 3 is earlier"):
            read_trace(written(tmp_path, "timestamp\n" + rows))
        rows = rows.replace("11:00:00+01:00", "11:00:02+01:00")
        assert read_trace(written(tmp_path, "timestamp\n" + rows)).due_s.tolist() == [0.0, 1.5, 2.0]
    else:
        assert read_trace(written(tmp_path, "timestamp\n" + rows)).due_s.tolist() == [0.0, 1.5]


def test_nanoseconds_lose_no_digit(tmp_path: Path) -> None:
    """Dates in ns are told apart where floats of their size could not be: 100 ns."""
    rows = "1767607200000000100\n1767607200000000200\n1767607200000000300\n"
    due = read_trace(written(tmp_path, "timestamp\n" + rows)).due_s
    np.testing.assert_allclose(due, [0, 1e-7, 2e-7], rtol=1e-9)


def test_columns_are_named(tmp_path: Path) -> None:
    """Other columns than the usual ones are read and recorded; an absent one is refused."""
    path = written(tmp_path, "begun,rows,batch\n1,4,7\n2,5,7\n")
    trace = read_trace(path, time_column="begun", batch_column="rows")
    assert trace.batches is not None
    assert trace.batches.tolist() == [4, 5]
    assert (trace.source.time_column, trace.source.batch_column) == ("begun", "rows")
    assert read_trace(path, time_column="begun").source.batch_column == "batch"
    for named, says in (
        ({}, "due=NAME"),
        ({"time_column": "begun", "batch_column": "n"}, "batch="),
    ):
        with pytest.raises(BadInput, match=rf"it has: begun, rows, batch.*--trace-columns {says}"):
            read_trace(path, **named)


def test_a_parquet_trace_is_read(tmp_path: Path) -> None:
    """Numbers and date columns of a Parquet file give the same due times as CSV."""
    dates = pd.to_datetime(["2026-01-05T10:00:00.0Z", "2026-01-05T10:00:01.5Z"])
    for number, times in enumerate(([0.0, 1.5], dates)):
        path = tmp_path / f"{number}.parquet"
        pd.DataFrame({"at": times, "rows": [1, 4]}).to_parquet(path)
        trace = read_trace(path, time_column="at", batch_column="rows")
        assert trace.due_s.tolist() == [0.0, 1.5]
        assert trace.batches is not None
        assert trace.batches.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("timestamp\n1\n0.5\n", "row 2 is earlier than the row before; sort"),
        ("timestamp\n-1\n0.5\n", "row 1 is at -1 s; .*shift"),
        ("timestamp\n", "no rows"),
        ("", "not a readable csv"),
        ("time,batch\n1,1\n", "no column 'timestamp' .*time, batch"),
        ("timestamp\n0\n1767607200\n", "row 2 is 1.76761e.09, a date, and row 1 is none"),
        ("timestamp\nsoon\n", "neither seconds nor ISO"),
        ("timestamp,x\n1,1\n,1\n", "row 2 has no time"),
        ("timestamp,batch\n1,0\n", "row 1 is no whole number"),
        ("timestamp,batch\n1,2\n2,many\n", "row 2 is no whole number"),
        ("timestamp,batch\n1,2.5\n", "row 1 is no whole number"),
    ],
)
def test_bad_traces_are_named_in_one_line(tmp_path: Path, text: str, what: str) -> None:
    """The user reads file, row and what to change, in one line."""
    path = written(tmp_path, text)
    with pytest.raises(BadInput, match=what) as caught:
        read_trace(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    """A missing file, another format, broken Parquet, a scale of zero."""
    with pytest.raises(BadInput, match="no such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="convert it"):
        read_trace(written(tmp_path, "{}", "trace.json"))
    with pytest.raises(BadInput, match="not a readable parquet"):
        read_trace(written(tmp_path, "no", "trace.parquet"))
    with pytest.raises(BadInput, match="time_scale"):
        read_trace(written(tmp_path, "timestamp\n1\n"), 0)
