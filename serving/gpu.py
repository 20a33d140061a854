"""GPUs: how a variant would use one here, and how much of its memory this process holds."""

from __future__ import annotations

import os
import subprocess

from serving.records import Variant

_PROVIDER = "CUDAExecutionProvider"
_GPU_PROVIDERS = frozenset(
    {
        _PROVIDER,
        "TensorrtExecutionProvider",
        "NvTensorRTRTXExecutionProvider",
        "ROCMExecutionProvider",
        "MIGraphXExecutionProvider",
        "DmlExecutionProvider",
    }
)


def cpu_providers(variant: Variant) -> tuple[str, ...]:
    """What ``variant`` is configured to run on, without GPUs."""
    return tuple(name for name in variant.providers if name not in _GPU_PROVIDERS)


def gpu_providers(variant: Variant) -> tuple[str, ...]:
    """What runs ``variant`` on the GPU: its own providers where it names one; empty without a GPU.

    Of onnxruntime they are execution providers, of torch a device. Other runtimes have none.
    """
    if variant.runtime not in ("onnxruntime", "torch") or _compute_processes() is None:
        return ()
    if variant.runtime == "torch":
        return ("cuda",)
    if _GPU_PROVIDERS.intersection(variant.providers):
        return variant.providers
    import onnxruntime

    here = _PROVIDER in onnxruntime.get_available_providers()
    return (_PROVIDER, "CPUExecutionProvider") if here else ()


def memory_held() -> int | None:
    """Bytes of GPU memory that this process holds; None where the driver does not say.

    So it is in a container, whose processes the driver lists by the host's numbers.
    """
    held = [used for pid, used in _compute_processes() or () if pid == os.getpid()]
    return sum(held) if held else None


def _compute_processes() -> list[tuple[int, int]] | None:
    """Process ids and the bytes that each holds; None where no driver answers."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    lines = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1]
    # Some drivers say [N/A] of the memory.
    return [(int(pid), int(used) << 20) for pid, used in lines if used.strip().isdigit()]
