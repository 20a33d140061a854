"""What a worker keeps of its requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtests.http_call import Check
from loadtests.payloads import Payloads
from loadtests.samples import NO_ANSWER, UNSENT, Samples
from loadtests.tally import Sample, Tally, parse_server_timing
from serving.records import TensorSpec
from serving.v2 import InferRequest, encode_response


@pytest.fixture
def payloads(tmp_path: Path) -> Payloads:
    expected = [{"y": np.array([[value]], np.float32)} for value in (1.0, 2.0)]
    made = Payloads([b"abc", b"defgh"], [3, 4], [*expected], np.array([0, 1]))
    made.save(tmp_path / "p.npz")
    return Payloads.load(tmp_path / "p.npz")


def sample(body: int, answer: float, *, status: int = 200, cell: str = "c") -> Sample:
    request = InferRequest(id=None, inputs={}, outputs={"y": True}, binary_default=True)
    values = np.array([[answer]], dtype=np.float32)
    content, length = encode_response("m", "1", request, {"y": values})
    timing = "queue;dur=1.5, service;dur=2.5, infer;desc=thread"
    return Sample(10.0, 10.001, 10.011, body, status, cell, timing, str(length), content)


def test_payloads_survive_their_file(payloads: Payloads) -> None:
    """Bodies, head lengths, classes and expected answers come back as they were."""
    assert payloads.bodies == [b"abc", b"defgh"]
    assert payloads.header_lengths == [3, 4]
    assert payloads.classes.tolist() == [0, 1]
    np.testing.assert_array_equal(payloads.expected[1]["y"], [[2.0]])


def test_joined_payloads_are_classes(payloads: Payloads) -> None:
    """Several payloads become the classes of one, each with its own expected answers."""
    both = Payloads.join([payloads, payloads])
    assert both.classes.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(both.expected[3]["y"], [[2.0]])


def test_every_kind_of_answer_is_kept(payloads: Payloads) -> None:
    """Right, wrong, failed, unanswered, unsent and strange answers each show as what they are."""
    tally = Tally(payloads, "c")
    for one in (
        sample(0, 1.0),
        sample(1, 2.0),
        sample(0, 9.0),
        sample(0, 1.0, status=503),
        sample(0, 1.0, cell="another"),
        Sample(10, 10.1, 10.2, 0, NO_ANSWER, "", "", "", None),
    ):
        tally.add(one)
    tally.add_unsent(12.0, 1)
    samples = tally.finish(10.0)
    assert len(tally) == len(samples) == 7
    assert (tally.checked, tally.wrong) == (3, 1)
    assert np.count_nonzero(samples.ok) == 3
    assert sorted(samples.status.tolist()) == [UNSENT, NO_ANSWER, 200, 200, 200, 200, 503]
    assert np.count_nonzero(~np.isfinite(samples.latency_s)) == 4
    first = samples.take(samples.ok)
    np.testing.assert_allclose(first.latency_s, 0.011, rtol=1e-6)
    np.testing.assert_allclose(first.queue_s, 0.0015)
    np.testing.assert_allclose(first.service_s, 0.0025)
    assert not first.inline.any()


def test_answers_are_checked_from_the_whole_run(payloads: Payloads) -> None:
    """64 of a worker, evenly from beginning to end: a server that goes wrong late is caught."""
    tally, late = Tally(payloads, "c"), Tally(payloads, "c")
    for index in range(4000):
        tally.add(sample(0, 9.0 if index % 2 else 1.0))
        late.add(sample(0, 9.0 if index >= 3000 else 1.0))
    for one, share in ((tally, 0.5), (late, 0.25)):
        one.finish(10.0)
        assert one.checked == 64
        assert abs(one.wrong / 64 - share) < 4 * (share * (1 - share) / 64) ** 0.5


def test_all_answers_of_a_short_run_are_checked(payloads: Payloads) -> None:
    """Failed requests have no answer to check, and take no place of one."""
    tally = Tally(payloads, "c")
    for index in range(100):
        tally.add(sample(0, 1.0, status=200 if index % 2 else 503))
    tally.finish(10.0)
    assert (tally.checked, tally.wrong) == (50, 0)


GARBAGE = {
    "no JSON": b"<html>it works</html>",
    "no object": b"[1]",
    "no outputs": b"{}",
    "an empty list": b'{"outputs": []}',
    "null": b'{"outputs": null}',
    "another name": b'{"outputs": [{"name": "z", "datatype": "FP32", "shape": [1], "data": [1]}]}',
    "another type": b'{"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [1]}]}',
    "unknown type": b'{"outputs": [{"name": "y", "datatype": "FP7", "shape": [1], "data": [1]}]}',
    "few values": b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1]}]}',
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_with_a_good_status_is_wrong(case: str) -> None:
    """Of a server that is not ours no answer is known, but that it is one over V2 is."""
    check = Check(outputs=(TensorSpec(name="y", datatype="FP32", shape=()),))
    tally = Tally(Payloads.plain([b"x"]), None, check)
    tally.add(sample(0, 1.0))
    tally.add(Sample(10.0, 10.1, 10.2, 0, 200, "", "", "", GARBAGE[case]))
    tally.finish(10.0)
    assert (tally.checked, tally.wrong) == (2, 1)


def test_a_foreign_server_may_say_what_it_likes() -> None:
    """Only durations count; a database's timing or nonsense does not stop the run."""
    assert parse_server_timing("db;dur=fast, cache;desc=hit, service;dur=2") == {"service": 0.002}
    assert parse_server_timing("") == {}


def test_samples_of_workers_merge_by_due_time(payloads: Payloads, tmp_path: Path) -> None:
    """The merged samples are those of one worker that had sent everything."""
    parts, whole = [Tally(payloads, None), Tally(payloads, None)], Tally(payloads, None)
    for index in range(20):
        one = sample(0, 1.0)._replace(due=10.0 + (index * 7 % 20))
        parts[index % 2].add(one)
        whole.add(one)
    files = []
    for index, part in enumerate(parts):
        files.append(tmp_path / f"{index}.npz")
        part.finish(10.0).save(files[-1])
    merged = Samples.merge([Samples.load(path) for path in files])
    np.testing.assert_array_equal(merged.due_s, whole.finish(10.0).due_s)
    assert len(Samples.empty()) == 0


def test_what_is_under_way_at_the_end_is_a_sample_over_any_limit(payloads: Payloads) -> None:
    """A request that never finished is kept, unanswered and infinitely late; others once."""
    tally = Tally(payloads, "c")
    first = tally.begin(10.0, 10.001, 0)
    tally.begin(10.5, 10.6, 1, waited=True)
    tally.add(sample(0, 1.0), first)
    samples = tally.finish(10.0)
    assert samples.status.tolist() == [200, NO_ANSWER]
    assert samples.error.tolist() == ["", "no_answer"]
    assert samples.waited.tolist() == [False, True]
    assert samples.latency_s.tolist() == [pytest.approx(0.011), np.inf]
    assert np.isnan(samples.done_s[1])
