"""Operational laws: they hold on simulated rungs, and each way of breaking one is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loadtests.histogram import Histogram
from loadtests.judge import endpoint_faults
from loadtests.laws import Law, Rung, gain, ladder_end, little, violations, worth_doubling
from loadtests.records import CpuUse, FaultCode, LadderEnd, LoadRun, Measurement, Throttling
from loadtests.samples import Samples
from loadtests.summary import Workers, summarise
from serving.records import Deployment, Grant, InstanceType

from .answered import answered


def closed_loop(users: int, seed: int, elapsed_s: float = 5.0, demand_s: float = 0.004) -> Rung:
    """A simulated rung: one server, exponential service of ``demand_s``, 1 ms of overhead."""
    draw = np.random.default_rng(seed)
    ready = np.zeros(users)
    free = used = 0.0
    responses, ends = [], []
    while True:
        user = int(np.argmin(ready))
        start = max(free, ready[user] + 0.0005)
        service = draw.exponential(demand_s)
        free = start + service
        done = free + 0.0005
        if ready[user] >= elapsed_s:
            break
        used += service
        responses.append(done - ready[user])
        ends.append(done)
        ready[user] = done
    counts = np.histogram(ends, np.linspace(0, elapsed_s, 21))[0]
    return Rung(
        users=users,
        completed=len(responses),
        elapsed_s=max(ends),
        response_s=float(np.mean(responses)),
        response_cv=float(np.std(responses) / np.mean(responses)),
        cpu_s=used,
        vcpus=1.0,
        counts=tuple(counts.tolist()),
    )


@pytest.mark.parametrize("users", [1, 2, 8, 32])
def test_simulated_rungs_obey_the_laws(users: int) -> None:
    """Nothing is held against 40 honest rungs, with the demand taken from another rung."""
    reference = closed_loop(1, 99)
    assert [v for seed in range(10) for v in violations(closed_loop(users, seed), reference)] == []


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"completed": 0.8}, Law.LITTLE),
        ({"response_s": 0.8}, Law.LITTLE),
        ({"response_s": 1.3}, Law.LITTLE),
        ({"cpu_s": 1.6}, Law.UTILISATION),
        ({"cpu_s": 0.5}, Law.UTILISATION),
        ({"vcpus": 0.5}, Law.CAPACITY),
    ],
)
def test_each_broken_law_is_named(change: dict[str, float], law: Law) -> None:
    """Lost answers, wrong clocks, CPU time that is not the replica's: each breaks its law."""
    rung, reference = closed_loop(8, 1), closed_loop(1, 2)
    values = {
        key: type(getattr(rung, key))(getattr(rung, key) * factor) for key, factor in change.items()
    }
    found = violations(replace(rung, **values), reference)
    assert law in [violation.law for violation in found]
    broken = next(violation for violation in found if violation.law == law)
    assert abs(broken.got / broken.expected - 1) > broken.tolerance


def test_think_time_is_part_of_littles_law() -> None:
    """Users who pause are in the system all the same."""
    rung = closed_loop(4, 3)
    shifted = replace(rung, response_s=rung.response_s / 2)
    assert [v.law for v in violations(shifted)] == [Law.LITTLE]
    assert violations(replace(shifted, think_s=rung.response_s / 2)) == []


def closed_samples(users: int, n: int, slow: float = 1.0) -> Samples:
    """``n`` answers to users in step, 10 ms each; said to have taken ``slow`` times as long."""
    done = 0.01 * (1 + np.arange(n) // users)
    sent = done - 0.01 * slow
    inline, times = np.ones(n, bool), {"queue_s": np.zeros(n), "service_s": np.full(n, 0.01)}
    return answered(sent, done, inline=inline, **times)


def test_littles_law_is_judged_of_any_closed_loop() -> None:
    """Whoever runs the server: a generator whose times do not add up is not believed."""
    run = LoadRun(mode="closed", batch=1, duration_s=5, users=4)
    workers = Workers(checked=1, cpu_s=(0.1,))
    honest = summarise(closed_samples(4, 2000), 5.0, workers)
    assert (little(run, honest), endpoint_faults(run, honest)) == (None, ())
    lying = summarise(closed_samples(4, 2000, slow=0.5), 5.0, workers)
    (fault,) = endpoint_faults(run, lying)
    assert fault.code == FaultCode.CLOCK
    assert fault.detail == "times do not add up: little: X R says 2 users, there were 4"
    assert little(run.model_copy(update={"users": 2}), lying) is None


def test_a_user_is_busy_until_the_answer_was_read() -> None:
    """An answer that lay there for a tenth of the time is no lie: it arrived before it was read."""
    run = LoadRun(mode="closed", batch=1, duration_s=5, users=4)
    read = closed_samples(4, 2000)
    early = replace(read, done_s=read.done_s - 0.001)
    result = summarise(early, 5.0, Workers(checked=1, cpu_s=(0.1,)))
    assert (little(run, result), endpoint_faults(run, result)) == (None, ())
    assert result.read_lag_p99_s == pytest.approx(0.001)
    assert result.sent_to_done.quantile_s(0.5) == pytest.approx(0.009, rel=0.01)


def test_a_quota_may_hold_one_period_more_than_its_share() -> None:
    """A window of 1 s that was cut at the right moments has eleven periods of 100 ms."""
    rung = replace(closed_loop(8, 1, elapsed_s=1.0), elapsed_s=1.0, vcpus=0.25, cpu_s=0.275)
    assert Law.CAPACITY in [found.law for found in violations(rung)]
    assert violations(replace(rung, period_s=0.1)) == []


def test_a_rung_without_answers_breaks_littles_law() -> None:
    """No completions: nobody can say where the users were."""
    assert [v.law for v in violations(replace(closed_loop(2, 1), completed=0))] == [Law.LITTLE]


def test_few_samples_widen_the_tolerance() -> None:
    """What is a violation among thousands of answers is noise among ten."""
    many = replace(closed_loop(2, 5), response_cv=1.0)
    off = replace(many, response_s=1.15 * many.response_s)
    assert violations(off) != []
    few = replace(off, completed=10, elapsed_s=off.elapsed_s * 10 / off.completed)
    assert violations(replace(few, cpu_s=0.01)) == []


@pytest.mark.parametrize(
    ("before", "after", "worth"),
    [(4000, 7800, True), (4000, 4010, False), (4000, 3900, False), (40, 44, None), (90, 170, True)],
)
def test_doubling_stops_when_it_gains_nothing_for_certain(
    before: int, after: int, worth: bool | None
) -> None:
    """Clear gains go on, certain losses and standstills stop, ten answers say nothing."""
    rung = closed_loop(1, 1)
    rungs = [replace(rung, completed=n, elapsed_s=1.0, counts=()) for n in (before, after)]
    assert worth_doubling(rungs[0], rungs[1]) is worth


def test_slices_sharpen_the_interval() -> None:
    """A server that is even from slice to slice is known better than a Poisson count."""
    rung = replace(closed_loop(1, 1), completed=400, elapsed_s=1.0)
    even = replace(rung, counts=(20,) * 20)
    assert gain(even, even)[1] < gain(replace(rung, counts=()), replace(rung, counts=()))[1]
    assert worth_doubling(even, even) is False
    assert worth_doubling(replace(rung, counts=()), replace(rung, counts=())) is None


def test_the_gain_interval_covers() -> None:
    """The interval around a known gain holds it in at least nine of ten simulated ladders."""
    draw = np.random.default_rng(4)
    rung = closed_loop(1, 1)
    held = 0
    for _ in range(400):
        slices = [draw.poisson(mean, 20) for mean in (30, 36)]
        rungs = [
            replace(rung, completed=int(s.sum()), elapsed_s=1.0, counts=tuple(s.tolist()))
            for s in slices
        ]
        low, high = gain(rungs[0], rungs[1])
        held += low <= 1.2 <= high
    assert held / 400 > 0.9


def test_ladders_without_answers() -> None:
    """From nothing anything may come; nothing is not worth doubling."""
    rung = closed_loop(1, 1)
    empty = replace(rung, completed=0, counts=())
    assert worth_doubling(empty, rung) is None
    assert worth_doubling(rung, empty) is False


def measurement(make_stub: object, mode: str) -> Measurement:
    """A record of ten answers to two users within a tenth of a second, by 2 CPUs in all."""
    size = InstanceType(name="s", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")
    load = {"users": 2} if mode == "closed" else {"rate_rps": 10}
    times = Histogram.of([0.01, 0.03] * 5)
    return Measurement.model_validate(
        {
            "id": "m",
            "sequence": 0,
            "started_at": "2026-01-01",
            "deployment": Deployment(
                variant=make_stub(),  # type: ignore[operator]
                instance=size,
                threads=1,
                replicas=2,
            ),
            "grant": Grant(method="affinity", cpus=(1,), quota_cpus=None, memory_bytes=None),
            "inference": "inline",
            "run": LoadRun.model_validate({"mode": mode, "batch": 1, "duration_s": 1, **load}),
            "elapsed_s": 0.1,
            "offered": 10,
            "ok": 10,
            "due_to_done": times,
            "sent_to_done": times,
            "dispatch_lag": times,
            "queue": times,
            "service": times,
            "cpu": CpuUse(replica_s=0.15, ingress_s=0, generator_s=0),
            "throttling": Throttling(periods=0, throttled_periods=0, throttled_s=0),
            "peak_memory_bytes": 1,
            "environment": "e",
        }
    )


def test_a_rung_is_read_from_a_measurement(make_stub: object) -> None:
    """Mean and spread of the response come from its histogram, vCPUs from all replicas."""
    rung = Rung.of(measurement(make_stub, "closed"))
    assert (rung.users, rung.completed, rung.vcpus) == (2, 10, 2)
    assert rung.response_s == pytest.approx(0.02, rel=1e-3)
    assert rung.response_cv == pytest.approx(0.5, rel=1e-3)
    assert rung.throughput_rps == pytest.approx(100)
    assert violations(rung) == []
    with pytest.raises(ValueError, match="closed-loop run, not a open"):
        Rung.of(measurement(make_stub, "open"))


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        (1_000, 2_000, None),
        (1_000, 1_050, None),  # about 5 %: nobody can say on which side
        (100_000, 101_000, LadderEnd.GAIN_SMALL),
        (100_000, 90_000, LadderEnd.THROUGHPUT_FELL),
        (1_000, 0, LadderEnd.NO_ANSWERS),
        (0, 0, None),  # the first rungs of a slow model may all be too short
    ],
)
def test_the_end_of_a_ladder_has_a_name(before: int, after: int, end: LadderEnd | None) -> None:
    """What the last doubling did to the throughput, and only for certain."""
    rung = replace(closed_loop(4, 1), counts=(), elapsed_s=10.0)
    previous, this = (replace(rung, completed=n) for n in (before, after))
    assert ladder_end(previous, this) == end
    assert (end is None) == (worth_doubling(previous, this) is not False)


@pytest.mark.parametrize(
    ("users", "before", "after", "end"),
    [
        (4, 95, 100, None),  # eight of one answer a second wait 8 s each
        (8, 95, 100, LadderEnd.TIMEOUT),  # sixteen wait 16
        (2, 10, 20, None),  # each other replica answers one more: four wait no longer than two
        (8, 200, 210, None),
    ],
)
def test_a_ladder_ends_before_everybody_times_out(
    users: int, before: int, after: int, end: LadderEnd | None
) -> None:
    """A rung of timeouts would be refused, after a time that nobody has."""
    rung = replace(closed_loop(users, 1), counts=(), elapsed_s=100.0)
    previous, this = (replace(rung, completed=n) for n in (before, after))
    assert ladder_end(previous, this, timeout_s=10.0) == end
    assert ladder_end(previous, this) is None
