"""What a worker keeps of its requests while the clock runs, and makes of them afterwards.

While it runs only raw values are appended; headers are parsed and answers checked at the
end, so that they cannot delay a dispatch.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from loadtests.http_call import Check
from loadtests.payloads import Payloads
from loadtests.samples import NO_ANSWER, UNSENT, Samples
from serving.records import TensorSpec
from serving.v2 import V2Error, datatype_of, decode_response

# Answers of one file on one machine agree to the last bit or two of FP32; int8 kernels
# choose scales per call from the same rows, so they agree as well.
_TOLERANCE = 1e-4
_MOST_KEPT_BODIES = 64
_LONGEST_ERROR = 40


class Sample(NamedTuple):
    """One request. Times are ``perf_counter`` seconds; status 0 is no answer.

    ``done`` is nan where the run ended before anything came, ``read`` when the generator had read
    an answer that was done before; None: then, and no sooner, it counts as done.
    ``cell``, ``timing`` and ``head_length`` are the headers that name who answered, how long
    it took inside, and where the binary part of ``answer`` begins; empty where absent.
    ``failure`` names what went wrong in a task of the user's own, whatever its last status.
    """

    due: float
    sent: float
    done: float
    body: int
    status: int
    cell: str
    timing: str
    head_length: str
    answer: bytes | None
    waited: bool = False
    failure: str | None = None
    read: float | None = None


class Tally:
    """Samples of one run on one worker.

    ``cell_id`` None is a server that is not ours: its answers carry no cell.
    """

    def __init__(
        self,
        payloads: Payloads,
        cell_id: str | None,
        check: Check | None = None,
    ) -> None:
        self._check = check or Check()
        self._statuses = frozenset(self._check.statuses)
        self._payloads = payloads
        self._cell_id = cell_id
        self._samples: list[Sample] = []
        self._under_way: dict[int, Sample] = {}
        self._begun = 0
        self._kept: list[int] = []
        self._answered = 0
        self._draw = random.Random(0)  # noqa: S311 - which answers to check
        self.checked = 0
        self.wrong = 0

    def __len__(self) -> int:
        return len(self._samples)

    def begin(self, due: float, sent: float, body: int, *, waited: bool = False) -> int:
        """Note a request as it is sent; :meth:`add` takes its ticket when it has finished."""
        self._begun += 1
        nan = float("nan")
        self._under_way[self._begun] = Sample(
            due, sent, nan, body, NO_ANSWER, "", "", "", None, waited
        )
        return self._begun

    def add(self, sample: Sample, ticket: int = 0) -> None:
        """Keep a sample; the body only of some, for checking.

        Those are drawn evenly from all answers so far (a reservoir: Vitter's algorithm R), since
        nobody knows how many there will be.
        """
        self._under_way.pop(ticket, None)
        place = None
        if sample.answer is not None and sample.status in self._statuses:
            self._answered += 1
            place = self._place()
        if place is None:
            self._samples.append(sample._replace(answer=None))
            return
        if place < len(self._kept):
            old = self._kept[place]
            self._samples[old] = self._samples[old]._replace(answer=None)
            self._kept[place] = len(self._samples)
        else:
            self._kept.append(len(self._samples))
        self._samples.append(sample)

    def _place(self) -> int | None:
        """Where the newest answer goes among those kept; None for nowhere."""
        if len(self._kept) < _MOST_KEPT_BODIES:
            return len(self._kept)
        place = int(self._draw.random() * self._answered)
        return place if place < _MOST_KEPT_BODIES else None

    def add_unsent(self, due: float, body: int) -> None:
        """Keep a request that fell due and was never sent: counted, not dropped in silence."""
        nan = float("nan")
        self._samples.append(Sample(due, nan, nan, body, UNSENT, "", "", "", None, waited=True))

    def finish(self, started: float) -> Samples:
        """All samples, counted from ``started``; checks the answers that were kept.

        What is still under way is without an answer: left out, the slowest would be missing.
        """
        rows = sorted([*self._samples, *self._under_way.values()], key=lambda sample: sample.due)
        for sample in rows:
            if sample.answer is not None and not self._error(sample) and self._ours(sample):
                self._look_at(sample)
        timings = [parse_server_timing(sample.timing) for sample in rows]
        return Samples(
            due_s=_floats(sample.due - started for sample in rows),
            sent_s=_floats(sample.sent - started for sample in rows),
            done_s=_floats(sample.done - started for sample in rows),
            read_s=_floats(
                (sample.done if sample.read is None else sample.read) - started for sample in rows
            ),
            body=np.array([sample.body for sample in rows], dtype=np.int64),
            status=np.array([sample.status for sample in rows], dtype=np.int64),
            error=np.array([self._error(sample) for sample in rows], dtype=np.str_),
            waited=_flags(sample.waited for sample in rows),
            own_cell=_flags(self._ours(sample) for sample in rows),
            inline=_flags("desc=inline" in sample.timing for sample in rows),
            queue_s=_floats(timing.get("queue", np.nan) for timing in timings),
            service_s=_floats(timing.get("service", np.nan) for timing in timings),
        )

    def _look_at(self, sample: Sample) -> None:
        expected = self._payloads.expected[sample.body]
        if expected:
            self.checked += 1
            self.wrong += not _matches(sample, expected)
        elif self._check.outputs is not None:
            self.checked += 1
            self.wrong += not _has(sample, self._check.outputs)
        elif self._check.reads_bodies:
            self.checked += 1
            self.wrong += self._check.failure(sample.answer or b"") is not None

    def _error(self, sample: Sample) -> str:
        if sample.failure:
            return sample.failure[:_LONGEST_ERROR]
        if sample.status in self._statuses or sample.status == UNSENT:
            return ""
        return f"http_{sample.status}" if sample.status else "no_answer"

    def _ours(self, sample: Sample) -> bool:
        return self._cell_id is None or sample.cell == self._cell_id


def parse_server_timing(header: str) -> dict[str, float]:
    """Durations in seconds by metric name, from a ``Server-Timing`` header.

    A foreign server may write what it likes there; what is no duration is left out.

    >>> parse_server_timing("queue;dur=0.5, service;dur=2, infer;desc=inline")
    {'queue': 0.0005, 'service': 0.002}
    """
    found = {}
    for part in header.split(","):
        name, _, rest = part.strip().partition(";")
        if rest.startswith("dur="):
            try:
                found[name] = float(rest[4:]) / 1e3
            except ValueError:
                continue
    return found


def _decoded(sample: Sample) -> dict[str, np.ndarray] | None:
    """The tensors of an answer over V2; None where it is none."""
    try:
        length = int(sample.head_length) if sample.head_length else None
        return decode_response(sample.answer or b"", length)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, V2Error):
        return None


def _has(sample: Sample, outputs: Sequence[TensorSpec]) -> bool:
    """Whether an answer has these outputs, of these types.

    Of shapes many servers say what is not so, and nobody minds.
    """
    answer = _decoded(sample)
    if not answer:
        return False
    return all(
        spec.name in answer and datatype_of(answer[spec.name]) == spec.datatype for spec in outputs
    )


def _matches(sample: Sample, expected: Mapping[str, np.ndarray]) -> bool:
    answer = _decoded(sample)
    if answer is None:
        return False
    return all(
        name in answer
        and answer[name].shape == values.shape
        and (
            np.allclose(answer[name], values, atol=_TOLERANCE, rtol=_TOLERANCE)
            if values.dtype.kind in "fc"
            else np.array_equal(answer[name], values)
        )
        for name, values in expected.items()
    )


def _floats(values: Iterable[float]) -> np.ndarray:
    return np.fromiter(values, dtype=np.float64)


def _flags(values: Iterable[bool]) -> np.ndarray:
    return np.fromiter(values, dtype=bool)
