"""A cell with generator, host and counters on paper: what is recorded of its runs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from loadtests import cell
from loadtests.cell import CellContext, ladder, observe
from loadtests.dwell import FLOOR, FULL, QUICK, open_for, rung_for
from loadtests.http_call import HttpCall
from loadtests.judge import MIN_SAMPLES
from loadtests.monitor import Window
from loadtests.quantiles import fewest_n, quantiles_in, quantiles_of
from loadtests.records import LadderEnd, LoadRun, Measurement
from loadtests.summary import LoadResult, Workers, summarise
from serving.records import Deployment, Endpoint, Grant, InstanceType, Replica, Variant

from .answered import answered
from .windows import QUIET

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")
GRANT = Grant(method="cgroup-v1", cpus=(1,), quota_cpus=None, memory_bytes=None)
Serve = Callable[[LoadRun], LoadResult]


def answers(sent_s: np.ndarray, took_s: np.ndarray, *, reports: bool = True) -> LoadResult:
    """A run of one second in which each request was sent when it fell due, and answered well."""
    n = len(sent_s)
    told = {"queue_s": np.zeros(n), "service_s": took_s / 2} if reports else {}
    samples = answered(sent_s, sent_s + took_s, inline=np.ones(n, bool), **told)
    return summarise(samples, 1.0, Workers(checked=n, cpu_s=(0.1,), connections=128), scheduled=n)


@pytest.fixture
def context(
    make_stub: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CellContext]:
    """Factory of cells whose requests are answered as the caller says."""

    class Paper:
        def __init__(self, *_: object) -> None:
            pass

        def snapshot(self) -> None:
            pass

        def between(self, *_: object) -> Window:
            return QUIET

    monkeypatch.setattr(cell, "Monitor", Paper)

    def make(serve: Serve, call: HttpCall | None = None) -> CellContext:
        def run(asked: LoadRun, *given: Any, **_: object) -> LoadResult:
            on_start, on_end = given[2:]
            on_start()
            on_end()
            return serve(asked)

        replica = Replica(pid=1, grant=GRANT, group=None)
        process = SimpleNamespace(pids=list)
        return CellContext(
            host=cast(Any, None),
            fleet=cast(Any, SimpleNamespace(run=run, process=process)),
            deployment=Deployment(variant=make_stub(), instance=SIZE, threads=1),
            endpoint=Endpoint(url="http://x", model_name="m", managed=True, replicas=(replica,)),
            payloads=Path("payloads.npz"),
            batch=1,
            seed=0,
            environment="e",
            call=call,
        )

    return make


OPEN = LoadRun(mode="open", batch=1, duration_s=1, rate_rps=500)
SENT_S = np.arange(500) / 500
TOOK_S = 0.002 + 0.02 * (abs(SENT_S - 0.5) < 0.04) * (1.05 - SENT_S)
"""All late requests come in one row of forty: worth far fewer than 500 independent ones."""


def test_a_run_of_a_cell_has_its_intervals_from_its_samples(
    context: Callable[..., CellContext],
) -> None:
    """Correlation is counted in the record; the histogram alone would print a p99 here."""
    made, result = observe(context(lambda _: answers(SENT_S, TOOK_S)), OPEN, 0)
    assert made.quantiles == quantiles_of(result)
    (_, _, p99) = quantiles_in(made.quantiles, "due_to_done", made.due_to_done)
    assert p99.effective_n < 100
    assert p99.value_s is None
    assert quantiles_in((), "due_to_done", made.due_to_done)[2].value_s is not None


def test_where_round_trips_stand_in_for_service_so_do_their_intervals(
    context: Callable[..., CellContext],
) -> None:
    """A server that is not ours tells no service time; what is shown for it is correlated, too."""
    silent = answers(SENT_S, TOOK_S, reports=False)
    made, _ = observe(context(lambda _: silent, HttpCall(path="/predict")), OPEN, 0)
    trips = quantiles_in(made.quantiles, "sent_to_done", made.sent_to_done)
    service = quantiles_in(made.quantiles, "service", made.service)
    assert service == tuple(one.model_copy(update={"of": "service"}) for one in trips)
    assert len({(one.of, one.quantile) for one in made.quantiles}) == len(made.quantiles) == 15


@pytest.mark.parametrize("rate", [44.0, 60.0, 1_000.0])
def test_open_runs_have_the_requests_that_a_p99_takes(rate: float) -> None:
    """In 19 of 20 runs, as arrivals scatter, at 44 req/s and more."""
    seconds = open_for(FULL, rate)
    counts = np.random.default_rng(0).poisson(rate * seconds, 1_000)
    assert np.mean(counts >= fewest_n(0.99)) > 0.95
    assert open_for(FULL, 4.0) == FULL.longest_open_s
    assert open_for(QUICK, rate) == QUICK.open_s
    assert open_for(FLOOR, 1.0) == FLOOR.longest_open_s


@pytest.mark.parametrize("dwell", [FULL, QUICK])
@pytest.mark.parametrize("took_s", [0.3, 2.0])
def test_a_slow_model_gets_the_answers_that_a_run_needs(dwell: cell.Dwell, took_s: float) -> None:
    """Whatever a run usually takes: of fewer answers it would be refused."""
    assert rung_for(dwell, took_s) / took_s >= MIN_SAMPLES + 1
    seconds = open_for(dwell, 0.7 / took_s)
    counts = np.random.default_rng(0).poisson(0.7 / took_s * seconds, 1_000)
    assert np.mean(counts >= MIN_SAMPLES) > 0.95


def in_step(run: LoadRun, rps: float) -> LoadResult:
    """``users`` in step for a second, who together get ``rps`` answers."""
    users = run.users or 1
    took_s = users / rps
    n = int(rps)
    return answers(took_s * (np.arange(n) // users), np.full(n, took_s))


@pytest.mark.parametrize(
    ("rps", "dwell", "users", "end"),
    [
        (lambda users: 2_000 * min(users, 4), FULL, 8, LadderEnd.GAIN_SMALL),
        (lambda users: {1: 2_000, 2: 3_900, 4: 3_000}[users], FULL, 4, LadderEnd.THROUGHPUT_FELL),
        (lambda users: 500 * users, FULL, 32, LadderEnd.MOST_USERS),
        (lambda users: 500 * users, QUICK, 4, LadderEnd.MOST_USERS),
    ],
)
def test_the_last_rung_says_why_it_is_the_last(
    context: Callable[..., CellContext],
    rps: Callable[[int], float],
    dwell: cell.Dwell,
    users: int,
    end: LadderEnd,
) -> None:
    """Saturated, overdriven, or out of users; the other rungs say nothing."""
    cells = context(lambda run: in_step(run, rps(run.users or 1)))
    rungs = list(ladder(cells, dwell, 100.0, count().__next__))
    assert [m.run.users for m in rungs] == [1, 2, 4, 8, 16, 32][: len(rungs)]
    assert rungs[-1].run.users == users
    assert [m.ladder_end for m in rungs] == [None] * (len(rungs) - 1) + [end]
    old = rungs[-1].model_dump(mode="json", exclude={"ladder_end", "quantiles"})
    assert Measurement.model_validate(old).ladder_end is None
