"""Random demands: how they are drawn, what rivals a recommendation, and how tests are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import demands
from benchmarks.demands import DEMANDS, next_cheaper, question, render, same
from benchmarks.grid_records import GridRecord
from benchmarks.grid_replay import Choice, answered, profiled
from planner.recommend import best_on_host
from planner.records import Bottleneck, Rejection, ServiceProfile


@pytest.fixture(scope="module")
def profiles(record: Callable[..., GridRecord]) -> list[ServiceProfile]:
    """Two variants on two sizes."""
    made = [
        record(variant, size, 1, ms, (20.0,))
        for variant, ms in (("fast", 5.0), ("slow", 12.0))
        for size in ("sim-1", "sim-0.5")
    ]
    return profiled(made, 1e9)[0]


def test_demands_are_seeded_and_differ(profiles: list[ServiceProfile]) -> None:
    """The same number is the same demand, and another one another."""
    first = [question(number, "made", profiles, 16) for number in range(5)]
    assert first[2:4] == [question(number, "made", profiles, 16) for number in (2, 3)]
    assert len({(q.rate_rps, q.limit_ms) for q in first}) == 5


def test_what_is_recommended_is_what_the_product_recommends(
    profiles: list[ServiceProfile],
) -> None:
    """The question carries the best plan for its demand."""
    asked = question(3, "made", profiles, 16)
    plan = best_on_host(answered(profiles, asked.rate_rps, asked.limit_ms))
    assert plan is not None
    assert asked.best.vcpus == plan.vcpus
    assert asked.best.key[3] == plan.replicas


def test_the_rival_is_the_dearest_that_is_cheaper(profiles: list[ServiceProfile]) -> None:
    """One and a half CPUs are rivalled by one, and of one CPU's ways by the fastest."""
    answer = answered(profiles, 60.0, 400.0)
    best = Choice(("fast", "sim-0.5", 1, 3), 1.5)
    rival = next_cheaper(profiles, best, answer)
    assert rival is not None
    assert rival.vcpus == 1.0
    assert rival.key[0] == "fast"
    assert next_cheaper(profiles, Choice(("fast", "sim-0.5", 1, 1), 0.5), answer) is None


def test_a_rival_has_no_more_replicas_than_the_planner_may_give(
    profiles: list[ServiceProfile],
) -> None:
    """Below two CPUs there are three halves, but not where two replicas are the most."""
    best = Choice(("fast", "sim-1", 1, 2), 2.0)
    free = next_cheaper(profiles, best, answered(profiles, 60.0, 400.0))
    bound = next_cheaper(profiles, best, answered(profiles, 60.0, 400.0, most_replicas=2))
    assert free is not None
    assert bound is not None
    assert (free.vcpus, free.key[3]) == (1.5, 3)
    assert (bound.vcpus, bound.key[3] <= 2) == (1.0, True)


def test_what_the_planner_never_weighed_is_no_rival(profiles: list[ServiceProfile]) -> None:
    """A cell rejected for its memory was not found too slow, and its test would say nothing."""
    answer = answered(profiles, 60.0, 400.0)
    of_memory = tuple(
        Rejection(candidate=plan.candidate, bottleneck=Bottleneck.MEMORY, reason="made")
        for plan in (answer.best, *answer.alternatives)
        if plan
    )
    bare = answer.model_copy(update={"best": None, "alternatives": (), "rejections": of_memory})
    assert next_cheaper(profiles, Choice(("fast", "sim-1", 1, 2), 2.0), bare) is None


def test_what_the_host_does_not_hold_is_passed_over(profiles: list[ServiceProfile]) -> None:
    """A share of a recommendation queues more than all of it: its test would say little."""
    asked = [question(number, "made", profiles, 1) for number in range(20)]
    assert all(q.best.vcpus <= 1 for q in asked)
    assert sum(q.passed_over for q in asked) > 0
    roomy = [question(number, "made", profiles, 16) for number in range(20)]
    assert max(q.best.vcpus for q in roomy) > 1


def line(number: int, holds: bool | None, cheaper: bool | None = False) -> dict[str, Any]:
    one = {
        "key": ["fast", "sim-0.5", 1, 2],
        "vcpus": 1.0,
        "n": 1500,
        "late": 3 if holds else 40,
        "p99_ms": 30.0,
        "behind": False,
        "holds": holds,
        "verdict": "holds" if holds else "fails",
        "refused": "noisy_host: x" if holds is None else None,
    }
    rival = {**one, "key": ["slow", "sim-1", 1, 1], "holds": cheaper, "refused": None}
    return {
        "number": number,
        "workload": "made",
        "rate_rps": 50.0,
        "limit_ms": 40.0,
        "predicted_p99_ms": [20.0, 25.0, 35.0],
        "recommended": one,
        "cheaper": rival,
    }


def test_a_perfect_planner_holds_and_is_tight() -> None:
    """Sixty that hold, sixty rivals that fail: both aims met, nothing listed."""
    lines = render({"demands_0": [line(number, True) for number in range(DEMANDS)]})
    assert len(lines) == 2
    assert "60 of 60 (60 of them proven at 99 %), met" in lines[0]
    assert "60 of 60 (100%), met" in lines[1]


def test_misses_are_counted_and_listed() -> None:
    """Four that do not hold or could not be judged miss the aim, and each has a row."""
    made = [line(n, True) for n in range(56)]
    made += [line(n, False) for n in range(56, 59)] + [line(59, None)]
    lines = render({"demands_0": made})
    assert "56 of 60" in lines[0]
    assert "**missed**" in lines[0]
    assert sum(row.startswith("| miss: ") for row in lines) == 4
    assert any("noisy_host: x" in row for row in lines)


def test_loose_recommendations_are_listed() -> None:
    """Where a cheaper one held, it is named; more than half of them miss the aim."""
    made = [line(n, True, cheaper=n < 31) for n in range(DEMANDS)]
    lines = render({"demands_0": made})
    assert "29 of 60 (48%), **missed**" in lines[1]
    assert sum(row.startswith("| not tight: ") for row in lines) == 31


def test_answers_that_rest_on_few_requests_say_so() -> None:
    """Forty requests prove nothing at 99 %, though none of them was late."""
    made = [line(n, True) for n in range(DEMANDS)]
    made[0]["recommended"]["n"] = 40
    made[1]["cheaper"]["n"] = 30
    lines = render({"demands_0": made})
    assert "proven at 99 %; 1 rest on fewer than 459 requests: n = 40), met" in lines[0]
    assert "(100%; 1 rest on fewer than 459 requests: n = 30), met" in lines[1]


def test_half_the_demands_prove_nothing() -> None:
    """Until all are tested no aim is met."""
    lines = render({"demands_0": [line(n, True) for n in range(30)]})
    assert all("**missed**" in row for row in lines[:2])


def test_a_kept_line_answers_its_own_question_only(
    profiles: list[ServiceProfile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line is used again for the same demand and recommendation, whole lines only."""
    asked = question(3, "made", profiles, 16)
    kept = {
        "number": 3,
        "rate_rps": asked.rate_rps,
        "limit_ms": asked.limit_ms,
        "recommended": {"key": list(asked.best.key)},
        "cheaper": None if asked.cheaper is None else {"key": list(asked.cheaper.key)},
    }
    path = tmp_path / "demands.jsonl"
    path.write_text(json.dumps(kept) + "\n" + json.dumps(kept)[:20])
    monkeypatch.setattr(demands, "FILE", path)
    (read,) = demands._kept()
    assert same(read, asked)
    assert not same(read, asked._replace(best=Choice(("slow", "sim-1", 1, 1), 1.0)))
    assert not same(read, asked._replace(limit_ms=1.0))
