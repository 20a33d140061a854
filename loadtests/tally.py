"""What a worker keeps of its requests, and how it sums them up at the end.

While the clock runs only raw values are appended; histograms, header parsing and answer
checks happen afterwards, so that they cannot delay a dispatch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from loadtests.histogram import Histogram
from loadtests.payloads import Payloads
from serving.app import CELL_HEADER
from serving.v2 import HEADER_LENGTH, decode_response

# Answers of one file on one machine agree to the last bit or two of FP32; int8 kernels
# choose scales per call from the same rows, so they agree as well.
_TOLERANCE = 1e-4
_MOST_KEPT_BODIES = 64
# A due time is split into whole seconds and nanoseconds for the timer.
_ROUNDING_S = 1e-6


class Sample(NamedTuple):
    """One finished request. Times are ``perf_counter`` seconds; status 0 is no answer.

    ``waited`` is true when every connection was busy as it fell due: the server was full,
    and the wait until it was sent is latency, but no fault of the generator.
    """

    due: float
    sent: float
    done: float
    payload: int
    status: int
    headers: Mapping[str, str] | None
    body: bytes | None
    waited: bool = False


class Tally:
    """Samples of one run on one worker.

    ``cell_id`` None is a server that is not ours: its answers carry no cell.
    """

    def __init__(self, payloads: Payloads, cell_id: str | None, check_every: int) -> None:
        self._payloads = payloads
        self._cell_id = cell_id
        self._check_every = check_every
        self._samples: list[Sample] = []
        self._kept = 0
        self.offered = 0
        self.unsent = 0

    @property
    def complete(self) -> bool:
        """Whether every request that fell due has been answered, failed, or been given up."""
        return len(self._samples) + self.unsent >= self.offered

    def add(self, sample: Sample) -> None:
        """Keep a sample; the body only of every n-th, for checking."""
        keep = len(self._samples) % self._check_every == 0 and self._kept < _MOST_KEPT_BODIES
        self._kept += keep
        self._samples.append(sample if keep or sample.status != 200 else sample._replace(body=None))

    def summarise(self, started: float, ends: float) -> dict[str, Any]:
        """JSON-ready result: counts, encoded histograms, backlog growth, answer checks."""
        good: list[Sample] = []
        errors: Counter[str] = Counter()
        checked = wrong = other_cell = backward = 0
        queue: list[float] = []
        service: list[float] = []
        how: Counter[str] = Counter()
        for sample in self._samples:
            headers = sample.headers or {}
            if sample.status != 200:
                errors[_error_name(sample)] += 1
                continue
            if self._cell_id is not None and headers.get(CELL_HEADER) != self._cell_id:
                other_cell += 1
                continue
            if sample.body is not None and self._payloads.expected:
                checked += 1
                wrong += not self._matches(sample)
            timing = parse_server_timing(headers.get("server-timing", ""))
            queue += [timing["queue"]] if "queue" in timing else []
            service += [timing["service"]] if "service" in timing else []
            how["inline" if "desc=inline" in headers.get("server-timing", "") else "thread"] += 1
            good.append(sample)
            backward += min(sample.done - sample.sent, *timing.values(), 0.0) < 0
        backward += sum(s.sent < s.due - _ROUNDING_S for s in self._samples)
        return {
            "offered": self.offered,
            "ok": len(good),
            "unsent": self.unsent,
            "errors": dict(errors),
            "other_cell": other_cell,
            "checked": checked,
            "wrong": wrong,
            "backward": backward,
            "inference": how.most_common(1)[0][0] if how else "none",
            "elapsed_s": max((s.done for s in self._samples), default=ends) - started,
            "backlog_growth": backlog_growth(self._samples, started, ends),
            "due_to_done": _encode(s.done - s.due for s in good),
            "sent_to_done": _encode(s.done - s.sent for s in good),
            "dispatch_lag": _encode(s.sent - s.due for s in self._samples if not s.waited),
            "queue": _encode(queue),
            "service": _encode(service),
        }

    def _matches(self, sample: Sample) -> bool:
        headers = sample.headers or {}
        length = headers.get(HEADER_LENGTH.lower())
        try:
            answer = decode_response(sample.body or b"", int(length) if length else None)
        except (ValueError, KeyError, TypeError):
            return False
        return all(
            name in answer
            and answer[name].shape == values[sample.payload].shape
            and (
                np.allclose(answer[name], values[sample.payload], atol=_TOLERANCE, rtol=_TOLERANCE)
                if values.dtype.kind in "fc"
                else np.array_equal(answer[name], values[sample.payload])
            )
            for name, values in self._payloads.expected.items()
        )


def parse_server_timing(header: str) -> dict[str, float]:
    """Durations in seconds by metric name, from a ``Server-Timing`` header.

    >>> parse_server_timing("queue;dur=0.5, service;dur=2, infer;desc=inline")
    {'queue': 0.0005, 'service': 0.002}
    """
    found = {}
    for part in header.split(","):
        name, _, rest = part.strip().partition(";")
        if rest.startswith("dur="):
            found[name] = float(rest[4:]) / 1e3
    return found


def backlog_growth(samples: list[Sample], started: float, ends: float) -> float:
    """Growth of the number of due but unfinished requests, per second, least squares.

    Sampled at 50 moments after the first fifth of the run, where it is still filling.
    """
    if len(samples) < 20:
        return 0.0
    due = np.sort([s.due for s in samples])
    done = np.sort([s.done for s in samples])
    at = np.linspace(started + (ends - started) / 5, ends, 50)
    backlog = np.searchsorted(due, at) - np.searchsorted(done, at)
    return float(np.polyfit(at - started, backlog, 1)[0])


def _error_name(sample: Sample) -> str:
    return f"http_{sample.status}" if sample.status else "no_answer"


def _encode(values: Any) -> dict[str, Any]:
    return Histogram.of(values).model_dump()
