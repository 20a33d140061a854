"""The control law against Ray Serve's own code, which is asked in a process of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

import pytest

from planner.advice import ScalingSettings
from planner.ray_scaling import Policy, record_interval_s, total_ongoing

RAY = """
import json, sys
from types import SimpleNamespace
import ray.serve.autoscaling_policy as law
import ray.serve._private.autoscaling_state as state
from ray.serve._private.common import TimeStampedValue
from ray.serve.config import AutoscalingConfig

clock = SimpleNamespace(now=0.0)
law.time = state.time = SimpleNamespace(time=lambda: clock.now, monotonic=lambda: clock.now)
cases, totals = [], []
asked = json.load(sys.stdin)
for case in asked["cases"]:
    config = AutoscalingConfig(**case["settings"])
    policy = law._apply_autoscaling_config(law.default_autoscaling_policy)
    kept, target, targets = {}, case["target"], []
    for now, ongoing, running in case["ticks"]:
        clock.now = now
        seen = SimpleNamespace(current_num_replicas=running, total_num_requests=ongoing,
            target_num_replicas=target, config=config, policy_state=kept)
        wanted, kept = policy(seen)
        target = max(config.min_replicas, min(config.max_replicas, wanted))
        targets.append(target)
    cases.append(targets)
for now, notes in asked["notes"]:
    clock.now = now
    series = [[TimeStampedValue(at, value) for at, value in one] for one in notes]
    mean = state.DeploymentAutoscalingState._merge_and_aggregate_timeseries
    totals.append(mean(SimpleNamespace(_config=AutoscalingConfig()), series))
print(json.dumps([cases, totals]))
"""


def case(draw: random.Random) -> dict[str, Any]:
    """One course of load, tick by tick, with replicas that follow their target late."""
    settings = ScalingSettings(
        min_replicas=draw.randint(1, 3),
        max_replicas=draw.randint(4, 9),
        target_ongoing_requests=draw.choice([0.7, 1, 1.3, 2.5]),
        upscale_delay_s=draw.choice([0, 0.5, 3]),
        downscale_delay_s=draw.choice([0, 1, 5]),
    )
    level, running, ticks = 1.0, settings.min_replicas, []
    for tick in range(400):
        if draw.random() < 0.03:
            level = draw.choice([0, 0.4, 1, 2, 5, 12])
        if draw.random() < 0.05:
            running = draw.randint(settings.min_replicas, settings.max_replicas)
        ticks.append((tick / 10, level * draw.uniform(0.8, 1.2), running))
    return {"settings": settings.model_dump(), "target": settings.min_replicas, "ticks": ticks}


def notes(draw: random.Random) -> tuple[float, list[list[tuple[float, float]]]]:
    """What some replicas sent, in hundredths of a second, as Ray rounds them."""
    now = 100.0
    made = []
    for _ in range(draw.randint(1, 5)):
        times = sorted({draw.randint(7000, 9900) / 100 for _ in range(draw.randint(1, 8))})
        made.append([(at, float(draw.randint(0, 9))) for at in times])
    return now, made


def test_it_decides_as_ray_decides() -> None:
    """Every target of 40 seeded courses, and the mean of 200 sets of notes."""
    draw = random.Random(1)
    cases = [case(draw) for _ in range(40)]
    sent = [notes(draw) for _ in range(200)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", RAY],
        input=json.dumps({"cases": cases, "notes": sent}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    targets, totals = json.loads(done.stdout.splitlines()[-1])
    moved = 0
    for one, expected in zip(cases, targets, strict=True):
        policy, target, found = Policy(ScalingSettings(**one["settings"])), one["target"], []
        for now, ongoing, running in one["ticks"]:
            target = policy.decide(now, ongoing, running, target)
            found.append(target)
        assert found == expected
        moved += len(set(found)) > 1
    assert moved > 30
    assert [total_ongoing(made, now) for now, made in sent] == pytest.approx(totals)


def test_nothing_sent_counts_as_nothing() -> None:
    """Before the first notes arrive the load is unknown, and taken as none."""
    assert total_ongoing([], 1.0) == 0
    assert total_ongoing([[], []], 1.0) == 0
    assert total_ongoing([[(1.0, 3.0)]], 1.0) == 3


def test_notes_are_taken_as_often_as_ray_takes_them() -> None:
    """A fifth of the look-back period, or as often as they are sent."""
    defaults = ScalingSettings(min_replicas=1, max_replicas=1, target_ongoing_requests=1)
    assert record_interval_s(defaults) == 6
    brisk = defaults.model_copy(update={"metrics_interval_s": 2})
    assert record_interval_s(brisk) == 2
