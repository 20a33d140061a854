"""``make bench``: every figure that the README quotes, written to reports/published/.

    python -m benchmarks [SUITE ...]

Resumable: a part that was measured with this very code is not measured again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import credit, generator, planted, slo_calibration
from benchmarks.suite import Suite
from serving import host_facts

ROOT = Path(__file__).parents[1]
CODE = ("serving", "loadtests", "planner", "reports", "tonnage", "benchmarks", "configs")
PUBLISHED = ROOT / "reports" / "published"

SUITES: dict[str, Suite] = {
    "measuring": Suite(
        title="Measuring: the generator and its verdicts against known truth",
        note="`lag` on HAProxy answering by itself; `oracle` and `wrk` on a server whose service "
        "times are known; faults planted on Ray Serve, HAProxy and Locust as they run.",
        modules=(generator, planted, slo_calibration),
    ),
    "credit": Suite(
        title="Credit: the figures behind the README",
        note="Five alternating repeats, medians; the range of the five ratios in brackets.",
        modules=(credit,),
    ),
}


def code_hash() -> str:
    """Identifies the code and configuration behind a result."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".j2", ".css", ".js") and "published" not in str(
                path
            ):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    """Measure what is not measured yet of the suites asked for, then publish them."""
    wanted = sys.argv[1:] or list(SUITES)
    unknown = [name for name in wanted if name not in SUITES]
    if unknown:
        sys.exit(f"unknown suite {unknown[0]!r}; known are {', '.join(SUITES)}")
    code = code_hash()
    for name in wanted:
        results = _measured(name, SUITES[name], ROOT / "runs" / "bench" / code / name)
        model, flags = host_facts.cpu_info()
        host = {"cpu": model, "instruction_sets": flags, "code": code}
        folder = PUBLISHED / name
        folder.mkdir(parents=True, exist_ok=True)
        text = _rendered(SUITES[name], results, host)
        (folder / "bench.json").write_text(json.dumps({**results, "host": host}, indent=1) + "\n")
        (folder / "bench.md").write_text(text)
        sys.stdout.write(text)


def _measured(name: str, suite: Suite, state: Path) -> dict[str, Any]:
    state.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    parts: dict[str, Callable[[], Any]] = {}
    for module in suite.modules:
        parts |= module.parts()
    for number, (part, measure) in enumerate(parts.items(), 1):
        path = state / f"{part}.json"
        if not path.is_file():
            sys.stderr.write(
                f"[{time.strftime('%H:%M:%S')}] {name} {number}/{len(parts)}: {part}\n"
            )
            draft = path.with_suffix(".draft")
            draft.write_text(dump(measure()))
            draft.rename(path)
        results[part] = json.loads(path.read_text())
    return results


def _rendered(suite: Suite, results: dict[str, Any], host: dict[str, Any]) -> str:
    lines = [
        f"# {suite.title}",
        "",
        f"`make bench` on {host['cpu']}, two cores. {suite.note}",
        "Raw figures: `bench.json`.",
        "",
        "| figure | aim | measured |",
        "|---|---|---|",
    ]
    for module in suite.modules:
        mine = {part: results[part] for part in module.parts()}
        lines += module.render(mine)
    return "\n".join(lines) + "\n"


def dump(result: Any) -> str:
    """JSON with as many digits as the figures deserve."""
    return json.dumps(
        json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.5g}"))
    )


if __name__ == "__main__":
    main()
