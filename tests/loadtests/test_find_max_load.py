"""The search's driver: a simulated server in the place of a real one."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.find_max_load import Ran, find_max_load
from loadtests.max_load import MaxLoad, MaxLoadSearch, StopReason
from loadtests.objective import Slo, Verdict
from loadtests.records import Fault, FaultCode, LoadRun
from loadtests.summary import Workers, summarise

from .answered import answered

SLO = Slo(quantile=0.99, limit_ms=100)
LIKE = LoadRun(mode="open", batch=1, duration_s=1, rate_rps=1)
SERVICE_S = 0.01


def served(asked: LoadRun) -> Ran:
    """One server, exponential service times; a tenth of a millisecond on the way."""
    draw = np.random.default_rng(asked.seed)
    assert asked.rate_rps
    n = draw.poisson(asked.rate_rps * asked.duration_s)
    due = np.sort(draw.uniform(0, asked.duration_s, n))
    service = draw.exponential(SERVICE_S, n)
    free, done = 0.0, np.empty(n)
    for i, (at, time) in enumerate(zip(due.tolist(), service.tolist(), strict=True)):
        free = max(free, at) + time
        done[i] = free
    samples = answered(due, done + 1e-4, queue_s=done - due - service, service_s=service)
    return summarise(samples, asked.duration_s, Workers()), ()


def searched(budget: int, replicas: int | None) -> MaxLoad:
    search = MaxLoadSearch(SLO, 2, 1000, budget, 0)
    return find_max_load(search, SLO, LIKE, served, replicas=replicas)


@pytest.fixture(scope="module")
def ours() -> MaxLoad:
    """The answer where service times are known."""
    return searched(150_000, 1)


def test_the_highest_load_is_found(ours: MaxLoad) -> None:
    """M/M/1 holds a p99 of 100 ms up to mu + ln(0.01) / 0.1 s; service times find it sooner."""
    truth = 1 / SERVICE_S + np.log(0.01) / 0.1
    foreign = searched(150_000, None)
    for found in (ours, foreign):
        assert found.high_rps is not None
        assert found.low_rps <= truth <= found.high_rps
    assert ours.stop_reason == StopReason.FOUND
    assert ours.rate_rps == pytest.approx(truth, rel=0.06)
    assert ours.samples < foreign.samples


def test_an_overloaded_server_fails_its_probe() -> None:
    """Falling behind is the server's answer: the lowest rate fails at once."""

    def behind(asked: LoadRun) -> Ran:
        return served(asked)[0], (Fault(code=FaultCode.BACKLOG_GROWING, detail="it grew"),)

    search = MaxLoadSearch(SLO, 2, 1000, 50_000, 0)
    found = find_max_load(search, SLO, LIKE, behind, replicas=1)
    assert found.stop_reason == StopReason.LOWEST_FAILS
    assert len(found.probes) == 1


def test_runs_that_cannot_be_believed_end_the_search() -> None:
    """A fault that is not the server's is tried three times, then named; nothing is proven."""
    tries, said = [], list[str]()

    def shaken(asked: LoadRun) -> Ran:
        tries.append(asked.rate_rps)
        return served(asked)[0], (Fault(code=FaultCode.NOISY_HOST, detail="load 9"),)

    search = MaxLoadSearch(SLO, 2, 1000, 50_000, 0)
    found = find_max_load(search, SLO, LIKE, shaken, replicas=1, progress=said.append)
    assert tries == [2, 2, 2]
    assert found.stop_reason == StopReason.NOT_BELIEVABLE
    assert said == [found.not_believed]
    assert said == ["at 2.0 req/s no run of 3 can be believed: noisy_host: load 9"]
    assert (found.rate_rps, found.low_rps, found.high_rps, found.probes) == (0, 0, None, ())


def test_what_was_proven_outlives_a_probe_that_cannot_be_believed() -> None:
    """The rates that held before it still bound the answer from below, and it says what for."""

    def shaken_later(asked: LoadRun) -> Ran:
        noise = Fault(code=FaultCode.CLOCK, detail="slewed")
        return served(asked)[0], (noise,) if (asked.rate_rps or 0) > 20 else ()

    search = MaxLoadSearch(SLO, 2, 1000, 150_000, 0)
    found = find_max_load(search, SLO, LIKE, shaken_later, replicas=1)
    assert found.stop_reason == StopReason.NOT_BELIEVABLE
    assert [seen.rate_rps for seen in found.probes] == [2, 4, 8, 16]
    assert (found.rate_rps, found.low_rps, found.high_rps) == (16, 16, None)
    assert found.not_believed is not None
    assert "32.0 req/s" in found.not_believed
    assert (found.slo, found.lowest_rps, found.ceiling_rps) == (SLO, 2, 1000)


def test_a_few_failed_requests_are_late_and_no_more(ours: MaxLoad) -> None:
    """One error in a probe leaves its margin as it is: the search ends where it would without."""

    def fails_once(asked: LoadRun) -> Ran:
        return served(asked)[0], (Fault(code=FaultCode.ERRORS, detail="1 x http_503"),)

    search = MaxLoadSearch(SLO, 2, 1000, 150_000, 0)
    assert find_max_load(search, SLO, LIKE, fails_once, replicas=1) == ours


@pytest.mark.parametrize(("times", "runs"), [(1, 2), (9, 3)])
def test_a_stall_is_tried_again(times: int, runs: int) -> None:
    """One that passes is forgotten; one that comes back is what the server does."""
    made: list[float | None] = []

    def stalls(asked: LoadRun) -> Ran:
        made.append(asked.rate_rps)
        fault = Fault(code=FaultCode.STALLED, detail="no answer for 1 s")
        return served(asked)[0], (fault,) if len(made) <= times else ()

    search = MaxLoadSearch(SLO, 2, 3, 9_000, 0)
    found = find_max_load(search, SLO, LIKE, stalls, replicas=1)
    assert made.count(2) == runs
    assert found.probes[0].verdict == Verdict.HOLDS
