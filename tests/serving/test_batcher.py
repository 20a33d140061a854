"""Dynamic batching in a replica: who shares a call, when it begins, and whose answer is whose."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from serving.app import ModelApp
from serving.batcher import Answer, Batcher, Tensors, check_batches
from serving.errors import BadInput
from serving.records import Deployment, InstanceType, Variant
from serving.runtimes import load_runtime
from serving.v2 import decode_response, encode_request

SIZE = InstanceType(name="sim-1", vcpus=1, memory_gib=1, enforcement="cpuset", cpu_family="host")


class Model:
    """Doubles its rows, and notes how many came together; the first call waits for ``go``."""

    def __init__(self, fails_from: float = np.inf) -> None:
        self.calls: list[int] = []
        self.go = threading.Event()
        self._fails_from = fails_from

    def __call__(self, inputs: Tensors) -> Tensors:
        self.calls.append(len(inputs["x"]))
        self.go.wait(5)
        if (inputs["x"] >= self._fails_from).any():
            raise RuntimeError("cannot take this row")
        return {"y": 2 * inputs["x"]}


def answers(
    model: Model, rows: list[np.ndarray], *, most: int = 4, wait_s: float = 0.0
) -> list[Answer | BaseException]:
    """What becomes of requests that arrive at once; the model is let go when all wait."""

    async def ask() -> list[Answer | BaseException]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model, executor, most=most, wait_s=wait_s)
            asked = [asyncio.ensure_future(batcher.predict({"x": row})) for row in rows]
            await asyncio.sleep(0.02)
            model.go.set()
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def one(value: float, rows: int = 1, columns: int = 2) -> np.ndarray:
    return np.full((rows, columns), value, dtype=np.float32)


def test_what_waits_shares_the_next_call() -> None:
    """The first goes at once, alone; the others wait for it, then go four at a time."""
    model = Model()
    found = answers(model, [one(i) for i in range(8)])
    assert model.calls == [1, 4, 3]
    for i, answer in enumerate(found):
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.outputs["y"], one(2 * i))


def test_requests_of_several_rows_get_their_own_back() -> None:
    """Rows are divided as they came, whatever their number."""
    model = Model()
    found = answers(model, [one(9), one(1, 3), one(2, 1), one(3, 2)])
    assert model.calls == [1, 6]
    for answer, expected in zip(found[1:], (one(2, 3), one(4, 1), one(6, 2)), strict=True):
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.outputs["y"], expected)


def test_only_what_fits_together_is_joined() -> None:
    """Another length goes in another call, and nobody loses a place by it."""
    model = Model()
    found = answers(model, [one(0), one(1), one(2, columns=5), one(3)])
    assert model.calls == [1, 2, 1]
    assert [a.outputs["y"].shape for a in found if isinstance(a, Answer)] == [
        (1, 2), (1, 2), (1, 5), (1, 2),
    ]  # fmt: skip


def test_a_bad_row_fails_alone() -> None:
    """The call is made again for each, and only the one with the bad row raises."""
    model = Model(fails_from=7)
    found = answers(model, [one(0), one(1), one(7), one(2)])
    assert [isinstance(a, Answer) for a in found] == [True, True, False, True]
    assert str(found[2]) == "cannot take this row"
    assert model.calls == [1, 3, 1, 1, 1]


def test_a_model_that_joins_rows_is_not_trusted_with_several() -> None:
    """One row out for many in: each request is answered by a call of its own."""

    def total(inputs: Tensors) -> Tensors:
        return {"y": inputs["x"].sum(axis=0, keepdims=True)}

    async def ask() -> list[Answer]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(total, executor, most=3, wait_s=1)
            return list(await asyncio.gather(*(batcher.predict({"x": one(i)}) for i in range(3))))

    assert [a.outputs["y"][0, 0] for a in asyncio.run(ask())] == [0, 1, 2]


@pytest.mark.parametrize(("count", "least_s", "most_s"), [(1, 0.1, 0.4), (4, 0.0, 0.09)])
def test_a_call_waits_for_company_and_no_longer(count: int, least_s: float, most_s: float) -> None:
    """A lone request waits its whole wait, a full batch not at all."""
    model = Model()
    model.go.set()

    async def ask() -> float:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model, executor, most=4, wait_s=0.1)
            begun = time.perf_counter()
            found = await asyncio.gather(*(batcher.predict({"x": one(i)}) for i in range(count)))
            return found[0].started - begun

    assert least_s * 0.95 <= asyncio.run(ask()) < most_s
    assert model.calls == [count]


def test_a_client_that_leaves_takes_nobody_along() -> None:
    """Its answer is dropped; the others of its call get theirs."""
    model = Model()

    async def ask() -> Any:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model, executor, most=4, wait_s=0)
            asked = [asyncio.ensure_future(batcher.predict({"x": one(i)})) for i in range(3)]
            await asyncio.sleep(0.02)
            asked[1].cancel()
            model.go.set()
            return await asyncio.gather(*asked, return_exceptions=True)

    first, gone, last = asyncio.run(ask())
    assert isinstance(gone, asyncio.CancelledError)
    assert (first.outputs["y"][0, 0], last.outputs["y"][0, 0]) == (0, 4)


def test_the_application_batches(make_stub: Callable[..., Variant]) -> None:
    """Concurrent requests over V2 share calls of a 20 ms model; each gets its own sums."""
    variant = make_stub(busy_ms=20.0)
    app = ModelApp(load_runtime(variant, 1), variant, "cell", 8, 0.0)

    async def ask(value: float) -> tuple[float, bytes]:
        body, length = encode_request({"features": one(value, columns=4)}, ["sums"])
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        key = b"inference-header-content-length"
        path = f"/v2/models/{variant.model_name}/infer"
        headers = [(key, str(length).encode())]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        await app(scope, receive, send)
        names = dict(sent[0]["headers"])
        answer = decode_response(sent[1]["body"], int(names[key]))
        return float(answer["sums"][0, 0]), names[b"server-timing"]

    async def crowd() -> list[tuple[float, bytes]]:
        return list(await asyncio.gather(*(ask(i) for i in range(17))))

    found = asyncio.run(crowd())
    assert [value for value, _ in found] == [4.0 * i for i in range(17)]
    # 1 + 8 + 8: three calls, where one at a time are seventeen.
    assert len({timing.split(b"service")[1] for _, timing in found}) == 3


def test_what_has_no_batch_axis_is_not_batched(make_stub: Callable[..., Variant]) -> None:
    """A deployment that asks for it is refused, naming the variant."""
    alone = make_stub().model_copy(update={"one_row_a_call": True})
    with pytest.raises(ValidationError, match="takes one request a call"):
        Deployment(variant=alone, instance=SIZE, threads=1, max_batch=2)
    made = Deployment(variant=make_stub(), instance=SIZE, threads=1, max_batch=2)
    assert made.label.endswith("up to 2 requests a call")


def test_the_command_line_says_so(make_stub: Callable[..., Variant]) -> None:
    """In one line that names the option."""
    alone = make_stub().model_copy(update={"one_row_a_call": True})
    check_batches(alone, 1)
    with pytest.raises(BadInput, match="--max-batch 4: stub takes one request a call"):
        check_batches(alone, 4)
