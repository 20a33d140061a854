"""The wire codec of the Open Inference Protocol."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from serving.records import TensorSpec
from serving.v2 import (
    InferRequest,
    V2Error,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

NUMERIC = ["?", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f4", "<f8"]
NAMES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
NAMES += ["FP32", "FP64"]
SPECS = {"x": TensorSpec(name="x", datatype="FP32", shape=(-1, 2))}


@st.composite
def tensors(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    kind = draw(st.sampled_from(NUMERIC))
    elements = {"allow_nan": False, "allow_infinity": False} if "f" in kind else None
    array = draw(arrays(np.dtype(kind), array_shapes(max_dims=3, max_side=4), elements=elements))
    return array, NAMES[NUMERIC.index(kind)]


@given(tensors(), st.booleans())
def test_requests_round_trip(tensor: tuple[np.ndarray, str], binary: bool) -> None:
    """What the client encodes, the server decodes to the same tensor, binary or JSON."""
    array, datatype = tensor
    spec = TensorSpec(name="x", datatype=datatype, shape=array.shape)
    body, length = encode_request({"x": array}, binary=binary)
    request = decode_request(body, length, {"x": spec})
    assert request.inputs["x"].dtype == array.dtype
    np.testing.assert_array_equal(request.inputs["x"], array)


@given(tensors(), st.booleans())
def test_responses_round_trip(tensor: tuple[np.ndarray, str], binary: bool) -> None:
    """What the server encodes, the client decodes to the same tensor, binary or JSON."""
    array, _ = tensor
    request = InferRequest(id="7", inputs={}, outputs={"y": binary}, binary_default=False)
    body, length = encode_response("m", "1", request, {"y": array})
    assert (length is not None) == binary
    np.testing.assert_array_equal(decode_response(body, length)["y"], array)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_bytes_tensors_round_trip(items: list[bytes]) -> None:
    """Strings of any bytes survive the length-prefixed form."""
    array = np.array(items, dtype=object)
    spec = TensorSpec(name="s", datatype="BYTES", shape=(-1,))
    body, length = encode_request({"s": array})
    assert decode_request(body, length, {"s": spec}).inputs["s"].tolist() == items


def test_an_id_is_echoed() -> None:
    """The answer carries the request's id."""
    body = json.dumps(
        {
            "id": "abc",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
        }
    ).encode()
    request = decode_request(body, None, SPECS)
    out, _ = encode_response("m", "1", request, {"y": np.ones((1, 1), np.float32)})
    assert json.loads(out)["id"] == "abc"


def item(**changes: object) -> dict[str, object]:
    base = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    return {k: v for k, v in {**base, **changes}.items() if v is not None}


BAD = {
    "not JSON": (b"{", None, "not valid JSON"),
    "no inputs": (b"{}", None, "'inputs'"),
    "a list": (b"[]", None, "'inputs'"),
    "unknown input": ([item(name="z")], None, "unexpected input 'z'"),
    "missing input": ([], None, "missing input 'x'"),
    "given twice": ([item(), item()], None, "twice"),
    "wrong type": ([item(datatype="INT8")], None, "FP32"),
    "wrong rank": ([item(shape=[2])], None, "does not fit"),
    "wrong width": ([item(shape=[1, 3], data=[1, 2, 3])], None, "does not fit"),
    "negative shape": ([item(shape=[-1, 2])], None, "non-negative"),
    "huge shape": ([item(shape=[2**50, 2])], None, "non-negative"),
    "text for numbers": ([item(data=["a", "b"])], None, "does not fit"),
    "too few numbers": ([item(data=[1])], None, "does not fit"),
    "no data": ([item(data=None)], None, "neither"),
    "both": ([item(parameters={"binary_data_size": 8})], None, "both"),
    "beyond the body": (
        [item(data=None, parameters={"binary_data_size": 8})],
        None,
        "exceeds the body",
    ),
    "head longer than body": (b"{}", 99, "does not fit a body"),
}


@pytest.mark.parametrize(("inputs", "length", "says"), BAD.values(), ids=BAD)
def test_bad_requests_are_refused(inputs: object, length: int | None, says: str) -> None:
    """Every malformed request is a 400 that names what is wrong."""
    body = inputs if isinstance(inputs, bytes) else json.dumps({"inputs": inputs}).encode()
    with pytest.raises(V2Error, match=says) as caught:
        decode_request(body, length, SPECS)
    assert caught.value.status == 400


def test_trailing_bytes_are_refused() -> None:
    """Bytes that belong to no tensor are an error, not ignored."""
    body, length = encode_request({"x": np.ones((1, 2), np.float32)})
    with pytest.raises(V2Error, match="after the last"):
        decode_request(body + b"\0", length, SPECS)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
def test_no_body_breaks_the_decoder(body: bytes, length: int | None) -> None:
    """Random bytes end in V2Error or a request, never in another exception."""
    with contextlib.suppress(V2Error):
        decode_request(body, length, SPECS)


def test_an_unknown_output_is_refused() -> None:
    """Asking for an output that the model does not give is a 400."""
    request = InferRequest(id=None, inputs={}, outputs={"q": True}, binary_default=False)
    with pytest.raises(V2Error, match="unknown output 'q'"):
        encode_response("m", "1", request, {"y": np.ones(1, np.float32)})


def token_specs() -> dict[str, TensorSpec]:
    """Ids and a mask of one length, up to four, as of a model with a table of ten words."""
    return {
        name: TensorSpec(
            name=name,
            datatype="INT64",
            shape=(-1, -1),
            symbols=("batch", "sequence"),
            low=0,
            high=high,
            longest=4,
        )
        for name, high in (("ids", 9), ("mask", 1))
    }


@given(st.integers(0, 4), st.integers(1, 3), st.data())
def test_what_is_within_its_limits_passes(length: int, batch: int, data: st.DataObject) -> None:
    """Every id of the vocabulary, at every length and batch, none at all included."""
    ids = data.draw(arrays(np.int64, (batch, length), elements=st.integers(0, 9)))
    body, head = encode_request({"ids": ids, "mask": np.ones_like(ids)})
    np.testing.assert_array_equal(decode_request(body, head, token_specs()).inputs["ids"], ids)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("ids", "mask", "says"),
    [
        ([[1, 10]], [[1, 1]], "input 'ids': holds 10; the model takes values from 0 to 9"),
        ([[-1, 2]], [[1, 1]], "input 'ids': holds -1; the model takes values from 0 to 9"),
        ([[1, 2]], [[1, 2]], "input 'mask': holds 2; the model takes values from 0 to 1"),
        ([[1] * 5], [[1] * 5], "input 'ids': dimension 1 is 5, at most 4 fit"),
        ([[1, 2]], [[1]], "input 'mask': dimension 1 is 1, that of 'ids' is 2; they must agree"),
        ([[1], [2]], [[1]], "input 'mask': dimension 0 is 1, that of 'ids' is 2; they must agree"),
    ],
    ids=["above", "below", "mask", "long", "lengths", "batches"],
)
def test_what_is_beyond_its_limits_is_refused(
    ids: list[list[int]], mask: list[list[int]], says: str, binary: bool
) -> None:
    """The error names the input, what it holds, and what the model takes."""
    body, head = encode_request({"ids": np.array(ids), "mask": np.array(mask)}, binary=binary)
    with pytest.raises(V2Error, match=f"^{says}$") as caught:
        decode_request(body, head, token_specs())
    assert caught.value.status == 400
