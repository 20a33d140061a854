"""Dynamic batching in a replica: requests that wait are answered by one call of the model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from serving.errors import BadInput
from serving.records import Variant

Tensors = Mapping[str, np.ndarray]


class Answer(NamedTuple):
    """Outputs of one request, and when the call that it shared began and ended."""

    outputs: Tensors
    started: float
    ended: float


class _Waiting(NamedTuple):
    inputs: Tensors
    rows: int
    shape: tuple[object, ...]
    since: float
    answer: asyncio.Future[Answer]


class Batcher:
    """Calls ``predict`` for up to ``most`` requests at once, one call at a time.

    A call begins when that many wait, or when the oldest has waited for ``wait_s``, and none
    is running; it takes all that wait and fit together: same types, and same shapes but for
    the first axis. A call that fails is made again for each request alone, so that nobody
    fails for somebody else's rows.
    """

    def __init__(
        self,
        predict: Callable[[Tensors], Tensors],
        executor: Executor,
        *,
        most: int,
        wait_s: float,
    ) -> None:
        self._predict, self._executor = predict, executor
        self._most, self._wait_s = most, wait_s
        self._waiting: deque[_Waiting] = deque()
        self._running = False
        self._timer: asyncio.TimerHandle | None = None

    async def predict(self, inputs: Tensors) -> Answer:
        """Answer one request; raises what the model raises on its rows."""
        loop = asyncio.get_running_loop()
        shape = tuple((name, a.dtype, a.shape[1:]) for name, a in sorted(inputs.items()))
        rows = len(next(iter(inputs.values())))
        waiting = _Waiting(inputs, rows, shape, loop.time(), loop.create_future())
        self._waiting.append(waiting)
        self._start_if_due(loop)
        return await waiting.answer

    def _start_if_due(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._running or not self._waiting:
            return
        due = self._waiting[0].since + self._wait_s
        if len(self._waiting) < self._most and loop.time() < due:
            if self._timer is None:
                self._timer = loop.call_at(due, self._ring, loop)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._running = True
        batch = self._taken()
        call = loop.run_in_executor(self._executor, self._call, batch)
        call.add_done_callback(lambda done: self._done(batch, done, loop))

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._start_if_due(loop)

    def _taken(self) -> list[_Waiting]:
        """The oldest request and those that fit to it; the others keep their places."""
        first = self._waiting[0]
        kept: deque[_Waiting] = deque()
        taken: list[_Waiting] = []
        for one in self._waiting:
            fits = one.shape == first.shape and len(taken) < self._most
            (taken if fits else kept).append(one)
        self._waiting = kept
        return taken

    def _call(self, batch: Sequence[_Waiting]) -> list[Answer | Exception]:
        """In the executor's thread: one call for all, or each alone where that fails."""
        started = time.perf_counter()
        if len(batch) > 1:
            try:
                parts = self._together(batch)
            except Exception:  # whatever a runtime throws: each alone says which row it was
                parts = None
            if parts is not None:
                ended = time.perf_counter()
                return [Answer(outputs, started, ended) for outputs in parts]
        return [self._alone(one) for one in batch]

    def _together(self, batch: Sequence[_Waiting]) -> list[Tensors] | None:
        """Outputs of each, by its rows; None when the model gave another number of rows."""
        names = batch[0].inputs
        joined = {name: np.concatenate([one.inputs[name] for one in batch]) for name in names}
        outputs = self._predict(joined)
        ends = np.cumsum([one.rows for one in batch])
        if any(len(array) != ends[-1] for array in outputs.values()):
            return None
        parts = {name: np.split(array, ends[:-1]) for name, array in outputs.items()}
        return [{name: split[i] for name, split in parts.items()} for i in range(len(batch))]

    def _alone(self, one: _Waiting) -> Answer | Exception:
        started = time.perf_counter()
        try:
            outputs = self._predict(one.inputs)
        except Exception as error:  # whatever a runtime throws is this request's answer
            return error
        return Answer(outputs, started, time.perf_counter())

    def _done(
        self,
        batch: Sequence[_Waiting],
        done: asyncio.Future[list[Answer | Exception]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._running = False
        error = done.exception()
        answers: Sequence[Answer | BaseException] = (
            [error] * len(batch) if error is not None else done.result()
        )
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.done():  # its client has gone
                continue
            if isinstance(answer, Answer):
                one.answer.set_result(answer)
            else:
                one.answer.set_exception(answer)
        self._start_if_due(loop)


def check_batches(variant: Variant, max_batch: int) -> None:
    """Raise BadInput for calls to be shared of a variant that has no batch axis."""
    if max_batch > 1 and not variant.batched:
        raise BadInput(
            f"--max-batch {max_batch}: {variant.name} takes one request a call, as its tensors "
            "have no batch axis; leave the option out"
        )
