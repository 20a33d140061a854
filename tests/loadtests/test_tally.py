"""How a worker sums up its samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtests.histogram import Histogram
from loadtests.payloads import Payloads
from loadtests.tally import Sample, Tally, backlog_growth
from serving.v2 import InferRequest, encode_response

EXPECTED = np.array([[[1.0]], [[2.0]]], dtype=np.float32)


@pytest.fixture
def payloads(tmp_path: Path) -> Payloads:
    made = Payloads([b"abc", b"defgh"], [3, 4], {"y": EXPECTED})
    made.save(tmp_path / "p.npz")
    return Payloads.load(tmp_path / "p.npz")


def sample(payload: int, answer: float, *, status: int = 200, cell: str = "c") -> Sample:
    request = InferRequest(id=None, inputs={}, outputs={"y": True}, binary_default=True)
    values = np.array([[answer]], dtype=np.float32)
    body, length = encode_response("m", "1", request, {"y": values})
    headers = {
        "tonnage-cell": cell,
        "server-timing": "queue;dur=1.5, service;dur=2.5, infer;desc=thread",
        "inference-header-content-length": str(length),
    }
    return Sample(10.0, 10.001, 10.011, payload, status, headers, body)


def test_payloads_survive_their_file(payloads: Payloads) -> None:
    """Bodies, head lengths and expected answers come back as they were."""
    assert payloads.bodies == [b"abc", b"defgh"]
    assert payloads.header_lengths == [3, 4]
    np.testing.assert_array_equal(payloads.expected["y"], EXPECTED)


def test_every_kind_of_answer_is_counted(payloads: Payloads) -> None:
    """Right, wrong, failed, unanswered and strange answers each land in their own place."""
    tally = Tally(payloads, "c", check_every=1)
    tally.offered = 6
    for one in (
        sample(0, 1.0),
        sample(1, 2.0),
        sample(0, 9.0),
        sample(0, 1.0, status=503),
        sample(0, 1.0, cell="another"),
        Sample(10, 10.1, 10.2, 0, 0, None, None),
    ):
        tally.add(one)
    assert tally.complete
    result = tally.summarise(10.0, 11.0)
    assert result["ok"] == 3
    assert (result["checked"], result["wrong"], result["other_cell"]) == (3, 1, 1)
    assert result["errors"] == {"http_503": 1, "no_answer": 1}
    assert result["inference"] == "thread"
    histogram = Histogram(**result["due_to_done"])
    assert histogram.quantile_s(0.5) == pytest.approx(0.011, rel=1e-3)
    assert Histogram(**result["sent_to_done"]).quantile_s(0.5) == pytest.approx(0.01, rel=1e-3)
    assert Histogram(**result["queue"]).quantile_s(0.5) == pytest.approx(0.0015, rel=1e-3)


def test_only_some_bodies_are_kept(payloads: Payloads) -> None:
    """Of a long run every n-th answer is checked."""
    tally = Tally(payloads, "c", check_every=10)
    for _ in range(100):
        tally.add(sample(0, 1.0))
    assert tally.summarise(10.0, 11.0)["checked"] == 10


def test_a_growing_backlog_shows() -> None:
    """A server at half the offered rate falls behind by half the rate; a fast one does not."""
    due = np.arange(0, 10, 0.01)
    slow = [Sample(t, t, 2 * t + 0.01, 0, 200, None, None) for t in due]
    fast = [Sample(t, t, t + 0.005, 0, 200, None, None) for t in due]
    assert backlog_growth(slow, 0, 10) == pytest.approx(50, rel=0.05)
    assert abs(backlog_growth(fast, 0, 10)) < 0.2


def test_time_that_runs_backward_is_counted(payloads: Payloads) -> None:
    """A request done before it was sent, one sent before it was due, and a negative service."""
    tally = Tally(payloads, "c", check_every=100)
    good = sample(0, 1.0)
    negative = {**(good.headers or {}), "server-timing": "queue;dur=0.1, service;dur=-0.2"}
    for one in (
        good,
        good._replace(done=10.0005),
        good._replace(due=10.5),
        good._replace(headers=negative),
    ):
        tally.add(one)
    assert tally.summarise(10.0, 11.0)["backward"] == 3
