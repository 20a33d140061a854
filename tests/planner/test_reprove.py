"""A claim put to a server of which only the answers are seen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from loadtests.histogram import Histogram
from loadtests.objective import Slo, SloVerdict, Verdict
from loadtests.records import EndpointMeasurement, Fault, FaultCode, LoadRun, Measurement
from loadtests.steady import Steady
from planner.claim import Beside, Claim
from planner.confirm import judge_confirmation
from planner.reproof import Reproof
from planner.reprove import judge_reproof
from serving.errors import BadInput, InvalidMeasurement
from serving.records import Environment

from .conftest import plan_of

Build = Callable[..., Any]
TODAY = date(2026, 3, 1)


def endpoint(n: int, late: int = 0, rate: float = 60.0, **changes: Any) -> EndpointMeasurement:
    times = Histogram.of([0.01] * (n - late) + [0.08] * late)
    values: dict[str, Any] = {
        "url": "http://staging:8000",
        "model_name": "credit_onnx_int8",
        "run": LoadRun(mode="open", batch=1, duration_s=n / rate, rate_rps=rate),
        "started_at": "",
        "elapsed_s": n / rate,
        "offered": n,
        "ok": n,
        "steady": Steady(index=0, steady=True, reason=""),
        "due_to_done": times,
        "sent_to_done": times,
        "dispatch_lag": times,
        "generator_cpu_s": 1,
    }
    values |= changes
    unanswered = values["offered"] - values["ok"]
    judged = SloVerdict(
        slo=Slo(limit_ms=50),
        verdict=Verdict.UNDECIDED,
        reason="",
        n=n + unanswered,
        over=late + unanswered,
        share_over=(late + unanswered) / (n + unanswered),
        quantile_ms=None,
        quantile_error=None,
        effective_n=n + unanswered,
        replayed=False,
        backlog_growing=False,
        confidence=0.99,
    )
    return EndpointMeasurement(**({"verdicts": (judged,)} | values))


@pytest.fixture
def claim(measurement: Build, variant: Build, instance: Build, demand: Build) -> Claim:
    """p99 <= 50 ms at 60 req/s on 1 x sim-1, three times 2,000 requests."""
    plan = plan_of("sim-1", 1)
    environment = Environment(
        cpu_model="Example CPU",
        logical_cpus=2,
        threads_per_core=1,
        instruction_sets=(),
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
        settings={},
    )
    run: Measurement = measurement(
        "open",
        completed_rps=60.0,
        variant=variant("onnx_int8", sha256="a" * 64),
        instance=instance("sim-1"),
        due_to_done=Histogram.of([0.01] * 600),
        environment=environment.content_hash(),
    )
    return judge_confirmation(
        [run] * 3, demand(60, 50), plan, environment, config_hash="c", confirmed_on=TODAY
    )


@pytest.fixture
def judge(claim: Claim) -> Callable[..., Reproof]:
    """Judge runs at the claim's rate."""

    def make(*runs: EndpointMeasurement, **changes: Any) -> Reproof:
        values = {"rate_rps": 60.0, "sha256": None, "proven_on": TODAY}
        return judge_reproof(claim, runs, **(values | changes))

    return make


def test_the_sentence_says_where_and_how_often(judge: Callable[..., Reproof]) -> None:
    """One deployment as it stands, at the confidence of the claim over all looks."""
    found = judge(endpoint(1000, 1), endpoint(500))
    assert found.sentence == (
        "p99 <= 50 ms at 60 req/s on credit_onnx_int8 at http://staging:8000: holds at 99 %, "
        "n = 1,500, 1 over, 1 deployment as it stands"
    )
    assert (found.looks, found.verdict) == (2, "holds")
    with pytest.raises(ValidationError, match="does not follow"):
        Reproof.model_validate_json(found.model_dump_json().replace("1 over", "0 over", 1))


@pytest.mark.parametrize(
    ("n", "late", "verdict"), [(528, 0, "holds"), (527, 0, "undecided"), (1000, 40, "fails")]
)
def test_the_first_look_takes_528_requests(
    judge: Callable[..., Reproof], n: int, late: int, verdict: str
) -> None:
    """As every series of looks does; what is missing is said while it is undecided."""
    found = judge(endpoint(n, late))
    assert found.verdict == verdict
    assert (found.more_requests is not None) == (verdict == "undecided")


def test_what_cannot_be_seen_is_said(judge: Callable[..., Reproof]) -> None:
    """The model's hash where the server does not tell it; size, versions and CPU in any case."""
    unseen = judge(endpoint(1000)).unchecked
    assert "aaaaaaaaaaaa" in unseen[0]
    seen = judge(endpoint(1000), sha256="a" * 64).unchecked
    assert seen == unseen[1:]
    for word in ("1 replica of sim-1 (cpuset)", "onnxruntime, ray", "Example CPU", "as it stands"):
        assert any(word in line for line in seen)


def test_a_server_that_falls_behind_fails(judge: Callable[..., Reproof]) -> None:
    """However its latencies look; failed requests are late, and no fault of the run."""
    grown = (Fault(code=FaultCode.BACKLOG_GROWING, detail="200 more"),)
    assert judge(endpoint(5000, faults=grown)).verdict == "fails"
    errors = (Fault(code=FaultCode.ERRORS, detail="60 x http_503"),)
    assert judge(endpoint(940, offered=1000, faults=errors)).verdict == "fails"


def test_the_length_of_rows_cannot_be_seen(claim: Claim, judge: Callable[..., Reproof]) -> None:
    """A claim about rows of 64 tokens says that nothing checks what was sent."""
    told = "that the rows it was asked have 64 tokens, as those of the claim"
    of_rows = Claim.of(**(dict(claim) | {"length": 64}))
    found = judge_reproof(of_rows, [endpoint(1000)], rate_rps=60.0, sha256=None, proven_on=TODAY)
    assert told in found.unchecked
    assert told not in judge(endpoint(1000)).unchecked


def test_all_objectives_of_the_claim_are_put_to_the_server(claim: Claim) -> None:
    """One that does not hold fails the claim; one that is open leaves it so, with what it takes."""
    p50, few = Slo(quantile=0.5, limit_ms=20), Slo.answered(0.001)
    whole = Claim.of(
        **(dict(claim) | {"beside": tuple(Beside(slo=s, judged=claim.judged) for s in (p50, few))})
    )

    def put(slow: int, failed: int) -> Reproof:
        run = endpoint(4000 - slow)
        (first,) = run.verdicts
        n = {p50: slow, few: failed}
        more = [first.model_copy(update={"slo": s, "n": 4000, "over": k, "share_over": k / 4000})
                for s, k in n.items()]  # fmt: skip
        judged = [one.model_copy(update={"effective_n": 4000}) for one in (first, *more)]
        asked = run.model_copy(update={"verdicts": tuple(judged)})
        return judge_reproof(whole, [asked], rate_rps=60.0, sha256=None, proven_on=TODAY)

    # None failed of 4,000; at a third of what the second look leaves, .083 %, it takes 7,087.
    open_one = put(0, 0)
    assert open_one.verdict == "undecided"
    assert "at most 0.1 % fail" in open_one.reason
    assert open_one.more_requests == pytest.approx(3087, abs=5)
    assert "; p50 <= 20 ms: holds, 0 over; at most 0.1 % fail: undecided" in open_one.sentence
    assert (put(3000, 0).verdict, put(0, 40).verdict) == ("fails", "fails")
    assert "p50 <= 20 ms does not hold" in put(3000, 0).reason
    assert not any("judged beside" in line for line in open_one.unchecked)
    with pytest.raises(BadInput, match="0 verdicts on p50 <= 20 ms for 1 runs"):
        judge_reproof(whole, [endpoint(4000)], rate_rps=60.0, sha256=None, proven_on=TODAY)


def test_runs_that_prove_nothing_are_refused(judge: Callable[..., Reproof]) -> None:
    """Invalid ones, none at all, unjudged ones, and those of another batch, rate or server."""
    lag = (Fault(code=FaultCode.DISPATCH_LAG, detail="p99 9 ms"),)
    with pytest.raises(InvalidMeasurement, match="dispatch_lag: p99 9 ms; repeat it"):
        judge(endpoint(1000, faults=lag))
    with pytest.raises(BadInput, match="no run"):
        judge()
    with pytest.raises(BadInput, match="1 verdicts on p99 <= 50 ms for 2 runs"):
        judge(endpoint(1000), endpoint(1000, verdicts=()))
    other = LoadRun(mode="open", batch=7, duration_s=1, rate_rps=60)
    for run in (endpoint(1000, run=other), endpoint(1000, rate=59)):
        with pytest.raises(BadInput, match="does not belong"):
            judge(run)
    with pytest.raises(BadInput, match="does not belong"):
        judge(endpoint(1000), endpoint(1000, url="http://other"))


def test_the_objective_is_the_claims(judge: Callable[..., Reproof]) -> None:
    """Another one that a run was also judged by says nothing here."""
    assert judge(endpoint(1000)).slo == Slo(limit_ms=50)
