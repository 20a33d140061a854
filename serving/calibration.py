"""Calibration: how fast this host's CPUs are, alone and all at once, on kernels of inference.

Two of them, from the host that measured and from where it will run, give the CPU factor that
carries prices, see :mod:`planner.cpu_factor`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib import metadata
from typing import IO, Literal, Self

import numpy as np
from pydantic import Field

from serving.calibration_worker import KERNELS, MEMORY_BYTES
from serving.errors import Infrastructure
from serving.host_facts import cpu_info, is_virtualised, memory_limit_gib, physical_cores
from serving.records import SCHEMA_VERSION, Record

HOST_FAMILY = "host"
ROUNDS, ROUND_S = 6, 0.8
WARM_UP_S = 0.05
START_S = 3.0
LEAST_SHARE = 0.9
_PACKAGES = ("numpy", "onnxruntime")


class KernelSpeed(Record):
    """Calls per second of one kernel on each of ``workers`` CPUs that run it at once."""

    kernel: str
    workers: int = Field(ge=1)
    low: float = Field(gt=0, description="first quartile over the rounds")
    calls_per_s: float = Field(gt=0, description="median over the rounds")
    high: float = Field(gt=0, description="third quartile over the rounds")
    rounds: int = Field(ge=1)
    cpu_share: float = Field(
        ge=0, description="median share of the time that a worker had its CPU to itself"
    )


class Calibration(Record):
    """What one host's CPUs do, and which they are.

    ``cpu_family`` is the key of prices.toml that it stands for; ``host`` for the host that
    measured a run.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    cpu_family: str
    cpu_model: str
    instruction_sets: tuple[str, ...]
    logical_cpus: int
    threads_per_core: int
    virtualised: bool
    packages: dict[str, str]
    measured_at: str
    speeds: tuple[KernelSpeed, ...] = Field(min_length=1)

    @property
    def disturbed(self) -> str | None:
        """Why it must not be believed: others (or the hypervisor) took too much of the CPUs."""
        worst = min(self.speeds, key=lambda s: s.cpu_share)
        if worst.cpu_share >= LEAST_SHARE:
            return None
        return (
            f"'{worst.kernel}' on {worst.workers} CPUs had them for {worst.cpu_share:.0%} of the "
            f"time, {LEAST_SHARE:.0%} are asked for: stop what else runs here, then calibrate again"
        )

    def speed(self, kernel: str, *, alone: bool) -> KernelSpeed | None:
        """The speed of a CPU alone, or with all others busy; None where it was not measured."""
        found = [s for s in self.speeds if s.kernel == kernel]
        chosen = min if alone else max
        return chosen(found, key=lambda s: s.workers) if found else None


def duration_s(rounds: int = ROUNDS, round_s: float = ROUND_S) -> float:
    """How long :func:`calibrate` takes, roughly."""
    return START_S + rounds * 2 * len(KERNELS) * (round_s + WARM_UP_S)


def calibrate(
    cpu_family: str,
    *,
    rounds: int = ROUNDS,
    round_s: float = ROUND_S,
    progress: Callable[[int], None] = lambda number: None,
) -> Calibration:
    """Run every kernel on one CPU and on all of them, in turns, ``rounds`` times.

    Turns spread what disturbs the host over all kernels. With little memory fewer CPUs are
    busy than there are; the record says how many. Infrastructure when a worker dies.
    """
    cpus = _cpus()
    counts = sorted({1, len(cpus)})
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with _Workers(cpus) as workers:
        for name in KERNELS:
            workers.run(name, len(cpus), WARM_UP_S)
        for number in range(rounds):
            progress(number)
            for name in KERNELS:
                for count in counts:
                    each = np.array(workers.run(name, count, round_s))  # [workers, 2]
                    speed, share = each.mean(axis=0).tolist()
                    found.setdefault((name, count), []).append((speed, share))
    model, flags = cpu_info()
    return Calibration(
        cpu_family=cpu_family,
        cpu_model=model,
        instruction_sets=flags,
        logical_cpus=len(os.sched_getaffinity(0)),
        threads_per_core=max(len(core) for core in physical_cores()),
        virtualised=is_virtualised(),
        packages={name: metadata.version(name) for name in _PACKAGES},
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        speeds=tuple(_speed(*key, values) for key, values in found.items()),
    )


def _cpus() -> list[int]:
    """CPUs to work on, the last first: interrupts tend to arrive on the first."""
    fit = int(memory_limit_gib() * 2**30 / 2 / MEMORY_BYTES)
    return sorted(os.sched_getaffinity(0), reverse=True)[: max(1, fit)]


def _speed(kernel: str, workers: int, values: Sequence[tuple[float, float]]) -> KernelSpeed:
    speeds, shares = np.array(values).T
    low, median, high = np.quantile(speeds, (0.25, 0.5, 0.75)).tolist()
    return KernelSpeed(
        kernel=kernel,
        workers=workers,
        low=low,
        calls_per_s=median,
        high=high,
        rounds=len(values),
        cpu_share=float(np.median(shares)),
    )


class _Workers:
    """A process for each CPU; a context manager that ends them."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = cpus
        self._stack = ExitStack()
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for cpu in self._cpus:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "serving.calibration_worker", str(cpu)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
                )
                stack.callback(_end, process)
                self._processes.append(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, kernel: str, count: int, seconds: float) -> list[tuple[float, float]]:
        """Calls per second and share of the CPU of the first ``count`` workers, all at once."""
        busy = self._processes[:count]
        try:
            for process in busy:
                _pipe(process.stdin).write(f"{kernel} {seconds}\n")
                _pipe(process.stdin).flush()
            answers = [_pipe(process.stdout).readline().split() for process in busy]
            return [(float(speed), float(share)) for speed, share in answers]
        except (OSError, ValueError):  # a broken pipe, or no answer
            raise Infrastructure(
                f"calibration: a worker ended while it ran '{kernel}'; its message is above"
            ) from None


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not read by a dead worker is flushed once more
            _pipe(stream).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # noqa: S101 - asked for above
    return stream
