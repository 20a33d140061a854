"""``make bench``: every figure that the README quotes, written to reports/published/.

Resumable: a part that was measured with this very code is not measured again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.credit import PARTS, dump
from reports.write import write_reports
from serving import host_facts

ROOT = Path(__file__).parents[1]
CODE = ("serving", "loadtests", "planner", "reports", "tonnage", "benchmarks", "configs")
PUBLISHED = ROOT / "reports" / "published" / "credit"
STUDY_FILES = ("report.md", "report.json", "latency.svg")


def code_hash() -> str:
    """Identifies the code and configuration behind a result."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".j2", ".css", ".js"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    """Measure what is not measured yet, then publish."""
    code = code_hash()
    state = ROOT / "runs" / "bench" / code
    state.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name, part in PARTS.items():
        path = state / f"{name}.json"
        if not path.is_file():
            sys.stderr.write(f"bench: {name}\n")
            path.write_text(dump(part()))
        results[name] = json.loads(path.read_text())
    study = state / "study"
    if not list(study.glob("credit/*/finished")):
        sys.stderr.write("bench: the credit study\n")
        command = [sys.executable, "-m", "tonnage", "run", "credit", "--runs", str(study)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    folder = sorted(study.glob("credit/*/finished"))[-1].parent
    write_reports(folder, picture=True)
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    for name in STUDY_FILES:
        shutil.copy(folder / name, PUBLISHED / name)
    model, flags = host_facts.cpu_info()
    results["host"] = {"cpu": model, "instruction_sets": flags, "code": code}
    (PUBLISHED / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    (PUBLISHED / "bench.md").write_text(render(results))
    sys.stdout.write(render(results))


def render(results: dict[str, Any]) -> str:
    """The figures against their aims, as Markdown."""
    inside, served, enforced = (results[name] for name in PARTS)
    lines = [
        "# Credit: the figures behind the README",
        "",
        f"`make bench` on {results['host']['cpu']}, two cores. Five alternating repeats, medians;",
        "the range of the five ratios in brackets. Raw figures: `bench.json`.",
        "",
        "| figure | aim | measured |",
        "|---|---|---|",
        f"| int8 file smaller than fp32 | at least 60 % | {inside['int8_smaller_by']:.0%} |",
        f"| int8 delta AUC | within .003 | {inside['int8_delta_auc']:+.4f} |",
    ]
    for threads, row in inside["threads"].items():
        lines += [
            f"| ONNX over scikit-learn, batch 6,000, {threads} thread(s) | at least 1.9x "
            f"| {_range(row['onnx_over_sklearn'])} |",
            f"| int8 over ONNX, batch 6,000, {threads} thread(s) | at least 1.2x "
            f"| {_range(row['int8_over_onnx'])} |",
        ]
    aims = {"batch 1, 8": "at least 0.3x", "batch 6000": "at least 0.9x"}
    for name, row in served.items():
        aim = next((text for start, text in aims.items() if name.startswith(start)), "-")
        lines.append(
            f"| served over bare uvicorn, {name} | {aim} | {_range(row['served_over_bare'])} |"
        )
    for load, row in enforced.items():
        for spec, share in row["rps_per_vcpu_over_sim-1"].items():
            used = row["most_cpu_used_over_granted"][spec]
            lines.append(
                f"| {load} on {spec}: throughput per vCPU against sim-1:quota; most CPU used of "
                f"its grant | 0.8 to 1.2; at most 1.05 | {share:.2f}; {used:.3f} |"
            )
    return "\n".join(lines) + "\n"


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f}x ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"


if __name__ == "__main__":
    main()
