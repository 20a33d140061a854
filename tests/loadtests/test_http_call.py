"""What makes an answer a good one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.http_call import Check, HttpCall, parse_checks, v2_call
from loadtests.payloads import Payloads
from loadtests.tally import Sample, Tally
from serving.errors import BadInput
from serving.records import Endpoint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def test_checks_are_read_as_users_write_them() -> None:
    """A status, JSON and text each land in their place; without a status every 2xx is good."""
    check = parse_checks(["201", '{"label": "cat"}', "score", '"200"'])
    assert check == Check(
        statuses=(201,), contains=("score", "200"), holds_json=('{"label": "cat"}',)
    )
    assert parse_checks([]).statuses == tuple(range(200, 300))
    assert not parse_checks(["200"]).reads_bodies
    for bad in ("99", "1000", ""):
        with pytest.raises(BadInput, match="--check"):
            parse_checks([bad])


@given(st.dictionaries(st.text(max_size=3), JSON, min_size=1), st.dictionaries(st.text(), JSON))
@settings(deadline=None)
def test_an_object_holds_its_parts(part: dict[str, object], more: dict[str, object]) -> None:
    """Whatever is added to an answer, a check of what it held before still passes."""
    check = Check(holds_json=(json.dumps(part),))
    assert check.failure(json.dumps({**more, **part}).encode()) is None


def test_a_failure_is_named() -> None:
    """A key with another value, text that is absent, a body that is no JSON: each says so."""
    assert Check(holds_json=('{"a": 1}',)).failure(b'{"a": 2}') == 'does not hold {"a": 1}'
    assert Check(holds_json=("[1, 2]",)).failure(b"[1]") == "does not hold [1, 2]"
    assert Check(holds_json=("{}",)).failure(b"<html>") == "is not JSON"
    assert Check(contains=("cat",)).failure(b"dog") == "does not contain 'cat'"


def test_answers_of_any_server_are_tallied() -> None:
    """Wrong status, wrong body and a failed task of the user's own are told apart."""
    check = parse_checks(["cat"])
    tally = Tally(Payloads.plain([b"x"]), None, check)
    answers = [(200, b"a cat", None), (202, b"a dog", None), (500, b"cat", None)]
    answers.append((200, b"cat", "ValueError"))
    for status, body, failure in answers:
        tally.add(Sample(10.0, 10.0, 10.1, 0, status, "", "", "", body, failure=failure))
    samples = tally.finish(10.0)
    assert (np.count_nonzero(samples.ok), tally.checked, tally.wrong) == (2, 2, 1)
    assert sorted(filter(None, samples.error.tolist())) == ["ValueError", "http_500"]


def test_a_v2_call_is_inference() -> None:
    """The path of a V2 model and its binary content type."""
    call = v2_call(Endpoint(url="http://x", model_name="m"))
    assert (call.method, call.path, call.warm_path) == (
        "POST",
        "/v2/models/m/infer",
        "/v2/models/m/ready",
    )
    assert HttpCall.model_validate(call.model_dump()) == call


def test_payloads_keep_strings_and_unlike_shapes(tmp_path: Path) -> None:
    """Expected answers may be text, scalars, or of another shape for every body."""
    expected: list[dict[str, np.ndarray]] = [
        {
            "label": np.array([b"cat", b"\xff\x00"], object),
            "boxes": np.zeros((0, 4), np.float32),
            "n": np.array(3),
        },
        {"label": np.array([b""], object), "boxes": np.ones((2, 4), np.float32), "n": np.array(4)},
        {},
    ]
    Payloads([b"a", b"bc", b"d"], [1, 0, 0], expected, np.zeros(3, int)).save(tmp_path / "p.npz")
    loaded = Payloads.load(tmp_path / "p.npz")
    assert loaded.bodies == [b"a", b"bc", b"d"]
    assert loaded.header_lengths == [1, 0, 0]
    for before, after in zip(expected, loaded.expected, strict=True):
        assert before.keys() == after.keys()
        for name, values in before.items():
            np.testing.assert_array_equal(values, after[name])
            assert values.shape == after[name].shape
