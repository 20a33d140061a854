"""How the explanations time a call: ways take turns, so that a slow minute hits them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

BATCHES = (1, 32, 256)
_ROUNDS = 7


def in_turns(calls: Mapping[str, Callable[[Any], Any]], rows: Any, batch: int) -> dict[str, float]:
    """Milliseconds of a call with ``rows`` by way: the median of the rounds' medians."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            times[name].append(timed(partial(call, rows), max(5, 200 // batch)))
    return {name: median(values) for name, values in times.items()}


def timed(call: Callable[[], Any], count: int) -> float:
    """Median milliseconds of ``count`` calls, after three."""
    for _ in range(3):
        call()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * median(times)


def session(file: str, **settings: Any) -> Any:
    """An ONNX file in onnxruntime on one thread of the CPU.

    ``settings`` are attributes of its options; ``fixed`` is the value of the dimension "batch",
    and ``entries`` are further settings by their own names.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if (batch := settings.pop("fixed", None)) is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    for name, value in settings.pop("entries", {}).items():
        options.add_session_config_entry(name, value)
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
