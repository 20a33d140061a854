"""GPUs: whether onnxruntime can use one here, and how much of its memory this process holds."""

from __future__ import annotations

import os
import subprocess

_PROVIDER = "CUDAExecutionProvider"


def gpu_providers() -> tuple[str, ...]:
    """Execution providers that run a model on the GPU; empty where there is none."""
    import onnxruntime

    if _PROVIDER not in onnxruntime.get_available_providers() or memory_held() is None:
        return ()
    return (_PROVIDER, "CPUExecutionProvider")


def memory_held() -> int | None:
    """Bytes of GPU memory that this process holds; None where no driver answers."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    lines = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1]
    return sum(int(used) << 20 for pid, used in lines if pid.strip() == str(os.getpid()))
