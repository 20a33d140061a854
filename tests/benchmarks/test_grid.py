"""Choosing from a grid: a perfect chooser, bad ones, and the planner on queues that are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import grid, grid_records
from benchmarks.grid_records import GRIDS, SHAPES, GridRecord, append, keys_of, read_grid
from benchmarks.grid_replay import (
    Choice,
    demands,
    holds,
    outcome,
    planned,
    profiled,
    rule_of_thumb,
    score,
    searched,
)
from benchmarks.live import host_size
from serving.errors import InvalidMeasurement

Build = Callable[..., GridRecord]
RATES = (20.0, 60.0, 120.0)
LIMITS = (40.0, 400.0)


@pytest.fixture(scope="module")
def records(record: Build) -> list[GridRecord]:
    """A fast variant (5 ms) and a slow one (12 ms) on all that one CPU holds of two sizes."""
    shapes = (("sim-1", 1), ("sim-0.5", 1), ("sim-0.5", 2))
    return [
        record(variant, size, replicas, ms, RATES)
        for variant, ms in (("fast", 5.0), ("slow", 12.0))
        for size, replicas in shapes
    ]


def test_the_grid_is_what_was_promised() -> None:
    """Three workloads of 24 configurations, none twice."""
    assert [len(set(keys_of(one))) for one in GRIDS.values()] == [24, 24, 24]
    assert all(replicas * host_size(size).vcpus <= 1 for size, _, replicas in SHAPES)


def test_a_perfect_chooser_scores_nothing_but_hits(records: list[GridRecord]) -> None:
    """Who always takes the true optimum costs 0 % more and misses nothing."""
    asked, _ = demands(records, RATES, LIMITS)
    best = {(a.rate_rps, a.limit_ms): Choice(a.optimum.key, a.optimum.vcpus) for a in asked}
    found = outcome(records, asked, lambda rate, limit: best[rate, limit])
    assert found == {
        "within": len(asked),
        "hold": len(asked),
        "mean_excess": 0.0,
        "misses": [],
    }


def test_who_always_buys_the_most_misses_what_less_would_hold(records: list[GridRecord]) -> None:
    """A choice that holds at twice the cost is a miss, and is listed with what was cheaper."""
    asked, _ = demands(records, RATES, LIMITS)
    found = outcome(records, asked, lambda *_: Choice(("fast", "sim-1", 1, 1), 1.0))
    cheap = [a for a in asked if a.optimum.vcpus < 1]
    assert cheap
    assert len(found["misses"]) == len(cheap)
    assert "holds with 1 vCPU" in found["misses"][0]


def test_a_choice_that_does_not_hold_is_a_miss_however_cheap(records: list[GridRecord]) -> None:
    """Neither half a CPU of the slow variant nor no answer at all is ever right here."""
    asked, _ = demands(records, RATES[1:], LIMITS)
    slow = outcome(records, asked, lambda *_: Choice(("slow", "sim-0.5", 1, 1), 0.5))
    none = outcome(records, asked, lambda *_: None)
    assert slow["within"] == none["within"] == 0
    assert "does not hold" in slow["misses"][0]
    assert "nothing was chosen" in none["misses"][0]


def test_more_replicas_hold_what_fewer_do(records: list[GridRecord]) -> None:
    """Beyond what the host holds the truth is known only where fewer replicas held already."""
    three = Choice(("fast", "sim-0.5", 1, 3), 1.5)
    assert holds(records, three, 20.0, 400.0) is True
    assert holds(records, Choice(("slow", "sim-1", 1, 2), 2.0), 120.0, 40.0) is None


def test_a_rate_beyond_capacity_is_not_held(records: list[GridRecord]) -> None:
    """Once a run fell behind, so does every higher rate, driven or not."""
    slow = next(r for r in records if r.key == ("slow", "sim-0.5", 1, 1))
    assert len(slow.truth) == 2
    assert slow.holds(60.0, 1e6) is False
    assert slow.holds(120.0, 1e6) is False
    assert slow.holds(20.0, 1e6) is True


@pytest.mark.usefixtures("no_own_error")
def test_the_planner_finds_the_optimum_of_queues_it_knows(records: list[GridRecord]) -> None:
    """Where the truth is the simulated queue itself, hardly a choice is off."""
    asked, _ = demands(records, RATES, LIMITS)
    profiles, _ = profiled(records, 1e9)
    found = outcome(records, asked, lambda rate, limit: planned(profiles, rate, limit))
    assert found["hold"] == len(asked)
    assert found["within"] >= len(asked) - 1


def test_the_rule_of_thumb_adds_one(records: list[GridRecord]) -> None:
    """ceil(60 / (0.7 * 100)) + 1 halves of a CPU for the fast variant, whatever the limit."""
    profiles, _ = profiled(records, 1e9)
    choice = rule_of_thumb(profiles, 60.0)
    assert choice is not None
    assert choice.vcpus == 1.0
    assert choice.key == ("fast", "sim-0.5", 1, 2)


def test_the_budget_is_kept_and_spent_on_the_fast_first(records: list[GridRecord]) -> None:
    """Every variant on the largest size, then the fastest on others; never beyond the budget."""
    profiles, spent = profiled(records, 35.0)
    assert spent == 30.0
    seen = [(p.variant.name, p.instance.name) for p in profiles]
    assert seen == [("fast", "sim-1"), ("slow", "sim-1"), ("fast", "sim-0.5")]
    assert profiled(records, 5.0) == ([], 0.0)


def test_the_no_op_ladder_is_part_of_both_times(records: list[GridRecord]) -> None:
    """Its 4 s leave 41.6 of 304 s: four cells of 10 s, and 44 s in all."""
    found = score(records, RATES, LIMITS)
    assert found["exhaustive_seconds"] == 4.0 + 6 * 50.0
    assert len(found["profiles"]) == 4
    assert found["planner_seconds"] == 4.0 + 40.0
    dearer = [record.model_copy(update={"ladder_seconds": 20.0}) for record in records]
    assert len(score(dearer, RATES, LIMITS)["profiles"]) == 2


def test_the_table_says_who_picked_the_cells(records: list[GridRecord]) -> None:
    """The planner's own probes did not, and it stands beside the planner's score."""
    lines = grid.render({"grid_score_made": score(records, RATES, LIMITS)})
    assert "not by the planner's probes" in lines[0]
    assert "no-op ladder of 4 s" in lines[0]


def test_random_search_with_all_the_time_finds_the_optimum(records: list[GridRecord]) -> None:
    """Unlimited, it is exhaustive; without time it finds nothing."""
    asked, _ = demands(records, RATES, LIMITS)
    assert searched(records, asked, 1e9)["within"] == len(asked)
    assert searched(records, asked, 0.0)["hold"] == 0


def test_barred_variants_are_nobodys_optimum(record: Build) -> None:
    """What the quality gate bars is left out of the truth and of every choice."""
    made = [record("fast", "sim-1", 1, 5.0, RATES), record("slow", "sim-1", 1, 12.0, RATES)]
    barred = made[0].deployment.variant.model_copy(update={"barred": "loses 9 %"})
    first = made[0].model_copy(
        update={"deployment": made[0].deployment.model_copy(update={"variant": barred})}
    )
    found = score([first, made[1]], RATES, LIMITS)
    assert all(best.startswith("slow") for _, _, best in found["demands"])


def test_a_score_says_whether_the_simulation_beats_the_rule_of_thumb(
    records: list[GridRecord],
) -> None:
    """The table has the planner, random search, the rule of thumb, and every miss."""
    found = score(records, RATES, LIMITS)
    lines = grid.render({"grid_made_fast": {}, "grid_score_made": found})
    told = found["predictions"]  # of one and two replicas
    assert list(told) == ["1", "2"]
    assert len(lines) == 3 + len(found["planner"]["misses"]) + len(told)
    assert all(one["inside"] + one["above"] <= one["runs"] for one in told.values())
    assert ("simulation beats it" in lines[2]) == (
        found["planner"]["within"] > found["rule_of_thumb"]["within"]
    )
    worse = {**found, "planner": {**found["planner"], "within": 0}}
    lines = grid.render({"grid_score_made": worse})
    assert "**missed**" in lines[0]
    assert "does not beat it" in lines[2]


def test_records_survive_being_cut_short(
    record: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that was not written whole is forgotten, and the next one does not join it."""
    monkeypatch.setattr(grid_records, "FOLDER", tmp_path)
    first, second = (record(name, "sim-1", 1, 5.0, RATES[:1]) for name in ("fast", "slow"))
    path = grid_records.path_of("made")
    append(path, first.model_dump_json())
    with path.open("a") as file:
        file.write(second.model_dump_json()[:100])
    assert [r.key for r in read_grid("made")] == [first.key]
    append(path, second.model_dump_json())
    assert [r.key for r in read_grid("made")] == [first.key, second.key]


def test_a_grid_is_scored_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all 24 are measured there is no score, and the reason names the command."""
    monkeypatch.setattr(grid_records, "FOLDER", tmp_path)
    with pytest.raises(InvalidMeasurement, match=r"24 configurations .* planner:grid_credit"):
        grid_records.whole_grid("credit")
