"""A claim about a mix of batch sizes: judged over all of its requests, said, kept, compared."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from loadtests.arrivals import Mix, alike
from loadtests.histogram import Histogram
from loadtests.objective import Slo
from loadtests.records import CpuUse, LoadRun, Measurement
from loadtests.samples import Samples
from loadtests.schedule import make_schedule
from loadtests.summary import Workers, summarise
from loadtests.verdict import verdict_of
from planner.claim import Claim, of_another_plan
from planner.confirm import judge_confirmation
from planner.curve import predict_quantile
from planner.host_pace import pace
from planner.mixture import mixed
from planner.profile import build_profiles
from planner.records import ServiceProfile
from planner.reproof import Reproof
from planner.reprove import judge_reproof
from planner.track_record import TrackPoint
from serving.errors import BadInput

from .conftest import plan_of
from .test_claim import ENVIRONMENT, TODAY
from .test_reprove import endpoint

Build = Callable[..., Any]

MIX = Mix(batches=(1, 100), weights=(7, 3))
RATE = 40.0
CLASSES = np.array([0, 0, 0, 1])
LOW_S, HIGH_S = np.array([2e-3, 18e-3]), np.array([3e-3, 30e-3])
"""What a request of either class takes: evenly from 2 to 3 ms, and from 18 to 30."""


def served(run: LoadRun, seed: int) -> Samples:
    """The requests of a run by its own schedule, each with its batch's time, one at a time."""
    schedule = make_schedule(run, CLASSES)
    of = CLASSES[schedule.body]
    took = np.random.default_rng(seed).uniform(LOW_S[of], HIGH_S[of])
    done, free = np.empty(len(of)), 0.0
    for i, (due, own) in enumerate(zip(schedule.due_s, took, strict=True)):
        free = done[i] = max(due, free) + own
    n, no = len(of), np.zeros(len(of), dtype=bool)
    return Samples(
        due_s=schedule.due_s,
        sent_s=schedule.due_s,
        done_s=done,
        read_s=done,
        body=schedule.body,
        status=np.full(n, 200),
        error=np.full(n, ""),
        waited=no,
        own_cell=~no,
        inline=no,
        queue_s=done - took - schedule.due_s,
        service_s=took,
    )


def truth(seed: int = 9, n: int = 150_000) -> np.ndarray:
    """Latencies in seconds of that queue, written otherwise: by the event, each its own batch."""
    rng = np.random.default_rng(seed)
    events = [(t, 0) for t in np.cumsum(rng.exponential(1 / RATE, n))]
    heapq.heapify(events)
    waiting: list[float] = []
    busy, begun, found = False, 0.0, []
    while events:
        now, kind = heapq.heappop(events)
        if kind:
            found.append(now - begun)
            busy = False
        else:
            waiting.append(now)
        if waiting and not busy:
            busy, begun = True, waiting.pop(0)
            own = rng.uniform(2e-3, 3e-3) if rng.random() < 0.7 else rng.uniform(18e-3, 30e-3)
            heapq.heappush(events, (now + own, 1))
    return np.array(found)


@pytest.fixture(scope="module")
def p99_ms() -> float:
    return 1e3 * float(np.quantile(truth(), 0.99))


@pytest.fixture(scope="module")
def run(measurement: Build, variant: Build, instance: Build) -> Callable[..., Measurement]:
    """One redeployment that was driven with the mix, judged from its samples as a run is."""

    def make(seed: int, *slos: Slo, seconds: float = 500, **changes: Any) -> Measurement:
        asked = LoadRun(
            mode="open", batch=100, mix=MIX, duration_s=seconds, rate_rps=RATE, seed=seed
        )
        result = summarise(served(asked, seed), seconds, Workers(), classes=CLASSES)
        values: dict[str, Any] = {
            "id": f"r{seed}",
            "variant": variant("onnx_int8", sha256="a" * 64),
            "instance": instance("sim-1"),
            "run": asked,
            "elapsed_s": result.elapsed_s,
            "offered": result.offered,
            "ok": result.ok,
            "due_to_done": result.due_to_done,
            "environment": ENVIRONMENT.content_hash(),
            "verdicts": tuple(verdict_of(result, asked, slo, replicas=None) for slo in slos),
        }
        made: Measurement = measurement("open", completed_rps=RATE, **(values | changes))
        return made

    return make


@pytest.fixture(scope="module")
def asked(demand: Build) -> Callable[..., Any]:
    """The mix at its rate under a limit."""

    def make(limit_ms: float = 200.0, **changes: Any) -> Any:
        values: dict[str, Any] = {"batch": 100, "batch_range": (1, 100), "mix": MIX} | changes
        return demand(RATE, limit_ms, **values)

    return make


@pytest.fixture(scope="module")
def judge(asked: Build) -> Callable[..., Claim]:
    def make(*runs: Measurement, limit_ms: float = 200.0, **changes: Any) -> Claim:
        wanted = changes.pop("demand", None) or asked(limit_ms)
        verdicts = [v for r in runs for v in r.verdicts if v.slo == wanted.slo]
        given = {"config_hash": "c0ffee", "confirmed_on": TODAY, "verdicts": verdicts} | changes
        return judge_confirmation(runs, wanted, plan_of("sim-1", 1), ENVIRONMENT, **given)

    return make


@pytest.mark.parametrize(("times", "verdict"), [(1.5, "holds"), (0.75, "fails")])
def test_the_verdict_is_that_of_a_queue_that_knows_each_batch(
    run: Build, judge: Build, p99_ms: float, times: float, verdict: str
) -> None:
    """Over all requests, small ones behind large ones included, and only over those.

    Runs follow the schedule that the generator would get; the truth is another simulation. Of
    batches of 1 alone the p99 is 3 ms, of those of 100 alone there would be no steady queue.
    """
    slo = Slo(limit_ms=times * p99_ms)
    claim = judge(*(run(seed, slo) for seed in (1, 2, 3)), limit_ms=slo.limit_ms)
    assert claim.verdict == verdict
    assert claim.judged.measured_ms == pytest.approx(p99_ms, rel=0.1)
    assert claim.judged.n == pytest.approx(3 * 500 * RATE, rel=0.03)


def test_what_was_predicted_is_held_against_it(
    run: Build, judge: Build, profile: Build, p99_ms: float
) -> None:
    """From profiles of each batch alone; the point of the track record is about the mix."""
    parts: dict[int, ServiceProfile] = {}
    for batch, low, high in zip((1, 100), LOW_S, HIGH_S, strict=True):
        times = np.linspace(low, high, 400)
        parts[batch] = profile(
            capacity_rps=1 / times.mean(), batch=batch, service=Histogram.of(times), overhead_ms=0
        )
    predicted = predict_quantile(mixed(MIX, parts, 0), 1, RATE, 0.99, 0)
    assert predicted.low < p99_ms < predicted.high
    slo = Slo(limit_ms=200)
    claim = judge(run(1, slo), run(2, slo), run(3, slo), predicted=predicted)
    point = TrackPoint.of(claim, "credit")
    assert point is not None
    assert point.inside
    assert point.mix == MIX
    same = point.model_copy(update={"mix": None})
    assert same.proven != point.proven, "one of batch 100 alone was another thing to prove"
    assert "mix" not in same.model_dump_json()


SENTENCE = (
    "p99 <= 200 ms at 40 req/s of batch 1 (70 %), 100 (30 %) on 1 x sim-1 (cpuset) with onnx_int8: "
    "holds at 99 %, n = 6,000, 12 over, 3 deployments"
)


@pytest.fixture
def claim(run: Build, judge: Build) -> Claim:
    """Three times 2,000 requests, of which four were late each."""
    times = Histogram.of([0.01] * 1996 + [0.3] * 4)
    runs = (run(s, seconds=1, due_to_done=times, offered=2000, ok=2000) for s in (1, 2, 3))
    made: Claim = judge(*runs)
    return made


def test_the_sentence_names_the_mix(claim: Claim) -> None:
    """Shares of the weights, the smallest batch first, before the length of rows."""
    assert claim.sentence == SENTENCE
    rows = Claim.of(**(dict(claim) | {"length": 64}))
    assert " req/s of batch 1 (70 %), 100 (30 %) of 64 tokens on " in rows.sentence
    rare = Mix(batches=(6000, 1), weights=(1, 1999))
    assert str(rare) == "batch 1 (99.95 %), 6,000 (0.05 %)"


def test_its_file_comes_back_and_others_are_as_they_were(claim: Claim) -> None:
    """A claim without a mix has no word of it, so its hash is that of before there were any."""
    written = claim.model_dump_json()
    assert Claim.model_validate_json(written) == claim
    assert json.loads(written)["mix"]["batches"] == [1, 100]
    alone = Claim.of(**(dict(claim) | {"mix": None}))
    assert "mix" not in json.loads(alone.model_dump_json())
    assert alone.content_hash() != claim.content_hash()
    assert " req/s on 1 x sim-1" in alone.sentence
    other = Mix(batches=(1, 100), weights=(3, 7))
    with pytest.raises(ValidationError, match="does not follow"):
        Claim.model_validate(json.loads(written) | {"mix": other.model_dump()})


def test_it_is_about_that_mix_alone(claim: Claim, asked: Build) -> None:
    """The same shares in other words are the same; others, and one size alone, are not."""
    plans = [plan_of("sim-1", 1)]
    said = asked(mix=Mix(batches=(100, 1), weights=(0.3, 0.7)))
    assert of_another_plan(claim, said, plans) == []
    for mix in (Mix(batches=(1, 100), weights=(1, 1)), None):
        (why,) = of_another_plan(claim, asked(mix=mix), plans)
        assert ("batch 1 (50 %), 100 (50 %)" if mix else "of batch 100, 0 to spare") in why
    assert alike(None, None)
    assert not alike(MIX, None)


@pytest.mark.parametrize("had", [None, Mix(batches=(1, 100), weights=(1, 1))])
def test_runs_of_another_mix_are_refused(
    run: Build, judge: Build, asked: Build, had: Mix | None
) -> None:
    """A run of the largest batch alone is not one of the mix, and neither are other shares."""
    one = run(1, seconds=1)
    other = one.model_copy(update={"run": one.run.model_copy(update={"mix": had})})
    with pytest.raises(BadInput, match=r"the demand batch 1 \(70 %\), 100 \(30 %\)"):
        judge(other)
    alone = one.model_copy(update={"run": one.run.model_copy(update={"mix": None})})
    assert judge(alone, demand=asked(mix=None)).mix is None


def test_a_server_elsewhere_is_asked_the_same_mix(claim: Claim) -> None:
    """Its sentence names it; a run of one batch size does not belong to the claim."""

    def put(mix: Mix | None) -> Reproof:
        asked = LoadRun(mode="open", batch=100, mix=mix, duration_s=25, rate_rps=RATE)
        made = endpoint(1000, run=asked)
        slo = claim.slo
        verdicts = tuple(v.model_copy(update={"slo": slo}) for v in made.verdicts)
        runs = [made.model_copy(update={"verdicts": verdicts})]
        return judge_reproof(claim, runs, rate_rps=RATE, sha256=None, proven_on=TODAY)

    found = put(Mix(batches=(1, 100), weights=(0.7, 0.3)))
    assert "at 40 req/s of batch 1 (70 %), 100 (30 %) on credit_onnx_int8 at" in found.sentence
    assert Reproof.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(
        BadInput, match=r"a run of batch 100 at .* about batch 1 \(70 %\), 100 \(30 %\)"
    ):
        put(None)


def test_runs_of_a_mix_are_no_runs_of_its_largest_batch(measurement: Build, run: Build) -> None:
    """As evidence they would make a profile of batch 100 that is ten times as fast."""
    alone = [
        measurement(mode, service_ms=24.0, completed_rps=40.0, batch=100)
        for mode in ("paced", "closed")
    ]
    before = build_profiles(alone)
    changed = {"environment": alone[0].environment, "variant": alone[0].deployment.variant}
    assert build_profiles([*alone, run(1, seconds=20, **changed)]) == before


@pytest.fixture(scope="module")
def parts(profile: Build, variant: Build, instance: Build) -> dict[int, ServiceProfile]:
    of = {"variant": variant("onnx_int8"), "instance": instance("sim-1")}
    return {1: profile((2.5,), 400.0, batch=1, **of), 100: profile((24,), 41.0, batch=100, **of)}


def test_runs_of_the_mix_teach_its_mixture(parts: dict[int, ServiceProfile], run: Build) -> None:
    """One that used more CPU bounds the capacity; one replica's latencies are points of it."""
    before = mixed(MIX, parts, 0)
    spent = CpuUse(replica_s=0.8 * 20, ingress_s=0, generator_s=0)
    made = run(1, seconds=20, cpu=spent, elapsed_s=20, offered=800, ok=800)
    after = mixed(MIX, parts, 0, [made])
    assert after.capacity_rps == pytest.approx(40 / 0.8)
    assert after.capacity_rps < before.capacity_rps
    assert after.capacity_interval.low / after.capacity_rps == pytest.approx(
        before.capacity_interval.low / before.capacity_rps
    )
    assert len(after.measured_points) == len(before.measured_points) + 1
    two = made.model_copy(update={"deployment": made.deployment.model_copy(update={"replicas": 2})})
    assert mixed(MIX, parts, 0, [two]).measured_points == before.measured_points


def test_the_pace_of_a_mix_is_held_against_all_its_batches(measurement: Build) -> None:
    """CPU time of a request: 7 of 1 ms and 3 of 20 ms are 6.7 ms; without one batch, nothing."""

    def made(cpu_ms: float, batch: int, mix: Mix | None = None) -> Measurement:
        used = CpuUse(replica_s=10 * 40 * cpu_ms / 1e3, ingress_s=0, generator_s=0)
        one: Measurement = measurement("open", completed_rps=40, cpu=used, batch=batch)
        return one.model_copy(update={"run": one.run.model_copy(update={"mix": mix})})

    studied = [made(1.0, 1), made(20.0, 100)]
    assert pace([made(2 * 6.7, 100, MIX)], studied) == pytest.approx(2.0)
    assert pace([made(6.7, 100, MIX)], studied[1:]) is None
    assert pace([made(6.7, 100, MIX)], [*studied[:1], made(20.0, 100, MIX)]) is None
    assert pace([made(6.7, 100, MIX), made(6.7, 100)], studied) is None
