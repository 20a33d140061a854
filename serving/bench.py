"""In-process benchmark: what a variant costs with no server and no network around it.

Each variant runs in a process of its own, so that its peak memory is its own. Executed
as a script it measures one variant and prints one JSON line per row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from serving.errors import BadInput, Infrastructure
from serving.gpu import cpu_providers, gpu_providers, memory_held
from serving.records import BenchRow, Variant
from serving.rows import count_rows, load_rows, save_rows, take
from serving.runtimes import load_runtime

_MOST_CALLS = 400
_FEWEST_CALLS = 15
_NO_GPU = "no GPU figure: "


def bench(
    variants: Sequence[Variant],
    rows: Mapping[str, np.ndarray],
    *,
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    progress: Callable[[str], None] = lambda name: None,
) -> list[BenchRow]:
    """Measure every variant at every batch and thread count, ``seconds`` each at most.

    ``rows`` are test inputs by name; batches are taken from their start.
    """
    available = count_rows(rows)
    if max(batches) > available:
        raise BadInput(
            f"[bench] batches: {max(batches)} rows are asked for, the test set has {available}"
        )
    results: list[BenchRow] = []
    with tempfile.TemporaryDirectory(prefix="tonnage-bench-") as folder:
        data = Path(folder) / "rows.npz"
        save_rows(data, {name: values[: max(batches)] for name, values in rows.items()})
        for variant in variants:
            progress(variant.name)
            request = {
                "variant": variant.model_dump(mode="json"),
                "data": str(data),
                "batches": list(batches),
                "threads": list(threads),
                "seconds": seconds,
            }
            done = subprocess.run(
                [sys.executable, "-P", "-m", "serving.bench"],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise Infrastructure(f"benchmark of {variant.name} failed: {last}")
            results += [BenchRow.model_validate_json(line) for line in done.stdout.splitlines()]
            for line in done.stderr.splitlines():
                if line.startswith(_NO_GPU):
                    progress(f"{variant.name}: {line}")
    return results


def bench_one(
    variant: Variant,
    rows: Mapping[str, np.ndarray],
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float,
) -> list[BenchRow]:
    """All rows of one variant, measured in this process: on the CPU, and on a GPU if there is.

    A form that does not run on the GPU (int8 of PyTorch, for one) has no row of it, and stderr
    says why.
    """
    here = variant.model_copy(update={"providers": cpu_providers(variant)})
    results = _bench_on("cpu", here, rows, batches, threads, seconds)
    if providers := gpu_providers(variant):
        there = variant.model_copy(update={"providers": providers})
        try:
            results += _bench_on("gpu", there, rows, batches, threads[:1], seconds)
        except Exception as error:  # whatever a library throws at a device that it cannot use
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            sys.stderr.write(f"{_NO_GPU}{first[:200]}\n")
    return results


def _bench_on(
    device: Literal["cpu", "gpu"],
    variant: Variant,
    rows: Mapping[str, np.ndarray],
    batches: Sequence[int],
    threads: Sequence[int],
    seconds: float,
) -> list[BenchRow]:
    cores = len(os.sched_getaffinity(0))
    results = []
    for count in threads:
        started = time.perf_counter()
        runtime = load_runtime(variant, count)
        load_s = time.perf_counter() - started
        for batch in batches:
            inputs = take(rows, range(batch), batched=variant.batched)
            for _ in range(3):
                runtime.predict(inputs)
            times: list[float] = []
            until = time.perf_counter() + seconds
            while len(times) < _FEWEST_CALLS or (
                len(times) < _MOST_CALLS and time.perf_counter() < until
            ):
                begin = time.perf_counter()
                runtime.predict(inputs)
                times.append(time.perf_counter() - begin)
            p50, p95, p99 = np.quantile(times, [0.5, 0.95, 0.99]).tolist()
            results.append(
                BenchRow(
                    variant=variant.name,
                    batch=batch,
                    threads=count,
                    device=device,
                    oversubscribed=count > cores,
                    n_calls=len(times),
                    p50_ms=p50 * 1e3,
                    p95_ms=p95 * 1e3,
                    p99_ms=p99 * 1e3,
                    rows_per_s=batch / p50,
                    peak_rss_bytes=_peak_rss_bytes(),
                    gpu_memory_bytes=memory_held() if device == "gpu" else None,
                    load_s=load_s,
                )
            )
    return results


def _peak_rss_bytes() -> int:
    """Peak resident memory of this process.

    From VmHWM: getrusage's ru_maxrss survives exec, so it may be the parent's peak.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Read a request from stdin, write rows to stdout."""
    request = json.loads(sys.stdin.read())
    rows = load_rows(Path(request["data"]))
    variant = Variant.model_validate(request["variant"])
    for row in bench_one(variant, rows, request["batches"], request["threads"], request["seconds"]):
        sys.stdout.write(row.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
