"""What the samples of a run say in numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loadtests.arrivals import Step, Steps
from loadtests.judge import endpoint_faults
from loadtests.records import FaultCode, LoadRun
from loadtests.samples import Samples
from loadtests.summary import Workers, backlog_growth, silences_s, summarise

from .answered import answered


def samples_of(due: np.ndarray, done: np.ndarray, **changed: np.ndarray) -> Samples:
    n = len(due)
    told = {"queue_s": np.full(n, 0.001), "service_s": np.full(n, 0.004)}
    return answered(due, done, **(told | changed))


DUE = np.arange(0, 10, 0.01)


def test_a_growing_backlog_shows() -> None:
    """A server at half the offered rate falls behind by half the rate; a fast one does not."""
    assert backlog_growth(samples_of(DUE, 2 * DUE + 0.01), 10) == pytest.approx(50, rel=0.05)
    assert abs(backlog_growth(samples_of(DUE, DUE + 0.005), 10)) < 0.2


def test_a_silence_counts_only_while_requests_wait() -> None:
    """An idle server is not silent; one that answers nothing for a second is."""
    pause = np.concatenate([np.arange(0, 2, 0.1), np.arange(5, 7, 0.1)])
    assert max(silences_s(samples_of(pause, pause + 0.02))) == pytest.approx(0.02)
    stalled = np.where((DUE > 4) & (DUE < 5), 5.0, DUE) + 0.005
    assert max(silences_s(samples_of(DUE, stalled))) == pytest.approx(1.0, abs=0.03)


def test_a_slow_request_beside_fast_ones_is_no_silence() -> None:
    """As long as others are answered, the server is not silent."""
    done = DUE + 0.005
    done[100] += 3.0
    assert max(silences_s(samples_of(DUE, done))) < 0.03


def stalled_queue(seed: int, stall_s: float, service_s: float, spread: float) -> Samples:
    """20 s of one server at utilisation .5, which stands still for ``stall_s`` in one request.

    Service times are gamma with this mean, and this coefficient of variation.
    """
    draw = np.random.default_rng(seed)
    due = np.cumsum(draw.exponential(2 * service_s, int(10 / service_s)))
    service = draw.gamma(spread**-2, service_s * spread**2, len(due))
    late = service.copy()
    late[draw.integers(len(due) // 4, len(due))] += stall_s
    done, free = np.empty(len(due)), 0.0
    for index, at in enumerate(due):
        free = done[index] = max(free, at) + late[index]
    return samples_of(due, done, service_s=late)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("spread", [0.1, 0.2, 1.0])
def test_a_stall_is_found_beside_slow_requests(told: bool, spread: float) -> None:
    """1 s of silence of a server that takes 150 ms is found in each of 20 runs, and never made up.

    So it is where the server does not say its service times. Exponential ones are as long now
    and then: of those the stall need not be told apart.
    """
    run = LoadRun(mode="open", batch=1, duration_s=20, rate_rps=3.3)
    found = dict.fromkeys((0.0, 1.0), 0)
    for stall_s in found:
        for seed in range(20):
            made = stalled_queue(seed, stall_s, 0.15, spread)
            if not told:
                made = replace(made, service_s=np.full(len(made), np.nan))
            result = summarise(made, 20.0, Workers(cpu_s=(1.0,)))
            codes = {fault.code for fault in endpoint_faults(run, result)}
            found[stall_s] += FaultCode.STALLED in codes
    assert found[0.0] <= (0 if spread < 1 else 1)
    assert found[1.0] == 20 or spread == 1


def test_many_slow_requests_at_once_are_no_stall() -> None:
    """300 a second of 1 s each: nothing is heard for the first second, and nothing is wrong."""
    due = np.arange(0, 5, 1 / 300)
    made = samples_of(due, due + 1.0, service_s=np.full(len(due), np.nan))
    result = summarise(made, 5.0, Workers())
    assert result.silence_s == pytest.approx(1.0)
    run = LoadRun(mode="open", batch=1, duration_s=5, rate_rps=300)
    assert endpoint_faults(run, result) == ()


def test_counts_and_histograms() -> None:
    """Everything lands in its own count; latency is from the due time, lag without waiting."""
    status = np.full(len(DUE), 200)
    status[:5] = (503, 0, -1, 200, 0)
    error = np.full(len(DUE), "", dtype="<U20")
    error[:2] = ("http_503", "no_answer")
    error[4] = "no_answer"
    own = np.ones(len(DUE), bool)
    own[3] = False
    sent = DUE + 0.0002
    done = sent + 0.005
    sent[2] = done[2] = done[4] = np.nan
    waited = np.zeros(len(DUE), bool)
    waited[10] = True
    sent[10] += 0.5
    done[10] += 0.5
    made = samples_of(
        DUE, done, sent_s=sent, status=status, error=error, own_cell=own, waited=waited
    )
    workers = Workers(checked=5, wrong=1, cpu_s=(1.0, 4.0))
    result = summarise(made, 10.0, workers, lost=7)
    assert (result.offered, result.ok, result.unsent, result.lost) == (1007, 995, 1, 7)
    assert result.errors == {"http_503": 1, "no_answer": 2}
    assert (result.other_cell, result.checked, result.wrong) == (1, 5, 1)
    assert result.due_to_done.quantile_s(0.5) == pytest.approx(0.0052, rel=2e-3)
    assert result.dispatch_lag.quantile_s(1.0) == pytest.approx(0.0002, rel=5e-3)
    assert result.elapsed_s == pytest.approx(DUE[-1] + 0.0052)
    assert result.busiest_worker == pytest.approx(0.4, rel=0.01)
    assert (result.inference, result.backwards) == ("thread", 0)
    assert result.usual_s == 0.004


def test_the_histograms_begin_where_the_run_is_steady() -> None:
    """A slow start is found, said and left out of the histograms, not out of the counts."""
    noise = np.random.default_rng(1).gamma(20, 0.0002, len(DUE))
    slow = np.where(DUE < 1.0, 0.05, 0.0)
    result = summarise(samples_of(DUE, DUE + noise + slow), 10.0, Workers(cpu_s=(1.0,)))
    assert result.steady.steady
    assert result.steady_from_s == pytest.approx(1.0, abs=0.1)
    assert result.due_to_done.quantile_s(0.99) < 0.01
    assert result.ok == result.offered == 1000


def test_a_burst_at_the_start_is_no_warm_up() -> None:
    """What changes with the traffic asked for stays in; the same samples unasked are cut."""
    draw = np.random.default_rng(2)
    burst, quiet = np.sort(draw.uniform(0, 1, 100)), np.sort(draw.uniform(1, 10, 180))
    due = np.concatenate([burst, quiet])
    done = due + draw.gamma(20, 0.0002, len(due)) + np.where(due < 1, 0.3, 0.0)
    steps = Steps(steps=(Step(rate_rps=100, seconds=1), Step(rate_rps=20, seconds=9)))
    run = LoadRun(mode="open", batch=1, duration_s=10, rate_rps=28, arrivals=steps)
    made, workers = samples_of(due, done), Workers(cpu_s=(1.0,))
    result = summarise(made, 10.0, workers, stationary=run.stationary)
    assert (result.steady.index, result.due_to_done.count) == (0, 280)
    assert result.due_to_done.quantile_s(0.99) > 0.3
    assert "arrivals change" in result.steady.reason
    plain = run.model_copy(update={"arrivals": None})
    assert summarise(made, 10.0, workers, stationary=plain.stationary).steady.index >= 95


def test_a_run_of_a_lost_worker_is_still_a_result() -> None:
    """No samples at all: nothing is known, and nothing is made up."""
    result = summarise(Samples.empty(), 2.0, Workers(lost=(0,)), lost=200)
    assert (result.offered, result.ok, result.lost) == (200, 0, 200)
    assert result.elapsed_s == 2.0
    assert result.due_to_done.count == 0


def test_clocks_that_run_backwards_show() -> None:
    """An answer before its question, a question before it was due, a negative service time."""
    done, sent, service = DUE + 0.005, DUE.copy(), np.full(len(DUE), 0.004)
    done[7] = DUE[7] - 0.1
    sent[9] -= 0.5
    service[11] = -0.2
    made = samples_of(DUE, done, sent_s=sent, service_s=service)
    assert summarise(made, 10.0, Workers(cpu_s=(1.0,))).backwards == 3


def test_a_large_request_among_small_ones_is_no_stall() -> None:
    """One in 250 takes a second, and is silent for so long: what its class takes is known.

    Without classes it would be one, since no quantile of the silences up to the 99th knows it.
    """
    due = np.arange(0, 50, 0.1)
    large = np.arange(len(due)) % 250 == 100
    took, done, free = np.where(large, 1.0, 0.004), np.empty(len(due)), 0.0
    for i, at in enumerate(due):
        free = done[i] = max(at, free) + took[i]
    asked = LoadRun(mode="open", batch=8, duration_s=50, rate_rps=10)
    made = samples_of(due, done, body=np.where(large, 2, 0), service_s=took)
    classes = np.array([0, 0, 1])
    for told in (made, replace(made, service_s=np.full(len(due), np.nan))):
        result = summarise(told, 50.0, Workers(), classes=classes)
        assert result.usual_s == pytest.approx(1.0, rel=1e-6)
        assert FaultCode.STALLED not in {f.code for f in endpoint_faults(asked, result)}
        blind = summarise(told, 50.0, Workers())
        assert blind.usual_s == pytest.approx(0.004, rel=1e-6)
        assert FaultCode.STALLED in {f.code for f in endpoint_faults(asked, blind)}
