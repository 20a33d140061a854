"""What a run sends and when: shards, mixes, traces with batch sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.arrivals import Mix, Ramp, Recorded, Trace
from loadtests.records import LoadRun
from loadtests.schedule import CLOSED_LOOP_CYCLE, Schedule, make_schedule
from serving.errors import BadInput

ONE_CLASS = np.zeros(4, dtype=int)
OPEN = LoadRun(mode="open", batch=1, duration_s=2, rate_rps=200, seed=5)


@given(st.integers(0, 500), st.integers(1, 9))
def test_shards_partition_the_schedule(count: int, workers: int) -> None:
    """Every request, with its due time and its body, belongs to exactly one worker."""
    whole = Schedule(np.arange(count, dtype=float), np.arange(count) % 7)
    parts = [whole.shard(index, workers) for index in range(workers)]
    order = np.argsort(np.concatenate([part.due_s for part in parts]))
    joined = np.concatenate([part.due_s for part in parts])[order]
    np.testing.assert_array_equal(joined, whole.due_s)
    np.testing.assert_array_equal(np.concatenate([part.body for part in parts])[order], whole.body)
    with pytest.raises(ValueError, match="worker"):
        whole.shard(workers, workers)


def test_the_same_run_has_the_same_schedule(tmp_path: Path) -> None:
    """Seeded, whatever the number of workers; and it survives its file."""
    one, again = make_schedule(OPEN, ONE_CLASS), make_schedule(OPEN, ONE_CLASS)
    np.testing.assert_array_equal(one.due_s, again.due_s)
    np.testing.assert_array_equal(one.body, again.body)
    other = make_schedule(OPEN.model_copy(update={"seed": 6}), ONE_CLASS)
    assert len(other.due_s) != len(one.due_s) or not np.array_equal(other.due_s, one.due_s)
    one.save(tmp_path / "s.npz")
    np.testing.assert_array_equal(Schedule.load(tmp_path / "s.npz").body, one.body)


def test_a_mix_sends_each_class_by_its_weight() -> None:
    """Bodies of a class come as often as its weight says, evenly within it."""
    mix = Mix(batches=(1, 8), weights=(3, 1))
    run = OPEN.model_copy(update={"mix": mix, "duration_s": 100})
    body_class = np.array([0, 1, 0, 1, 1])
    counts = np.bincount(make_schedule(run, body_class).body, minlength=5)
    assert counts.sum() == pytest.approx(20_000, rel=0.05)
    np.testing.assert_allclose(counts[[0, 2]] / counts.sum(), 0.375, atol=0.015)
    np.testing.assert_allclose(counts[[1, 3, 4]] / counts.sum(), 0.25 / 3, atol=0.01)
    assert run.mean_batch == pytest.approx(2.75)


def test_a_trace_sends_the_batch_sizes_it_recorded() -> None:
    """Each request carries a body of the class of its own size."""
    source = Recorded(file="t.csv", sha256="", time_scale=1, requests=4, mean_batch=10.5)
    trace = Trace(np.array([0.0, 0.1, 0.2, 9.0]), np.array([32, 1, 8, 1]), source)
    run = OPEN.model_copy(update={"arrivals": source})
    made = make_schedule(run, np.array([2, 0, 1]), trace)
    np.testing.assert_array_equal(made.due_s, [0.0, 0.1, 0.2])
    np.testing.assert_array_equal(made.body, [0, 1, 2])
    assert run.mean_batch == 10.5
    with pytest.raises(BadInput, match="class 2"):
        make_schedule(run, np.array([0, 1]), trace)
    small = run.model_copy(update={"mix": Mix(batches=(1, 8), weights=(1, 1))})
    with pytest.raises(BadInput, match="batch 32 was made"):
        make_schedule(small, np.array([0, 1]), trace)
    with pytest.raises(ValueError, match="give the trace"):
        make_schedule(run, np.array([0, 1, 2]))


def test_inputs_are_drawn_within_the_sizes_of_a_trace() -> None:
    """Each request keeps its recorded size; which of that size's inputs it is, weights say."""
    n = 20_000
    sizes = np.where(np.arange(n) % 4 == 0, 8, 1)
    source = Recorded(file="t.csv", sha256="", time_scale=1, requests=n, mean_batch=2.75)
    trace = Trace(np.arange(n) / n, sizes, source)
    mix = Mix(batches=(1, 1, 8, 8), weights=(3, 1, 3, 1), inputs=("a", "b", "a", "b"))
    run = OPEN.model_copy(update={"arrivals": source, "mix": mix})
    body = make_schedule(run, np.arange(4), trace).body
    np.testing.assert_array_equal(np.array(mix.batches)[body], sizes)
    for size in (1, 8):
        assert np.mean(body[sizes == size] % 2 == 0) == pytest.approx(0.75, abs=0.02)


def test_paced_is_even_and_other_arrivals_are_followed() -> None:
    """A paced run is evenly spaced; a ramp begins slowly."""
    paced = LoadRun(mode="paced", batch=1, duration_s=2, rate_rps=10)
    np.testing.assert_allclose(np.diff(make_schedule(paced, ONE_CLASS).due_s), 0.1)
    ramp = OPEN.model_copy(update={"arrivals": Ramp(from_rps=0, to_rps=400)})
    assert np.mean(make_schedule(ramp, ONE_CLASS).due_s > 1) == pytest.approx(0.75, abs=0.08)


def test_a_closed_loop_has_bodies_and_no_due_times() -> None:
    """Users work through a long seeded order of bodies."""
    closed = LoadRun(mode="closed", batch=1, duration_s=2, users=4)
    made = make_schedule(closed, ONE_CLASS)
    assert len(made.due_s) == 0
    assert len(made.body) == CLOSED_LOOP_CYCLE
    assert set(made.body.tolist()) == {0, 1, 2, 3}
