"""``python -m benchmarks.planning [RUN]``: how long planning takes, and how much memory.

Two questions. Planning over 100,000 synthetic candidates, made from a handful of committed
profiles: variants of other speeds, more threads, and every shape of the catalogue in 25
regions with prices of their own. Each demand is planned in a process of its own, so that
nothing is remembered and the peak of its memory is its own. And the command line's what-if
on a real run, RUN or the newest in ``runs/``, from typing to the last line.

Writes ``planning.json`` and ``planning.md`` into ``reports/published/planner/``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from loadtests.histogram import Histogram
from loadtests.objective import Slo
from planner.prices import PriceList, load_prices
from planner.recommend import recommend
from planner.records import Demand, ServiceProfile
from reports.bundle import read_lines
from serving import host_facts
from serving.instances import load_instances
from serving.records import InstanceType
from tonnage.config import shipped

ROOT = Path(__file__).parents[1]
FIXTURE = Path(__file__).parent / "fixtures" / "planning" / "profiles.jsonl"
PUBLISHED = ROOT / "reports" / "published" / "planner"
AIM_S, AIM_GIB, AIM_WHAT_IF_S = 5.0, 1.0, 2.0
REPEATS = 3
SPEEDS = tuple(np.geomspace(0.4, 2.5, 16).round(4).tolist())
THREADS = (1, 2)
REGIONS = 25
SEED = 7

# (requests per second, p99 in ms, replicas allowed): many candidates hold; few do, and most
# fail only after simulation; none does, for want of speed; thousands of replicas.
DEMANDS = {
    "usual": (4_000.0, 50.0, 64),
    "tight": (4_000.0, 1.2, 64),
    "impossible": (4_000.0, 0.2, 64),
    "fleet": (1_000_000.0, 50.0, 10_000),
}


def synthetic(
    regions: int = REGIONS, speeds: Sequence[float] = SPEEDS
) -> tuple[list[ServiceProfile], dict[str, InstanceType], PriceList]:
    """Profiles, catalogue and prices that make 100,000 candidates; always the same."""
    profiles = [
        _faster(profile, speed, number, threads)
        for profile in read_lines(FIXTURE, ServiceProfile)
        for number, speed in enumerate(speeds)
        for threads in THREADS
    ]
    catalogue = load_instances(shipped("instances.toml"))
    listed = load_prices(shipped("prices.toml"))
    instances = {name: size for name, size in catalogue.items() if size.is_host_size}
    prices = []
    for region in range(regions):
        for price in listed.prices:
            name = f"{price.instance}@region-{region:02}"
            instances[name] = catalogue[price.instance].model_copy(update={"name": name})
            dearer = price.usd_per_hour * (1 + 0.03 * region)
            prices.append(price.model_copy(update={"instance": name, "usd_per_hour": dearer}))
    return profiles, instances, PriceList(tuple(prices), listed.factors)


def _faster(profile: ServiceProfile, speed: float, number: int, threads: int) -> ServiceProfile:
    """The profile of an invented variant: everything takes 1 / speed of the time."""
    speed *= 1 + 0.2 * (threads - 1)
    values, counts = profile.service.values()
    interval, capacity = profile.capacity_interval, speed * profile.capacity_rps
    points = [
        p.model_copy(
            update={
                "rate_rps": p.rate_rps * speed,
                **{key: getattr(p, key) / speed for key in ("p50_ms", "p95_ms", "p99_ms")},
            }
        )
        for p in profile.measured_points
    ]
    update = {
        "variant": profile.variant.model_copy(
            update={"name": f"{profile.variant.name}-{number:02}"}
        ),
        "threads": threads,
        "service": Histogram.of(np.repeat(values / speed, counts)),
        "overhead_ms": profile.overhead_ms / speed,
        "capacity_rps": capacity,
        "capacity_interval": interval.model_copy(
            update={key: speed * getattr(interval, key) for key in ("low", "mid", "high")}
        ),
        "measured_points": tuple(points),
    }
    return profile.model_copy(update=update)


def plan_once(name: str) -> dict[str, Any]:
    """Plan one of ``DEMANDS`` in this process: seconds, peak memory, and what came out."""
    rate, limit, most = DEMANDS[name]
    profiles, instances, prices = synthetic()
    demand = Demand(
        name=name,
        title=name,
        batch=profiles[0].batch,
        batch_range=(profiles[0].batch, profiles[0].batch),
        rate_rps=rate,
        slo=Slo(limit_ms=limit),
        max_replicas=most,
    )
    variants = list({p.variant.name: p.variant for p in profiles}.values())
    before_gib = _peak_gib()
    began, cpu = time.perf_counter(), time.process_time()
    answer = recommend(
        demand, profiles, [], variants, instances, prices.prices, prices.factors, SEED
    )
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    plans = ([answer.best] if answer.best else []) + list(answer.alternatives)
    return {
        "rate_rps": rate,
        "p99_limit_ms": limit,
        "max_replicas": most,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_gib": _peak_gib(),
        "peak_before_gib": before_gib,
        "candidates": len(plans) + len(answer.rejections),
        "profiles": len(profiles),
        "plans": len(plans),
        "rejected_for": dict(Counter(r.bottleneck.value for r in answer.rejections)),
        "best": answer.best.model_dump(mode="json") if answer.best else None,
    }


def what_if(run: Path) -> dict[str, Any]:
    """Wall time of the command line's what-if, with the run's surfaces and without them."""
    arguments = ["plan", str(run), "--rate", "5000", "--p99", "20ms"]
    arguments += ["--price-file", str(shipped("prices.toml"))]
    result: dict[str, Any] = {
        "command": "tonnage plan RUN --rate 5000 --p99 20ms --price-file prices.toml",
        "profiles": len(read_lines(run / "profiles.jsonl", ServiceProfile)),
    }
    surfaces, aside = run / "surfaces.jsonl", run / ".surfaces.aside"
    result["seconds"] = [_timed(arguments) for _ in range(REPEATS)]
    surfaces.replace(aside)
    try:
        result["seconds_without_surfaces"] = [_timed(arguments) for _ in range(REPEATS)]
    finally:
        aside.replace(surfaces)
    return result


def _timed(arguments: list[str]) -> float:
    command = [sys.executable, "-P", "-m", "tonnage", *arguments]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in (0, 1):  # 1: no candidate holds, which is an answer
        sys.exit(done.stderr)
    return time.perf_counter() - began


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _newest_run() -> Path:
    """The newest run in runs/ that kept its surfaces; a quick one is made when there is none."""
    found = sorted((ROOT / "runs").glob("*/*/surfaces.jsonl"), key=lambda path: path.parent.name)
    if not found:
        sys.stderr.write("bench: no run in runs/; making a quick one\n")
        command = [sys.executable, "-P", "-m", "tonnage", "run", "credit", "--quick"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        return _newest_run()
    return found[-1].parent


def render(results: dict[str, Any]) -> str:
    """The figures against their aims, as Markdown."""
    lines = [
        "# How long planning takes",
        "",
        f"`python -m benchmarks.planning` on {results['host']}, {results['cores']} cores. Medians "
        f"of {REPEATS} runs, each in a process of its own; raw figures: `planning.json`.",
        "",
        f"| demand | candidates | profiles | seconds (aim: at most {AIM_S:g}) | CPU seconds "
        f"| peak memory, GiB (aim: at most {AIM_GIB:g}) | plans | rejected for |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, runs in results["demands"].items():
        first = runs[0]
        asked = (
            f"{first['rate_rps']:,.0f} req/s, p99 at most {first['p99_limit_ms']:g} ms, "
            f"up to {first['max_replicas']:,} replicas"
        )
        rejected = ", ".join(f"{why} {n:,}" for why, n in sorted(first["rejected_for"].items()))
        lines.append(
            f"| {name}: {asked} | {first['candidates']:,} | {first['profiles']} "
            f"| {median(run['seconds'] for run in runs):.2f} "
            f"| {median(run['cpu_seconds'] for run in runs):.2f} "
            f"| {median(run['peak_gib'] for run in runs):.2f} | {first['plans']} | {rejected} |"
        )
    asked = results["what_if"]
    lines += [
        "",
        f"| what-if on a run of {asked['profiles']} profiles "
        f"| seconds (aim: at most {AIM_WHAT_IF_S:g}) |",
        "|---|---:|",
        f"| `{asked['command']}` | {median(asked['seconds']):.2f} |",
        f"| the same, without the surfaces that the run kept "
        f"| {median(asked['seconds_without_surfaces']):.2f} |",
        "",
    ]
    return "\n".join(lines)


def measured(run: Path | None = None) -> dict[str, Any]:
    """Every demand several times, each in a process of its own, and the what-if on ``run``."""
    demands: dict[str, list[dict[str, Any]]] = {name: [] for name in DEMANDS}
    for _ in range(REPEATS):
        for name, runs in demands.items():
            sys.stderr.write(f"bench: {name}\n")
            command = [sys.executable, "-P", "-m", "benchmarks.planning", "--demand", name]
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
            runs.append(json.loads(done.stdout))
    run = run or _newest_run()
    sys.stderr.write(f"bench: what-if on {run}\n")
    return {
        "host": host_facts.cpu_info()[0],
        "cores": len(host_facts.physical_cores()),
        "demands": demands,
        "what_if": what_if(run),
    }


def main(arguments: list[str]) -> None:
    """Measure, then publish; ``--demand NAME`` is one measurement, as JSON on stdout."""
    if arguments[:1] == ["--demand"]:
        print(json.dumps(plan_once(arguments[1])))
        return
    results = measured(Path(arguments[0]) if arguments else None)
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    (PUBLISHED / "planning.json").write_text(json.dumps(results, indent=1) + "\n")
    (PUBLISHED / "planning.md").write_text(render(results))
    sys.stdout.write(render(results))


if __name__ == "__main__":
    main(sys.argv[1:])
