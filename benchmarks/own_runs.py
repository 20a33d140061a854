"""What the benches of own models and own servers share: runs that are done once, and a table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.__main__ import ROOT, code_hash
from planner.recommend import best_on_host
from planner.records import Plan, ServiceProfile
from reports.bundle import Bundle
from serving import host_facts

Result = dict[str, Any]
CACHE = ROOT / ".cache"


def run_once(bench: str, name: str, arguments: Sequence[str], cwd: Path) -> Result:
    """Run ``tonnage run`` unless this code has done it; what it printed last, and its records.

    Exit code 1 (nothing holds) is an answer as well as 0.
    """
    state = ROOT / "runs" / "bench" / f"{bench}-{code_hash()}"
    kept = state / f"{name}.json"
    if kept.is_file():
        found: Result = json.loads(kept.read_text())
        return found
    sys.stderr.write(f"{bench}: {name}\n")
    runs = state / name
    command = [sys.executable, "-P", "-m", "tonnage", "run", *arguments, "--name", name]
    done = subprocess.run(
        [*command, "--runs", str(runs)], cwd=cwd, stdout=subprocess.PIPE, text=True
    )
    if done.returncode not in (0, 1):
        return {"exit_code": done.returncode}  # not kept: it is tried again
    folder = max((runs / name).iterdir())
    result = {"exit_code": done.returncode, **_records(Bundle.read(folder))}
    kept.write_text(json.dumps(result, indent=1))
    return result


def host() -> Result:
    """The machine and the code behind the figures."""
    model, flags = host_facts.cpu_info()
    return {"cpu": model, "instruction_sets": flags, "code": code_hash()}


def publish(folder: str, results: Result, text: str) -> None:
    """Write ``results.json`` and ``results.md`` into ``reports/published``."""
    target = ROOT / "reports" / "published" / folder
    target.mkdir(parents=True, exist_ok=True)
    (target / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (target / "results.md").write_text(text)
    sys.stdout.write(text)


def _records(bundle: Bundle) -> Result:
    (answer,) = bundle.recommendations
    faults = [f"{m.run.mode}: {f.code}" for m in bundle.measurements for f in m.faults]
    return {
        "data": bundle.info.dataset,
        "skipped": bundle.info.skipped,
        "variants": [
            {
                "name": v.name,
                "runtime": v.runtime,
                "precision": v.precision,
                "size_bytes": v.size_bytes,
                "fidelity": v.quality.reproduced if v.quality else None,
                "barred": v.barred,
                "inputs": [[s.name, s.datatype, list(s.shape)] for s in v.inputs],
                "one_row_a_call": not v.batched,
            }
            for v in bundle.variants
        ],
        "bench": [
            {"variant": b.variant, "batch": b.batch, "p50_ms": _short(b.p50_ms)}
            for b in bundle.bench
        ],
        "profiles": [_profile(p) for p in bundle.profiles],
        "runs": len(bundle.measurements),
        "faults": faults,
        "best": _plan(answer.best),
        "best_here": _plan(best_on_host(answer)),
        "note": answer.note,
        "rejected": len(answer.rejections),
    }


def _profile(p: ServiceProfile) -> Result:
    return {
        "variant": p.variant.name,
        "size": p.instance.label,
        "capacity_rps": _short(p.capacity_rps),
        "paced_p50_ms": _short(1e3 * p.service.quantile_s(0.5) + p.overhead_ms),
        "cpu_ms": _short(p.cpu_ms),
        "peak_memory_mib": round(p.peak_memory_bytes / 2**20),
        "startup_s": None if p.startup_s is None else _short(p.startup_s),
    }


def _plan(plan: Plan | None) -> Result | None:
    if plan is None:
        return None
    return {
        "variant": plan.candidate.variant,
        "instance": plan.candidate.instance,
        "instances": plan.instances,
        "replicas": plan.replicas,
        "size": plan.candidate.size,
        "p99_ms": [_short(plan.p99_ms.low), _short(plan.p99_ms.mid), _short(plan.p99_ms.high)],
        "usd_per_month": plan.usd_per_month and _short(plan.usd_per_month),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
