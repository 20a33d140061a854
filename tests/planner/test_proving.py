"""How much is run to prove a plan, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.histogram import Histogram
from loadtests.objective import Slo
from loadtests.records import Measurement
from planner.claim import Claim
from planner.pooled import confidence_of_look
from planner.proving import Held, Protocol, fails_alone, killed_rate, look_of
from planner.records import Plan

from .conftest import plan_of

Build = Callable[..., Any]
SLO = Slo(limit_ms=50)


def undecided(more: int | None, verdict: str = "undecided") -> Claim:
    """What a protocol asks of a claim, and nothing else of one."""
    asked = SimpleNamespace(verdict=verdict, more_requests=more, more_lost_requests=more)
    return cast(Claim, asked)


@pytest.mark.parametrize(
    ("held", "quantile", "requests"),
    [
        (Held(2, 60), 0.99, 2400),
        (Held(2, 60), 0.95, 600),  # 10 s, where 480 requests would do
        (Held(2, 1200), 0.99, 12_000),  # 10 s
        (Held(2, 60), 0.999, 24_000),
    ],
)
def test_enough_requests_for_a_verdict(held: Held, quantile: float, requests: int) -> None:
    """Two dozen in the tail, and never less than ten seconds."""
    protocol = Protocol.of(Slo(quantile=quantile, limit_ms=50), held, None)
    assert protocol.requests == requests
    assert protocol.duration_s == pytest.approx(3 * requests / held.rate_rps)


def test_what_was_asked_for_is_run() -> None:
    """Requests that were given stay; the run with a loss lasts long enough for a new start."""
    protocol = Protocol.of(SLO, Held(2, 60), 60, deployments=5, requests=300)
    assert (protocol.requests, protocol.run_s, protocol.killed_s) == (300, 5, 20)
    assert protocol.duration_s == 5 * 5 + 20


def test_the_first_look_fits_the_budget() -> None:
    """At a low rate fewer requests are sent rather than hours spent."""
    protocol = Protocol.of(SLO, Held(2, 1), 1, budget_s=400)
    assert protocol.duration_s <= 0.8 * 400 + 4
    assert protocol.requests == 64


def test_it_goes_on_while_more_requests_help_and_time_is_left() -> None:
    """A fifth more than are missing; none when decided, hopeless, or out of time."""
    protocol = Protocol.of(SLO, Held(2, 60), None)
    assert protocol.further(undecided(2000), 600) == 2400
    assert protocol.further(undecided(10), 600) == 600  # ten seconds
    assert protocol.further(undecided(2000), 39) is None
    assert protocol.further(undecided(None), 600) is None
    assert protocol.further(undecided(5, "holds"), 600) is None
    assert protocol.further_loss(undecided(2000), 600) is None


def test_a_loss_goes_on_at_twice_what_is_missing() -> None:
    """Half of the run comes before the loss; no shorter than the first one."""
    protocol = Protocol.of(SLO, Held(2, 60), 60, requests=600)
    assert protocol.further_loss(undecided(2000), 600) == 4800
    assert protocol.further_loss(undecided(10), 600) == 1200
    assert protocol.further_loss(undecided(2000), 79) is None


@given(confidence=st.floats(0.51, 0.999), looks=st.integers(1, 60))
def test_all_looks_are_wrong_no_more_often_than_one(confidence: float, looks: int) -> None:
    """The doubts of all looks add up to less than that of a single one."""
    doubts = [1 - confidence_of_look(confidence, look) for look in range(1, looks + 1)]
    assert sum(doubts) <= (1 - confidence) * (1 + 1e-9)
    assert confidence_of_look(confidence, 0) == confidence


def test_looks_are_counted_by_the_runs() -> None:
    """The first comes after three deployments, then one after each further one."""
    assert [look_of(n) for n in (1, 3, 4, 5)] == [1, 1, 2, 3]


def test_the_rate_of_a_loss_leaves_each_replica_what_the_whole_plan_would(plan: Plan) -> None:
    """1 of 2 left of 4 carries what 3 of 4 carry each; all of a plan carry all of its rate."""
    assert killed_rate(plan, 120, 2) == 40
    assert killed_rate(plan, 120, 4) == 120
    assert killed_rate(plan, 120, 1) is None


def test_one_deployment_can_fail_for_all(measurement: Build) -> None:
    """40 of 1,000 late are enough to stop; 15 are not, though that is over the limit."""

    def run(late: int) -> Measurement:
        times = [0.01] * (1000 - late) + [0.08] * late
        made: Measurement = measurement("open", due_to_done=Histogram.of(times))
        return made

    assert fails_alone(run(40), [SLO], 3)
    assert not fails_alone(run(15), [SLO], 3)
    assert not fails_alone(run(0), [SLO], 3)


@pytest.fixture
def plan() -> Plan:
    """Four replicas on this host."""
    return plan_of("sim-1", 4)
