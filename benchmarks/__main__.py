"""``make bench``: every figure that the README quotes, written to reports/published/.

Resumable: a part whose result lies in runs/bench/ is not measured again; remove the
folder to start anew.
"""

from __future__ import annotations

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
STATE = ROOT / "runs" / "bench"
PUBLISHED = ROOT / "reports" / "published" / "credit"
STUDY_FILES = ("report.md", "report.json", "latency.svg")


def main() -> None:
    """Measure what is not measured yet, then publish."""
    STATE.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name, part in PARTS.items():
        path = STATE / f"{name}.json"
        if not path.is_file():
            sys.stderr.write(f"bench: {name}\n")
            path.write_text(dump(part()))
        results[name] = json.loads(path.read_text())
    study = STATE / "study"
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
    results["host"] = {"cpu": model, "instruction_sets": flags}
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
