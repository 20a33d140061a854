"""One load test in words."""

from __future__ import annotations

import pytest

from loadtests.arrivals import Constant, Mix, Ramp, Recorded, Step, Steps
from loadtests.histogram import Histogram
from loadtests.max_load import MaxLoad, Searched, StopReason
from loadtests.objective import Slo, SloVerdict, Verdict
from loadtests.quantiles import interval_of
from loadtests.records import EndpointMeasurement, Fault, FaultCode, LoadRun
from loadtests.steady import Steady
from reports.bundle import Bundle
from reports.measured import batches_in_words, load_in_words, max_load_text, measured_text

OPEN = LoadRun(mode="open", batch=8, duration_s=10, rate_rps=200)
SLO = Slo(quantile=0.99, limit_ms=20)
BURSTS = Steps(steps=(Step(rate_rps=20, seconds=9), Step(rate_rps=400, seconds=1)))


def endpoint(**changed: object) -> EndpointMeasurement:
    latency = Histogram.of([0.005] * 2000)
    verdict = SloVerdict(
        slo=SLO,
        verdict=Verdict.HOLDS,
        reason="binomial rule on the effective number of requests",
        n=2000,
        over=3,
        share_over=0.0015,
        quantile_ms=5.0,
        quantile_error=0.01,
        effective_n=1500,
        replayed=False,
        backlog_growing=False,
        confidence=0.99,
    )
    made = EndpointMeasurement(
        url="http://127.0.0.1:9000",
        model_name="resnet",
        run=OPEN,
        started_at="",
        elapsed_s=10.0,
        offered=2004,
        ok=2000,
        errors={"http_503": 3},
        unsent=1,
        steady=Steady(index=0, steady=True, reason="no warm-up found"),
        due_to_done=latency,
        sent_to_done=latency,
        dispatch_lag=latency,
        generator_cpu_s=1.0,
        verdicts=(verdict,),
    )
    return made.model_copy(update=changed)


def test_a_measured_endpoint_reads_well() -> None:
    """What was asked, what came back, what failed, and what it proves."""
    assert (
        measured_text(endpoint())
        == """\
resnet at http://127.0.0.1:9000
  load       200 req/s due (Poisson), batch 8, 10 s
  answered   2,000 of 2,004, 200 req/s
  failed     3 x http_503, 1 never sent
  latency    p50 5.00 ms (5.00-5.00), p95 5.00 ms (5.00-5.00), p99 5.00 ms (5.00-5.00)
  server     p50 5.00 ms (5.00-5.00), p95 5.00 ms (5.00-5.00), p99 5.00 ms (5.00-5.00)
  late       p50 5.00 ms (5.00-5.00), p95 5.00 ms (5.00-5.00), p99 5.00 ms (5.00-5.00)
             (latency: from due to done; server: from sent to done; late: dispatch lag)
             (ranges: 95% intervals, if requests were independent)
  warm-up    no warm-up found [mser-5]
  objective  p99 <= 20 ms: holds at 99%, n = 2,000, 3 over; binomial rule on the effective \
number of requests
  not judged what generator and network carry was not measured, so the highest rates may be theirs,
             not the server's
  not judged no reference was measured before and after, so a host that was slower or faster than
             usual would not show
  verdict    valid [measured]
"""
    )


def test_a_quantile_without_support_is_refused() -> None:
    """Of 20 samples a p95 and a p99 are not printed; of a correlated run it takes more than 368."""
    few = Histogram.of([0.004, 0.005] * 10)
    text = measured_text(endpoint(due_to_done=few))
    assert "latency    p50 4.00 ms (4.00-5.00), p95 refused (needs 72 samples), p99" in text
    assert "p99 refused (needs 368 samples)" in text
    correlated = interval_of("due_to_done", few, 0.99, 10.0)
    text = measured_text(endpoint(due_to_done=few, quantiles=(correlated,)))
    assert "latency    p99 refused (needs 736 samples)" in text
    assert "(ranges: 95% intervals, correlation counted)" in text


def test_a_record_without_intervals_is_read() -> None:
    """Files of earlier versions load, and their figures get intervals all the same."""
    old = endpoint().model_dump(mode="json", exclude={"quantiles"})
    assert measured_text(EndpointMeasurement.model_validate(old)) == measured_text(endpoint())


def test_a_confidence_is_told_as_it_was_asked_for() -> None:
    """99.9 % is not rounded to a certainty."""
    (verdict,) = endpoint().verdicts
    other = verdict.model_copy(update={"confidence": 0.999})
    assert "p99 <= 20 ms: holds at 99.9%, n" in measured_text(endpoint(verdicts=(other,)))


def test_what_must_not_be_believed_says_so() -> None:
    """An invalid measurement carries every fault with its figures."""
    fault = Fault(code=FaultCode.WORKER_LOST, detail="1 load workers were lost, with 400 requests")
    text = measured_text(endpoint(faults=(fault,), lost=400))
    assert "400 lost with their load worker" in text
    assert "INVALID [refused]" in text
    assert "worker_lost: 1 load workers were lost" in text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"arrivals": Constant(rate_rps=200)}, "200 req/s due (evenly spaced)"),
        (
            {"arrivals": Ramp(from_rps=10, to_rps=390)},
            "200 req/s due (ramp from 10 to 390 req/s)",
        ),
        (
            {
                "arrivals": Steps(
                    steps=(Step(rate_rps=20, seconds=9), Step(rate_rps=400, seconds=1))
                )
            },
            "200 req/s due (steps: 20 req/s for 9 s, 400 req/s for 1 s)",
        ),
        (
            {"arrivals": Recorded(file="day.csv", sha256="", time_scale=1, requests=5)},
            "200 req/s due (trace day.csv)",
        ),
    ],
)
def test_every_kind_of_arrivals_has_words(changed: dict[str, object], words: str) -> None:
    """The reader sees what traffic it was."""
    assert load_in_words(OPEN.model_copy(update=changed)) == words


def test_a_mix_is_told_by_its_shares() -> None:
    """Batch sizes and inputs with their share of the requests."""
    mix = Mix(batches=(1, 8), weights=(3, 1), inputs=("short.npz", "long.npz"))
    run = OPEN.model_copy(update={"mix": mix})
    assert batches_in_words(run) == "75% batch 1 of short.npz, 25% batch 8 of long.npz"


def test_the_sizes_of_a_trace_are_its_own() -> None:
    """Not the largest batch, but what the trace asks for on average, and of which inputs."""
    source = Recorded(file="day.csv", sha256="", time_scale=1, requests=5, mean_batch=2.75)
    run = OPEN.model_copy(update={"arrivals": source})
    assert batches_in_words(run) == "the trace's batches, 2.75 rows on average"
    mix = Mix(batches=(1, 1, 8, 8), weights=(3, 1, 3, 1), inputs=("a", "b", "a", "b"))
    words = batches_in_words(run.model_copy(update={"mix": mix}))
    assert words == "the trace's batches, 2.75 rows on average, of 75% a, 25% b"


@pytest.mark.parametrize(
    ("rate", "low", "high", "reason", "words"),
    [
        (100, 95, 104, StopReason.FOUND, "100 req/s (95.0 req/s to 104 req/s) [measured]"),
        (4000, 4000, None, StopReason.CEILING_HOLDS, "at least 4,000 req/s [measured]"),
        (0, 0, 10, StopReason.LOWEST_FAILS, "below 10.0 req/s [measured]"),
        (4000, 0, None, StopReason.CEILING_HOLDS, "about 4,000 req/s, undecided (no rate held"),
        (0, 0, None, StopReason.LOWEST_FAILS, "undecided (no rate held, none failed for certain)"),
        (50, 20, None, StopReason.BUDGET_SPENT, "about 50.0 req/s, undecided (20.0 req/s held, no"),
        (50, 0, 90, StopReason.BUDGET_SPENT, "about 50.0 req/s, undecided (no rate held, 90.0 re"),
    ],
)
def test_the_highest_load_is_an_interval(
    rate: float, low: float, high: float | None, reason: StopReason, words: str
) -> None:
    """Found, at least, below, or not proven: the answer says which."""
    found = MaxLoad(
        rate_rps=rate,
        low_rps=low,
        high_rps=high,
        stop_reason=reason,
        cliff=False,
        samples=5000,
        probes=(),
    )
    text = max_load_text(found, SLO)
    assert f"Highest load with p99 <= 20 ms: {words}" in text
    assert "0 probes, 5,000 requests" in text
    assert ("it still holds" in text) == ("at least" in words)
    assert ("it fails at" in text) == ("below" in words)


def test_a_search_says_what_it_was_about(bundle: Bundle) -> None:
    """The server or the deployment, the rows, the range, and what ended it early."""
    assert bundle.environment is not None
    reason = "at 32.0 req/s no run of 3 can be believed: noisy_host: load 9"
    about = Searched(
        url="http://h:1",
        model_name="m",
        environment=bundle.environment,
        started_at="",
        batch=8,
        timeout_s=10,
        workers=1,
        seed=0,
    )
    found = MaxLoad(
        rate_rps=16,
        low_rps=16,
        high_rps=None,
        stop_reason=StopReason.NOT_BELIEVABLE,
        cliff=False,
        samples=5000,
        probes=(),
        slo=SLO,
        lowest_rps=2,
        ceiling_rps=2500,
        not_believed=reason,
        about=about,
    )
    assert (
        max_load_text(found, SLO)
        == f"""\
Highest load with p99 <= 20 ms: at least 16.0 req/s [measured]
  ended      a probe could not be believed; what is said was proven before it
             {reason}
  effort     0 probes, 5,000 requests
  range      from 2.00 req/s to 2,500 req/s
  of         m at http://h:1, batch 8, timeout 10 s
  not judged what generator and network carry was not measured, so the highest rates may be theirs,
             not the server's
  not judged no reference was measured before and after, so a host that was slower or faster than
             usual would not show
"""
    )
    deployment = bundle.measurements[0].deployment
    ours = about.model_copy(update={"url": None, "deployment": deployment})
    text = max_load_text(found.model_copy(update={"about": ours}), SLO)
    assert f"  of         {deployment.label}, batch 8" in text
    assert "  not judged what generator and ingress carry was" in text
    held = ours.model_copy(update={"carried_rps": 3000.0})
    text = max_load_text(found.model_copy(update={"about": held}), SLO)
    assert "generator" not in text
    assert "  not judged no reference was measured before and after" in text


def test_a_deployment_at_the_floor_says_so(bundle: Bundle) -> None:
    """A p99 that is the platform's, not the model's, is labelled, and no other one."""
    made = next(m for m in bundle.measurements if m.run.mode == "open")
    assert "floor" not in measured_text(made)
    near = made.model_copy(update={"floor_p99_s": 0.002})
    assert "  floor      at the platform's floor (its p99 is 2.00 ms)" in measured_text(near)
