"""Memory of a process that loads an ONNX file and calls it, stage by stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.explain_timing import session

_CALLS = 5


def memory(file: str, rows_file: str, arena: str) -> dict[str, float]:
    """MiB resident: with the library alone, at the peak of loading, after it, and with calls.

    ``rows_file`` holds float32 rows for the only input; calls are at batch 1, then with all
    rows. ``arena`` is "arena", or "no arena" for tensors that are freed after every call.
    """
    import onnxruntime

    rows = np.load(rows_file)
    onnxruntime.get_available_providers()
    found = {"library": _resident("VmRSS")}
    opened = session(file, enable_cpu_mem_arena=arena == "arena")
    found |= {"load_peak": _resident("VmHWM"), "loaded": _resident("VmRSS")}
    name = opened.get_inputs()[0].name
    for label, some in (("one", rows[:1]), ("all", rows)):
        for _ in range(_CALLS):
            opened.run(None, {name: some})
        found |= {f"{label}_peak": _resident("VmHWM"), f"{label}_steady": _resident("VmRSS")}
    return found


def _resident(what: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    return 0.0
