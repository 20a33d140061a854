"""Claims: judged by a rule whose answers are known, said in one sentence, and lapsing in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loadtests.histogram import Histogram
from loadtests.objective import Slo, SloVerdict, Verdict
from loadtests.records import Fault, FaultCode, Measurement
from planner.claim import (
    LAPSE_AFTER_DAYS,
    Claim,
    lapsed,
    lapsed_from_outside,
    of_another_plan,
)
from planner.confirm import judge_confirmation
from planner.pooled import judged
from planner.proving import held_share, recommend_instead
from planner.records import Demand, Interval, Plan, Recommendation
from planner.track_record import TrackPoint, TrackRecord
from serving.errors import BadInput, InvalidMeasurement
from serving.records import Environment

from .conftest import plan_of

Build = Callable[..., Any]

ENVIRONMENT = Environment(
    cpu_model="Example CPU",
    logical_cpus=2,
    threads_per_core=1,
    instruction_sets=("avx2",),
    memory_gib=8,
    kernel="6.1",
    governor=None,
    virtualised=True,
    python="3.11.2",
    packages={"onnxruntime": "1.31.1", "ray": "2.60.0"},
    enforcement="cgroup-v2",
    replica_cpus=(1,),
    platform_cpus=(0,),
    generator_priority="fifo",
    settings={"RAY_SERVE_ENABLE_HA_PROXY": "1"},
)
TODAY = date(2026, 3, 1)
FAST_MS, LATE_MS = 10.0, 80.0


@pytest.fixture(scope="module")
def run(measurement: Build, variant: Build, instance: Build) -> Callable[..., Measurement]:
    """Build one confirmation run: ``n`` requests fell due, ``over`` were late, ``lost`` failed."""

    def make(n: int, over: int = 0, lost: int = 0, rate: float = 60.0, **changes: Any) -> Any:
        answered = n - lost
        times = [FAST_MS / 1e3] * (answered - over) + [LATE_MS / 1e3] * over
        values: dict[str, Any] = {
            "variant": variant("onnx_int8", sha256="a" * 64),
            "instance": instance("sim-0.5"),
            "replicas": 2,
            "offered": n,
            "ok": answered,
            "errors": {"http_503": lost} if lost else {},
            "due_to_done": Histogram.of(times),
            "environment": ENVIRONMENT.content_hash(),
            "faults": (),
        }
        return measurement("open", completed_rps=rate, **(values | changes))

    return make


@pytest.fixture(scope="module")
def judge(demand: Build) -> Callable[..., Claim]:
    """Judge runs against p99 <= 50 ms at 60 req/s on 2 x sim-0.5."""

    def make(runs: Sequence[Measurement], **changes: Any) -> Claim:
        values: dict[str, Any] = {
            "demand": demand(60, 50, spare_replicas=changes.pop("spare", 0)),
            "plan": plan_of(),
            "environment": ENVIRONMENT,
            "config_hash": "c0ffee",
            "confirmed_on": TODAY,
        }
        if isinstance(changes.get("killed"), Measurement):
            changes["killed"] = [changes["killed"]]
        return judge_confirmation(runs, **(values | changes))

    return make


def test_the_sentence_is_that_of_the_issue(run: Build, judge: Build) -> None:
    """Word for word, with the figures of three deployments pooled."""
    claim = judge([run(1101, 4), run(1101, 4), run(1102, 4)])
    assert claim.sentence == (
        "p99 <= 50 ms at 60 req/s on 2 x sim-0.5 (quota) with onnx_int8: "
        "holds at 99 %, n = 3,304, 12 over, 3 deployments"
    )
    assert claim.verdict == "holds"
    assert claim.reason.endswith("is said of these deployments, not of the next one")
    assert claim.differs == ()
    assert [one.n for one in claim.each] == [1101, 1101, 1102]


def test_every_objective_and_the_error_budget_are_judged(
    run: Build, judge: Build, demand: Build
) -> None:
    """The same requests, each objective at a share of the doubt; the sentence names all."""
    median = Slo(quantile=0.5, limit_ms=20)
    asked = demand(60, 50, more_slos=(median,), error_budget=0.01)
    claim = judge([run(2000, 2), run(2000, 2), run(2000, 2, lost=1)], demand=asked)
    assert claim.verdict == "holds"
    assert claim.sentence == (
        "p99 <= 50 ms at 60 req/s on 2 x sim-0.5 (quota) with onnx_int8: "
        "holds at 99 %, n = 6,000, 7 over, 3 deployments; p50 <= 20 ms: holds, 7 over; "
        "at most 1 % fail: holds, 1 over"
    )
    assert of_another_plan(claim, asked, [plan_of()]) == []
    less = asked.model_copy(update={"error_budget": None})
    assert "p99 <= 50 ms, p50 <= 20 ms at 60 req/s" in of_another_plan(claim, less, [plan_of()])[0]


def test_one_objective_that_fails_fails_the_claim(run: Build, judge: Build, demand: Build) -> None:
    """However well the principal one holds; by the pool, or by one deployment alone."""
    slow = demand(60, 90, more_slos=(Slo(quantile=0.5, limit_ms=5),))
    claim = judge([run(2000)] * 3, demand=slow)
    assert (claim.judged.verdict, claim.verdict) == ("holds", "fails")
    assert claim.reason == "p50 <= 5 ms does not hold"
    budget = demand(60, 90, error_budget=0.001)
    refused = judge([run(9000), run(9000), run(9000, lost=30)], demand=budget)
    assert (refused.judged.verdict, refused.verdict) == ("holds", "fails")
    assert refused.beside[0].failed_alone == 1
    assert refused.reason == "at most 0.1 % fail does not hold"
    few = judge([run(600)] * 3, demand=budget)
    assert (few.judged.verdict, few.verdict) == ("holds", "undecided")
    assert few.reason == "too few requests, or too near the limit, for at most 0.1 % fail"
    assert few.more_requests is not None
    more = judge([run(600 + few.more_requests), run(600), run(600)], demand=budget)
    assert more.verdict == "holds"


@settings(max_examples=30, deadline=None)
@given(over=st.integers(0, 40), lost=st.integers(0, 40), budget=st.floats(1e-4, 0.1))
def test_a_budget_makes_nothing_easier_to_prove(
    run: Build, judge: Build, demand: Build, over: int, lost: int, budget: float
) -> None:
    """What holds with an error budget holds without one."""
    runs = [run(3000, over, lost)] * 3
    if judge(runs, demand=demand(60, 50, error_budget=budget)).verdict == "holds":
        assert judge(runs).verdict == "holds"


@pytest.mark.parametrize(
    ("n", "over", "verdict"),
    [
        (459, 0, "holds"),
        (458, 0, "undecided"),
        (1307, 5, "holds"),
        (1306, 5, "undecided"),
        (3304, 20, "holds"),
        (3303, 20, "undecided"),
        (1000, 30, "fails"),
    ],
)
def test_the_pool_follows_the_published_table(
    run: Build, judge: Build, n: int, over: int, verdict: str
) -> None:
    """LoadGen's required numbers for 0, 5 and 20 late requests, over three deployments."""
    parts = [(n + i) // 3 for i in range(3)]
    late = [(over + i) // 3 for i in range(3)]
    claim = judge([run(*pair) for pair in zip(parts, late, strict=True)])
    assert (claim.verdict, claim.judged.n, claim.judged.over) == (verdict, n, over)
    assert (claim.more_requests is not None) == (verdict == "undecided")


def test_it_says_how_many_requests_are_missing(run: Build, judge: Build) -> None:
    """Without a late one: as many as bring n to 459; on the limit itself, no number does."""
    claim = judge([run(100), run(100), run(100)])
    assert claim.more_requests == pytest.approx(159, abs=1)
    on_it = judge([run(1000, 10), run(1000, 10), run(1000, 10)])
    assert (on_it.verdict, on_it.more_requests) == ("undecided", None)


def test_verdicts_are_rarely_wrong(run: Build, judge: Build) -> None:
    """50 claims each: with 1.5 % late none holds; with 0.5 % hardly one fails, and most hold."""
    rng = np.random.default_rng(1)
    seen: dict[float, list[str]] = {0.015: [], 0.005: []}
    for share, verdicts in seen.items():
        for _ in range(50):
            late = rng.binomial(1000, share, 3).tolist()
            verdicts.append(judge([run(1000, k) for k in late]).verdict)
    assert seen[0.015].count("holds") == 0
    assert seen[0.005].count("fails") <= 1
    assert seen[0.005].count("holds") > 25


def verdict_of(n: int, effective: float, over: int = 0, **changes: Any) -> SloVerdict:
    values: dict[str, Any] = {
        "slo": Slo(limit_ms=50),
        "verdict": Verdict.UNDECIDED,
        "reason": "",
        "n": n,
        "over": over,
        "share_over": over / n,
        "quantile_ms": None,
        "quantile_error": None,
        "effective_n": effective,
        "replayed": False,
        "backlog_growing": False,
        "confidence": 0.99,
    }
    return SloVerdict(**(values | changes))


def test_correlated_requests_count_for_less(run: Build, judge: Build) -> None:
    """A fifth of each run's number is effective, and of the pool's; independent ones would hold."""
    runs = [run(500), run(500), run(500)]
    verdict = verdict_of(500, 100)
    claim = judge(runs, verdicts=[verdict] * 3)
    assert judge(runs).verdict == "holds"
    assert (claim.verdict, claim.judged.effective_n) == ("undecided", pytest.approx(300))
    assert claim.more_requests == pytest.approx(5 * 159, rel=0.02)
    with pytest.raises(BadInput, match="2 verdicts for 3 runs"):
        judge(runs, verdicts=[verdict] * 2)


def test_a_run_that_says_little_weighs_as_much_in_the_pool(run: Build, judge: Build) -> None:
    """Three runs of 2,400 that count for 2,400, 240 and 240 say as much as 1,029, not 2,880."""
    verdicts = [verdict_of(2400, e) for e in (2400, 240, 240)]
    claim = judge([run(2400)] * 3, verdicts=verdicts)
    assert claim.judged.effective_n == pytest.approx(9 * 2400 / (1 + 10 + 10))


@given(
    runs=st.lists(st.tuples(st.integers(1, 10**5), st.floats(0.01, 1)), min_size=1, max_size=6),
    share=st.floats(0.001, 0.5),
)
def test_the_pool_has_the_variance_of_a_weighted_mean(
    runs: list[tuple[int, float]], share: float
) -> None:
    """Var(sum w s) is sum w^2 p(1 - p)/e, and never more than the numbers added up."""
    verdicts = [verdict_of(n, part * n) for n, part in runs]
    total = sum(n for n, _ in runs)
    variance = sum((n / total) ** 2 * share * (1 - share) / (part * n) for n, part in runs)
    pool = judged([], verdicts, Slo(limit_ms=50), 0.99)
    assert share * (1 - share) / pool.effective_n == pytest.approx(variance)
    assert pool.effective_n <= sum(v.effective_n for v in verdicts) * (1 + 1e-9)


def test_one_deployment_that_fails_is_enough(run: Build, judge: Build) -> None:
    """Two lucky deployments do not make up for it, though the pool would hold."""
    claim = judge([run(20_000), run(20_000), run(1000, 40)])
    assert claim.judged.verdict == "holds"
    assert (claim.verdict, claim.reason) == ("fails", "1 of 3 deployments fail by themselves")


def test_too_few_redeployments_prove_nothing(run: Build, judge: Build) -> None:
    """However many requests one deployment answered; but it can fail."""
    claim = judge([run(10_000), run(10_000)])
    assert (claim.verdict, claim.reason) == ("undecided", "2 of 3 redeployments are made")
    assert claim.more_requests is None
    assert judge([run(10_000, 300)]).verdict == "fails"


def test_failed_requests_are_late(run: Build, judge: Build) -> None:
    """Of 1,000 requests 30 were never answered: that is no p99 of 10 ms."""
    claim = judge([run(1000, lost=30), run(1000), run(1000)])
    assert claim.verdict == "fails"
    assert claim.judged.over == 30
    assert claim.judged.measured_ms == pytest.approx(FAST_MS, rel=0.01)  # of all three
    assert claim.each[0].measured_ms is None


def test_a_growing_backlog_is_a_failure_and_other_faults_are_not_an_answer(
    run: Build, judge: Build
) -> None:
    """What fell behind fails, however its latencies look; a noisy host proves nothing."""
    grown = Fault(code=FaultCode.BACKLOG_GROWING, detail="200 more waiting")
    noisy = Fault(code=FaultCode.NOISY_HOST, detail="12 % steal")
    claim = judge([run(5000), run(5000), run(5000, faults=(grown,))])
    assert claim.verdict == "fails"
    with pytest.raises(InvalidMeasurement, match="noisy_host: 12 % steal; repeat it"):
        judge([run(5000), run(5000), run(5000, faults=(noisy,))])


@pytest.mark.parametrize(("spare", "verdict"), [(0, "holds"), (1, "fails")])
def test_a_killed_replica_counts_where_the_demand_has_spares(
    run: Build, judge: Build, spare: int, verdict: str
) -> None:
    """Judged by itself and named in the sentence; its own errors are no fault of the run."""
    faults = (
        Fault(code=FaultCode.REPLICA_CHANGED, detail="1 of 2 gone"),
        Fault(code=FaultCode.ERRORS, detail="3 x http_503"),
    )
    good = [run(2000), run(2000), run(2000)]
    killed = run(2000, over=90, lost=3, faults=faults)
    claim = judge(good, killed=killed, spare=spare)
    assert claim.verdict == verdict
    assert claim.judged.n == 6000
    assert claim.sentence.endswith("; with a replica killed: fails, n = 2,000, 93 over")
    assert judge(good, killed=run(2000, faults=faults), spare=spare).verdict == "holds"
    missing = judge(good, spare=1)
    assert (missing.verdict, missing.reason) == (
        "undecided",
        "the run with a killed replica is missing",
    )
    with pytest.raises(InvalidMeasurement, match="replica_changed"):
        judge([*good[:2], run(2000, faults=faults)])


def test_requests_late_after_a_loss_are_late_together(run: Build, judge: Build) -> None:
    """25 of 1,000 fail if each was late by itself; as one cluster they prove nothing."""
    gone = (Fault(code=FaultCode.REPLICA_CHANGED, detail="gone"),)
    apart = run(1000, over=25, faults=gone)
    together = apart.model_copy(update={"verdicts": (verdict_of(1000, 40, over=25),)})
    assert judge([run(2000)] * 3, killed=apart).killed.verdict == "fails"
    claim = judge([run(2000)] * 3, killed=together)
    assert (claim.killed.verdict, claim.killed.effective_n) == ("undecided", 40)
    with pytest.raises(BadInput, match="has no verdict"):
        judge([run(2000)] * 3, killed=apart, verdicts=[verdict_of(2000, 400)] * 3)


@pytest.mark.parametrize(("spare", "verdict"), [(0, "holds"), (1, "undecided")])
def test_a_loss_that_proves_nothing_is_no_proof(
    run: Build, judge: Build, spare: int, verdict: str
) -> None:
    """458 requests in time are one too few, however clearly the deployments hold."""
    gone = (Fault(code=FaultCode.REPLICA_CHANGED, detail="gone"),)
    claim = judge([run(2000)] * 3, killed=run(458, faults=gone), spare=spare)
    assert (claim.verdict, claim.more_requests) == (verdict, None)
    assert ("with a replica killed the requests are too few" in claim.reason) == bool(spare)
    assert judge([run(2000)] * 3, killed=run(459, faults=gone), spare=spare).verdict == "holds"


def test_a_loss_is_judged_once_in_every_attempt(run: Build, judge: Build) -> None:
    """528 requests in time are enough in the first attempt, and 597 after one was discarded."""
    gone = (Fault(code=FaultCode.REPLICA_CHANGED, detail="gone"),)
    for discarded, fewest in ((0, 528), (1, 597)):
        for n, verdict in ((fewest, "holds"), (fewest - 1, "undecided")):
            killed, looked = run(n, faults=gone), {"look": 1 + discarded, "discarded": discarded}
            claim = judge([run(2000)] * 3, killed=killed, spare=1, **looked)
            assert (claim.verdict, claim.killed.verdict) == (verdict, verdict)


def test_losses_are_judged_together(run: Build, judge: Build) -> None:
    """300 requests in time after a loss are too few, twice as many at the second look enough."""
    gone = (Fault(code=FaultCode.REPLICA_CHANGED, detail="gone"),)
    once = judge([run(2000)] * 3, killed=run(300, faults=gone), spare=1, look=1)
    assert (once.verdict, once.more_requests) == ("undecided", None)
    assert once.more_lost_requests == pytest.approx(597 - 300, abs=2)
    twice = judge([run(2000)] * 3, killed=[run(300, faults=gone)] * 2, spare=1, look=1)
    assert (twice.verdict, twice.more_lost_requests, twice.losses) == ("holds", None, 2)
    assert "; with a replica killed 2 times: holds, n = 600, 0 over" in twice.sentence


def test_a_loss_is_judged_by_all_objectives(run: Build, judge: Build, demand: Build) -> None:
    """Late medians and failed requests after a loss count as well; without a spare they do not."""
    gone = (Fault(code=FaultCode.REPLICA_CHANGED, detail="gone"),)
    median, runs = Slo(quantile=0.5, limit_ms=FAST_MS / 2), [run(4000)] * 3
    late = Slo(quantile=0.9, limit_ms=50)

    def claimed(killed: Measurement, spare: int, **asked: Any) -> Claim:
        wanted = demand(60, 50, spare_replicas=spare, quantile=0.8, **asked)
        return judge(runs, killed=killed, demand=wanted)

    slow = run(4000, over=600, faults=gone)  # 15 %: less than a fifth, more than a tenth
    claim = claimed(slow, 1, more_slos=(late,))
    assert claim.killed is not None
    assert claim.killed.verdict == "holds"
    assert [(b.slo, b.judged.verdict) for b in claim.killed_beside] == [(late, "fails")]
    assert (claim.verdict, claim.reason) == (
        "fails",
        f"with a replica killed, {late} does not hold",
    )
    assert claim.sentence.endswith(f"600 over; {late}: fails, 600 over")
    assert claimed(slow, 0, more_slos=(late,)).verdict == "holds"
    budget = claimed(run(4000, lost=80, faults=gone), 1, error_budget=0.005)
    assert budget.reason == "with a replica killed, at most 0.5 % fail does not hold"
    near = claimed(run(60, over=6, faults=gone), 1, more_slos=(late,))
    assert near.verdict == "undecided"
    assert near.more_lost_requests is None or near.more_lost_requests > 0
    both = claimed(run(4000, faults=gone), 1, more_slos=(late,), error_budget=0.005)
    assert (both.verdict, len(both.killed_beside)) == ("holds", 2)
    assert both.killed_beside[0].judged.n == 4000
    assert median.limit_ms < FAST_MS
    assert (
        claimed(run(4000, faults=gone), 1, more_slos=(median,)).reason == f"{median} does not hold"
    )


def test_what_is_not_killed_says_why(
    run: Build, judge: Build, demand: Build, variant: Build, instance: Build
) -> None:
    """One replica alone cannot lose another: the claim holds, and says what it does not show."""
    alone = [run(2000, replicas=1, rate=30) for _ in range(3)]
    claim = judge(alone, spare=1, not_killed="one replica only")
    assert claim.verdict == "holds"
    assert claim.sentence.endswith("; no replica was killed: one replica only")
    assert any("of the 2 replicas 1 are to spare" in line for line in claim.differs)
    killed = run(2000, faults=(Fault(code=FaultCode.REPLICA_CHANGED, detail="gone"),))
    assert "no replica was killed" not in judge([run(2000)] * 3, killed=killed).sentence
    with pytest.raises(InvalidMeasurement, match="no replica ended"):
        judge([run(2000)] * 3, killed=run(2000))


def test_a_share_loses_its_share(run: Build, judge: Build, demand: Build) -> None:
    """Of 4 replicas 2 are held: what is left when one is killed carries a third of the rate."""
    gone = (Fault(code=FaultCode.REPLICA_CHANGED, detail="gone"),)
    wanted = {"plan": plan_of(replicas=4), "demand": demand(120, 50, spare_replicas=1)}
    claim = judge([run(2000)] * 3, killed=run(2000, rate=40, faults=gone), **wanted)
    assert (claim.verdict, claim.held_rps, claim.killed_rps) == ("holds", 60, 40)
    assert "; with a replica killed at 40 req/s: holds, n = 2,000, 0 over" in claim.sentence
    with pytest.raises(BadInput, match="driven at 39 req/s, its share of the demand is 40"):
        judge([run(2000)] * 3, killed=run(2000, rate=39, faults=gone), **wanted)


def test_failed_requests_are_an_answer(run: Build, judge: Build) -> None:
    """The fault that names them does not make a run invalid: they are counted as late."""
    errors = (Fault(code=FaultCode.ERRORS, detail="30 x http_503"),)
    few = (Fault(code=FaultCode.ERRORS, detail="3 x http_503"),)
    assert judge([run(1000, lost=30, faults=errors)] * 3).verdict == "fails"
    claim = judge([run(2000, lost=3, faults=few)] * 3)
    assert (claim.verdict, claim.judged.over) == ("holds", 9)


def test_a_warm_up_that_was_cut_off_is_not_late(run: Build, judge: Build) -> None:
    """Histograms begin behind the warm-up, counts do not: 100 answered requests are not judged."""
    claim = judge([run(1900, offered=2000, ok=2000) for _ in range(3)])
    assert (claim.judged.n, claim.judged.over) == (5700, 0)
    assert claim.judged.measured_ms == pytest.approx(FAST_MS, rel=0.01)


def test_every_look_needs_more_than_one_alone(run: Build, judge: Build) -> None:
    """459 requests hold when judged once; the first look of a series takes 527, the next 597."""
    for look, fewest in ((0, 459), (1, 528), (2, 597)):
        enough = [run(fewest - 2 * (fewest // 3)), *[run(fewest // 3)] * 2]
        assert judge(enough, look=look).verdict == "holds", look
        few = [run(fewest - 2 * (fewest // 3) - 1), *[run(fewest // 3)] * 2]
        assert judge(few, look=look).verdict == "undecided", look
    assert judge([run(100)] * 3, look=1).more_requests == pytest.approx(597 - 300, abs=2)


def test_a_share_of_a_plan_says_so(run: Build, judge: Build, demand: Build) -> None:
    """Two of six replicas at a third of the rate, elsewhere than recommended."""
    elsewhere = plan_of().candidate.model_copy(update={"instance": "c7i.large"})
    plan = plan_of(replicas=6, candidate=elsewhere, instances=3, price_basis="0.1 USD/h")
    held = held_share(plan, 180, 2)
    assert (held.replicas, held.rate_rps) == (2, 60)
    assert held_share(plan, 180, 99) == (6, 180)
    claim = judge([run(2000)] * 3, plan=plan, demand=demand(180, 50))
    assert "at 60 req/s on 2 x sim-0.5 (quota) with onnx_int8 " in claim.sentence
    assert "(2 of 6 replicas at 2/6 of 180 req/s): holds" in claim.sentence
    share, host = claim.differs
    assert "2 of 6 replicas were held" in share
    assert host == "confirmed on Example CPU, recommended on 3 x c7i.large; 0.1 USD/h"
    # Two queue more than six: what this share does not hold says little of the whole.
    unfair = Interval(low=40, mid=52, high=61)
    asked = {"plan": plan, "demand": demand(180, 50)}
    _, why, _ = judge([run(2000)] * 3, predicted=unfair, **asked).differs
    assert "predicted to take up to 61 ms, over the limit of 50 ms" in why
    fair = Interval(low=40, mid=45, high=49)
    assert len(judge([run(2000)] * 3, predicted=fair, **asked).differs) == 2


def test_runs_that_do_not_belong_are_refused(
    run: Build, judge: Build, variant: Build, instance: Build, measurement: Build
) -> None:
    """Each with what to change: environment, rate, batch, loop, deployment, plan."""
    good = [run(2000), run(2000)]
    cases = [
        ([], "no confirmation run"),
        ([*good, run(2000, environment="e2")], "run all of them in one"),
        ([*good, run(2000, rate=50)], "driven at 50 req/s, its share of the demand is 60"),
        ([*good, run(2000, batch=7)], "has batch 7, the demand 1"),
        ([*good, of_length(good[0], 64)], "has length 64, the demand None"),
        ([*good, run(2000, replicas=1)], "redeploy the same one"),
        ([run(2000, variant=variant("onnx_fp32"))], "onnx_int8 on sim-0.5 with 1 threads"),
        ([run(2000, instance=instance("sim-1"))], "sim-0.5"),
        ([run(2000, replicas=3)], "3 replicas were run, the plan has 2"),
        ([run(2000, run=measurement("closed").run)], "closed-loop; only open-loop"),
    ]
    for runs, says in cases:
        with pytest.raises(BadInput, match=says):
            judge(runs)


def of_length(run: Measurement, length: int) -> Measurement:
    return run.model_copy(update={"run": run.run.model_copy(update={"length": length})})


def test_a_claim_about_rows_of_a_length_says_so(run: Build, judge: Build, demand: Build) -> None:
    """In its sentence and its point of the track record; of another length it is no claim."""
    asked = demand(60, 50, length=64)
    claim = judge(
        [of_length(run(2000), 64)] * 3, demand=asked, predicted=Interval(low=5, mid=10, high=20)
    )
    assert "at 60 req/s of 64 tokens on 2 x sim-0.5 (quota)" in claim.sentence
    point = TrackPoint.of(claim, "bert")
    assert point is not None
    assert point.length == 64
    (reason,) = of_another_plan(claim, asked.model_copy(update={"length": 128}), [plan_of()])
    assert "of batch 1 of 128 tokens, 0 to spare, is demanded now" in reason
    assert of_another_plan(claim, asked, [plan_of()]) == []


@settings(max_examples=60, deadline=None)
@given(
    late=st.lists(st.integers(0, 60), min_size=3, max_size=3),
    more=st.integers(0, 30),
    order=st.permutations([0, 1, 2]),
)
def test_more_late_requests_never_help(
    run: Build, judge: Build, late: list[int], more: int, order: list[int]
) -> None:
    """Holds, undecided, fails: the verdict only falls; the order of deployments is nothing."""
    rank = {"holds": 0, "undecided": 1, "fails": 2}
    runs = [run(900, k) for k in late]
    worse = [run(900, late[0] + more), *runs[1:]]
    assert rank[judge(runs).verdict] <= rank[judge(worse).verdict]
    assert judge([runs[i] for i in order]).judged == judge(runs).judged


@pytest.fixture
def claim(run: Build, judge: Build) -> Claim:
    made: Claim = judge([run(2000, 3)] * 3, predicted=Interval(low=8, mid=12, high=20))
    return made


def test_a_claim_is_a_file(claim: Claim) -> None:
    """It reads back as it was written, and its sentence cannot be changed alone."""
    text = claim.model_dump_json()
    assert Claim.model_validate_json(text) == claim
    with pytest.raises(ValidationError, match="the sentence does not follow"):
        Claim.model_validate_json(text.replace("3 deployments", "9 deployments"))
    assert claim.content_hash() == Claim.model_validate_json(text).content_hash()


def test_a_claim_lapses_for_what_it_says(claim: Claim, variant: Build) -> None:
    """Model, versions, host, settings, age: each by itself, none while nothing changed."""
    same = variant("onnx_int8", sha256="a" * 64)
    assert lapsed(claim, TODAY, ENVIRONMENT, same) == []
    last = TODAY + timedelta(days=LAPSE_AFTER_DAYS)
    assert lapsed(claim, last, ENVIRONMENT, same) == []
    (old,) = lapsed(claim, last + timedelta(days=1), ENVIRONMENT, same)
    assert old == f"confirmed on 2026-03-01, {LAPSE_AFTER_DAYS + 1} days ago, and good for 180"
    (model,) = lapsed(claim, TODAY, ENVIRONMENT, variant("onnx_int8", sha256="b" * 64))
    assert "sha256 aaaaaaaaaaaa was confirmed, this is bbbbbbbbbbbb" in model
    changes: list[tuple[dict[str, Any], str]] = [
        ({"packages": {"onnxruntime": "1.32", "ray": "2.60.0"}}, "onnxruntime 1.31.1 became 1.32"),
        ({"packages": {"ray": "2.60.0"}}, "onnxruntime 1.31.1 became absent"),
        ({"python": "3.12.1"}, "Python 3.11.2 became 3.12.1"),
        ({"cpu_model": "Other"}, "CPU: Example CPU became Other"),
        ({"instruction_sets": ("avx2", "amx")}, "instruction sets: avx2 became avx2, amx"),
        ({"enforcement": "affinity"}, "enforcement: cgroup-v2 became affinity"),
        ({"settings": {}}, "RAY_SERVE_ENABLE_HA_PROXY=1 became unset"),
    ]
    for change, says in changes:
        assert lapsed(claim, TODAY, ENVIRONMENT.model_copy(update=change), same) == [says]
    assert lapsed_from_outside(claim, TODAY, None) == []
    assert lapsed_from_outside(claim, TODAY, same.sha256) == []
    assert lapsed_from_outside(claim, last + timedelta(days=1), "b" * 64) == [model, old]
    assert len(claim.lapses) == 5
    assert "aaaaaaaaaaaa" in claim.lapses[0]


def test_a_claim_has_a_day(claim: Claim) -> None:
    """One edited by hand to none is no record, and never gets to what computes its age."""
    text = claim.model_dump_json()
    assert '"confirmed_on":"2026-03-01"' in text
    with pytest.raises(ValidationError, match="confirmed_on"):
        Claim.model_validate_json(text.replace("2026-03-01", "last spring"))


def test_predictions_are_held_against_what_was_measured(claim: Claim, judge: Build) -> None:
    """Inside or not, and by how much; undecided ones, too; nothing where nothing was predicted."""
    point = TrackPoint.of(claim, "credit")
    assert point is not None
    assert (point.inside, point.verdict, point.replicas) == (True, "holds", 2)
    assert point.measured_ms == pytest.approx(FAST_MS, rel=0.01)
    assert point.error == pytest.approx(0.2, abs=0.01)
    missed = claim.model_copy(update={"predicted": Interval(low=11, mid=12, high=13)})
    outside = TrackPoint.of(missed, "credit")
    assert outside is not None
    assert not outside.inside
    assert TrackPoint.of(claim.model_copy(update={"predicted": None}), "credit") is None
    open_ = TrackPoint.of(claim.model_copy(update={"verdict": "undecided"}), "credit")
    assert open_ is not None
    assert TrackRecord(points=(open_,)).points == (open_,)
    assert TrackRecord(points=(open_, outside, point)).points == (outside, point), "it went on"
    record = TrackRecord(points=(point, outside, point))
    assert (record.misses, record.share_inside) == ((outside,), pytest.approx(2 / 3))
    assert record.median_absolute_error == pytest.approx(0.2, abs=0.01)
    assert not record.lacks(point)
    empty = TrackRecord(points=())
    assert (empty.share_inside, empty.median_absolute_error) == (None, None)
    assert empty.lacks(point)


def test_what_failed_is_not_recommended_again(demand: Callable[..., Demand]) -> None:
    """Neither the plan nor another made from the profile that was just found wrong."""

    def other(variant: str, instance: str) -> Plan:
        update = {"variant": variant, "instance": instance}
        return plan_of(candidate=plan_of().candidate.model_copy(update=update))

    best, same, next_best = (
        other("onnx_int8", "a"),
        other("onnx_int8", "b"),
        other("onnx_fp32", "a"),
    )
    answer = Recommendation(
        demand=demand(), best=best, alternatives=(same, next_best), rejections=()
    )
    assert recommend_instead(answer, best.candidate, best.replicas) == next_best
    alone = answer.model_copy(update={"alternatives": (same,)})
    assert recommend_instead(alone, best.candidate, best.replicas) is None
    more = same.model_copy(update={"replicas": 3})
    larger = answer.model_copy(update={"alternatives": (more,)})
    assert recommend_instead(larger, best.candidate, best.replicas) == more
