"""The figures of the credit workload: in process, served against bare, and enforcement.

Everything compared is measured side by side in one run, in alternation, five times over;
quoted are medians and the ratio of each pair.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.wrk import wrk
from reports.write import write_reports
from serving.build import build_variants
from serving.instances import load_instances, resolve
from serving.placement import Placement
from serving.ray_host.client import RayHost
from serving.records import Deployment, Variant
from serving.runtimes import Runtime, load_runtime
from serving.steps import Dataset
from serving.stub_variant import stub_variant
from serving.v2 import encode_request
from serving.workloads import find_workload
from tonnage.config import load_study, shipped

REPEATS = 5
ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "reports" / "published" / "credit"
BARE_SERVER = Path(__file__).with_name("bare_server.py")
Result = dict[str, Any]


def built() -> tuple[dict[str, Variant], Dataset]:
    """The credit study's variants by name, and its data."""
    study, _ = load_study("credit")
    workload = find_workload(study.workload)
    data = workload.load(None, study.seed)
    variants = build_variants(
        workload,
        study.variants,
        data,
        seed=study.seed,
        max_loss=study.quality.max_loss,
    )
    return {v.name: v for v in variants}, data


def in_process() -> Result:
    """Sizes, quality, and latency at batch 6,000 with one and with two threads."""
    variants, data = built()
    rows = data.test
    result: Result = {"batch": len(rows["features"]), "threads": {}}
    for threads in (1, 2):
        # One runtime at a time: scikit-learn's thread limit is one per process.
        code = [sys.executable, "-m", "benchmarks.in_process_one", str(threads)]
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(REPEATS):
            for name in variants:
                done = subprocess.run([*code, name], capture_output=True, text=True, check=True)
                times[name].append(float(done.stdout))
        medians = {name: median(values) for name, values in times.items()}
        result["threads"][threads] = {
            "median_ms": medians,
            "all_ms": times,
            "onnx_over_sklearn": _ratio(times["sklearn"], times["onnx_fp32"]),
            "int8_over_onnx": _ratio(times["onnx_fp32"], times["onnx_int8"]),
        }
    fp32, int8 = variants["onnx_fp32"], variants["onnx_int8"]
    result["int8_smaller_by"] = 1 - int8.size_bytes / fp32.size_bytes
    result["sizes_bytes"] = {name: v.size_bytes for name, v in variants.items()}
    result["auc"] = {n: v.quality.auc for n, v in variants.items() if v.quality}
    base, quantized = variants["sklearn"].quality, int8.quality
    if base and quantized and base.auc and quantized.auc:
        result["int8_delta_auc"] = quantized.auc - base.auc
    return result


def time_one(name: str, threads: int) -> float:
    """Median latency in ms of one variant over the whole test set, in this process."""
    variants, data = built()
    runtime: Runtime = load_runtime(variants[name], threads)
    rows = dict(data.test)
    for _ in range(5):
        runtime.predict(rows)
    times = []
    for _ in range(60):
        begin = time.perf_counter()
        runtime.predict(rows)
        times.append(time.perf_counter() - begin)
    return 1e3 * median(times)


def served_against_bare() -> Result:
    """Serve and a bare server under wrk: same codec, model and cores."""
    variants, data = built()
    variant = variants["onnx_fp32"]
    size = resolve("sim-1", load_instances(shipped("instances.toml")))
    result: Result = {}
    with (
        tempfile.TemporaryDirectory() as name,
        RayHost(Path(name) / "ray.log") as host,
    ):
        folder = Path(name)
        endpoint = host.deploy(Deployment(variant=variant, instance=size, threads=1))
        bare = _start_bare(variant, host.placement, folder)
        path = f"/v2/models/{endpoint.model_name}/infer"
        urls = {"served": endpoint.url + path, "bare": f"http://127.0.0.1:{bare[1]}{path}"}
        try:
            for batch, connections in ((1, 1), (1, 8), (6000, 1), (6000, 8)):
                body, length = _body(data, batch)

                def one(
                    url: str,
                    body: bytes = body,
                    length: int = length,
                    connections: int = connections,
                ) -> dict[str, float]:
                    return wrk(
                        url,
                        body,
                        length,
                        connections=connections,
                        seconds=4,
                        cpu=host.placement.platform_cpus[0],
                        folder=folder,
                    )

                result[f"batch {batch}, {connections} connections"] = _alternate(urls, one)
        finally:
            bare[0].terminate()
            bare[0].wait()
    return result


def enforcement() -> Result:
    """Throughput and CPU use of sim-0.25, sim-0.5 and sim-1, all by quota.

    Three loads: a stub that burns 5 ms of CPU a call and touches no memory, which is the
    purest test of the quota, and two models at a batch of 6,000 rows, whose caches a
    throttled replica finds cold at the start of every period.
    """
    variants, data = built()
    with tempfile.TemporaryDirectory() as name, RayHost(Path(name) / "ray.log") as host:
        folder = Path(name)
        stub = stub_variant(folder, busy_ms=5.0)
        rows = np.zeros((1, 4), np.float32)
        tiny, tiny_length = encode_request({"features": rows}, ["sums"])
        loads = {
            "stub, 5 ms of CPU": (stub, tiny, tiny_length or len(tiny)),
            "sklearn, batch 6,000": (variants["sklearn"], *_body(data, 6000)),
            "onnx_fp32, batch 6,000": (variants["onnx_fp32"], *_body(data, 6000)),
        }
        return {label: _enforced(host, folder, *load) for label, load in loads.items()}


def _enforced(host: RayHost, folder: Path, variant: Variant, body: bytes, length: int) -> Result:
    catalogue = load_instances(shipped("instances.toml"))
    specs = ["sim-0.25", "sim-0.5", "sim-1:quota"]
    seen: dict[str, list[dict[str, float]]] = {spec: [] for spec in specs}
    for _ in range(REPEATS):
        for spec in specs:
            size = resolve(spec, catalogue)
            endpoint = host.deploy(Deployment(variant=variant, instance=size, threads=1))
            group = host.groups(endpoint.model_name)[0]
            before, begin = group.usage(), time.perf_counter()
            figures = wrk(
                f"{endpoint.url}/v2/models/{endpoint.model_name}/infer",
                body,
                length,
                connections=4,
                seconds=4,
                cpu=host.placement.platform_cpus[0],
                folder=folder,
            )
            after, end = group.usage(), time.perf_counter()
            figures["cpu_used"] = (after.cpu_s - before.cpu_s) / (end - begin)
            figures["cpu_granted"] = size.vcpus
            seen[spec].append(figures)
            host.delete(endpoint.model_name)
    per_cpu = {s: median(r["rps"] / r["cpu_granted"] for r in runs) for s, runs in seen.items()}
    whole = per_cpu["sim-1:quota"]
    return {
        "runs": seen,
        "median_rps": {s: median(r["rps"] for r in runs) for s, runs in seen.items()},
        "rps_per_vcpu_over_sim-1": {s: value / whole for s, value in per_cpu.items()},
        "most_cpu_used_over_granted": {
            s: max(r["cpu_used"] / r["cpu_granted"] for r in runs) for s, runs in seen.items()
        },
    }


def _alternate(urls: dict[str, str], one: Callable[[str], dict[str, float]]) -> Result:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in urls}
    for _ in range(REPEATS):
        for name, url in urls.items():
            runs[name].append(one(url))
    rates = {name: [run["rps"] for run in made] for name, made in runs.items()}
    return {
        "runs": runs,
        "median_rps": {name: median(values) for name, values in rates.items()},
        "served_over_bare": _ratio(rates["served"], rates["bare"]),
    }


def _ratio(a: list[float], b: list[float]) -> dict[str, float]:
    pairs = [x / y for x, y in zip(a, b, strict=True)]
    return {"median": median(pairs), "lowest": min(pairs), "highest": max(pairs)}


def _body(data: Dataset, batch: int) -> tuple[bytes, int]:
    rows = {name: np.ascontiguousarray(values[:batch]) for name, values in data.test.items()}
    body, length = encode_request(rows, ["probabilities"])
    return body, length or len(body)


def _start_bare(
    variant: Variant, placement: Placement, folder: Path
) -> tuple[subprocess.Popen[bytes], int]:
    (folder / "variant.json").write_text(variant.model_dump_json())
    port = 18080
    cpus = ",".join(map(str, placement.replica_cpus))
    process = subprocess.Popen(
        [
            "/usr/bin/taskset",
            "-c",
            cpus,
            sys.executable,
            str(BARE_SERVER),
            str(folder / "variant.json"),
            str(port),
        ]
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", f"/v2/models/{variant.model_name}/ready")
            if connection.getresponse().status == 200:
                return process, port
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    process.kill()
    sys.exit("the bare server did not start")


def study() -> Result:
    """The study itself, as ``tonnage run credit`` does it; its reports are published."""
    runs = ROOT / "runs" / "bench" / "study"
    # Commands in the report name the folder as it is given: no path of one machine.
    command = [sys.executable, "-m", "tonnage", "run", "credit", "--fresh"]
    command += ["--runs", os.path.relpath(runs)]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    folder = sorted(runs.glob("credit/*/finished"))[-1].parent
    write_reports(folder, picture=True)
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    for name in ("report.md", "report.json", "latency.svg"):
        shutil.copy(folder / name, PUBLISHED / name)
    return {"seconds": seconds}


def parts() -> dict[str, Callable[[], Result]]:
    """Every part by name, in the order they are measured."""
    return {one.__name__: one for one in (in_process, served_against_bare, enforcement, study)}


def render(results: dict[str, Any]) -> list[str]:
    """Rows of the table of aims and figures, as Markdown."""
    inside, served = results["in_process"], results["served_against_bare"]
    lines = [
        f"| int8 file smaller than fp32 | at least 60 % | {inside['int8_smaller_by']:.0%} |",
        f"| int8 delta AUC | within .003 | {inside['int8_delta_auc']:+.4f} |",
    ]
    for threads, row in inside["threads"].items():
        lines += [
            f"| ONNX over scikit-learn, batch 6,000, {threads} thread(s) | at least 1.9x "
            f"| {_spread(row['onnx_over_sklearn'])} |",
            f"| int8 over ONNX, batch 6,000, {threads} thread(s) | at least 1.2x "
            f"| {_spread(row['int8_over_onnx'])} |",
        ]
    aims = {"batch 1, 8": "at least 0.3x", "batch 6000": "at least 0.9x"}
    for name, row in served.items():
        aim = next((text for start, text in aims.items() if name.startswith(start)), "-")
        lines.append(
            f"| served over bare uvicorn, {name} | {aim} | {_spread(row['served_over_bare'])} |"
        )
    for load, row in results["enforcement"].items():
        for spec, share in row["rps_per_vcpu_over_sim-1"].items():
            used = row["most_cpu_used_over_granted"][spec]
            lines.append(
                f"| {load} on {spec}: throughput per vCPU against sim-1:quota; most CPU used of "
                f"its grant | 0.8 to 1.2; at most 1.05 | {share:.2f}; {used:.3f} |"
            )
    seconds = results["study"]["seconds"]
    lines.append(f"| the whole study | about six minutes | {seconds / 60:.1f} min |")
    return lines


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f}x ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"
