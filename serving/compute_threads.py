"""How many threads a runtime computes with: counted in its process, not read off its settings."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

# What is imported before a model of the runtime is loaded, so that neither the time nor the
# threads of the import count as the model's.
_LIBRARIES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "sklearn": "sklearn.neural_network",
    "torch": "torch",
}
_TASKS = Path("/proc/self/task")


def import_library(runtime: str) -> None:
    """Import what a runtime stands on; loading the model says so when it is missing."""
    with contextlib.suppress(ImportError):
        importlib.import_module(_LIBRARIES.get(runtime, "numpy"))


def thread_ids() -> set[int]:
    """Kernel ids of the threads of this process."""
    return {int(name) for name in os.listdir(_TASKS)}


def process_age_s() -> float:
    """Seconds since this process was started (not since it last became another program)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def compute_threads(runtime: str, earlier: Collection[int]) -> int | None:
    """Threads that compute, the calling one included; None where that cannot be counted.

    ``earlier`` are the threads from before the model was loaded. onnxruntime's pool are the
    native threads since then that were started by the thread that calls this (a thread is
    named like its maker until it is given a name). scikit-learn's pools may be older than the
    model, and say themselves how many of their threads they use.
    """
    if runtime == "sklearn":
        from threadpoolctl import threadpool_info

        return max((pool["num_threads"] for pool in threadpool_info()), default=1)
    if runtime not in ("onnxruntime", "stub"):
        return None
    python = {thread.native_id for thread in threading.enumerate()}
    mine = _name(threading.get_native_id())
    fresh = thread_ids() - set(earlier) - python
    return 1 + sum(_name(thread) == mine for thread in fresh)


def _name(thread: int) -> str:
    try:
        return (_TASKS / str(thread) / "comm").read_text()
    except OSError:
        return ""
