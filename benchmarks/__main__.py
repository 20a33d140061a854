"""``make bench``: every figure that the README quotes, written to reports/published/.

    python -m benchmarks [SUITE[:PART] ...]

Resumable: a part that was measured with this very code is not measured again. ``PART`` is the
beginning of a part's name: only such parts are then measured, and what is known of the suite is
printed. It is published as soon as all of its parts are known, a piecemeal one before: what is not
measured yet is a row that says so. What was published of earlier code stays until it is measured
again, and is named as that. A part that cannot be measured says why, and the others go on; the same
command tries it again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    credit,
    demands,
    generator,
    grid,
    live,
    planning_speed,
    planted,
    prediction,
    scale_out,
    slo_calibration,
)
from benchmarks.suite import Suite
from serving import host_facts
from serving.errors import TonnageError

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
    "planner": Suite(
        title="Planner: its predictions and choices against measurement",
        note="Every point is shown, hits and misses. Profiles are those that the product makes; "
        "p99s are compared on the same arrival schedule.",
        modules=(planning_speed, prediction, scale_out, grid, demands),
        piecemeal=True,
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
    """Measure what is not measured yet of what is asked for, then publish it."""
    code = code_hash()
    for name, wanted in asked(sys.argv[1:]).items():
        suite = SUITES[name]
        try:
            results = _measured(name, suite, wanted, ROOT / "runs" / "bench" / code / name)
        finally:
            live.down()
        model, flags = host_facts.cpu_info()
        host = {"cpu": model, "instruction_sets": flags, "code": code}
        folder = PUBLISHED / name
        by = dict.fromkeys(results, host)
        earlier = _earlier(folder / "bench.json", suite, by)
        by = {**by, **{part: one[1] for part, one in earlier.items()}}
        results = {**results, **{part: one[0] for part, one in earlier.items()}}
        # In the order of the suite, in which they are rendered.
        results = {part: results[part] for part in _parts(suite) if part in results}
        text = _rendered(suite, results, host, [p for p, one in by.items() if one != host])
        whole = len(results) == len(_parts(suite))
        if lost := _lost(folder / "bench.json", suite):
            sys.stderr.write(
                f"not published: {folder / 'bench.json'} has parts that are unknown here, such as "
                f"{lost[0]}; give TONNAGE_BENCH_POINT_S as it was, or delete that file\n"
            )
        elif results and (whole or suite.piecemeal):
            folder.mkdir(parents=True, exist_ok=True)
            found = json.dumps({**results, "by": by, "host": host}, indent=1)
            (folder / "bench.json").write_text(found + "\n")
            (folder / "bench.md").write_text(text)
        sys.stdout.write(text)


def _earlier(
    published: Path, suite: Suite, known: Collection[str]
) -> dict[str, tuple[Any, dict[str, Any]]]:
    """What was published of parts that are not ``known``, with the code and CPU behind each."""
    if not published.is_file():
        return {}
    document = json.loads(published.read_text())
    by = document.get("by", {})
    return {
        part: (document[part], by.get(part, document["host"]))
        for part in _parts(suite)
        if part in document and part not in known
    }


def asked(arguments: list[str]) -> dict[str, tuple[str, ...]]:
    """Suites to measure, each with how the names of its parts begin; "" is all of them."""
    found: dict[str, tuple[str, ...]] = {}
    for argument in arguments or SUITES:
        name, _, part = argument.partition(":")
        if name not in SUITES:
            sys.exit(f"unknown suite {name!r}; known are {', '.join(SUITES)}")
        names = list(_parts(SUITES[name]))
        if not any(known.startswith(part) for known in names):
            sys.exit(f"suite {name} has no part {part!r}; known are {', '.join(names)}")
        found[name] = (*found.get(name, ()), part)
    return found


def _parts(suite: Suite) -> dict[str, Callable[[], Any]]:
    return {part: measure for m in suite.modules for part, measure in m.parts().items()}


def _measured(name: str, suite: Suite, wanted: tuple[str, ...], state: Path) -> dict[str, Any]:
    """Results by part: those asked for, and what else this code has measured."""
    state.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    parts = _parts(suite)
    for number, (part, measure) in enumerate(parts.items(), 1):
        path = state / f"{part}.json"
        if not path.is_file() and part.startswith(wanted):
            sys.stderr.write(
                f"[{time.strftime('%H:%M:%S')}] {name} {number}/{len(parts)}: {part}\n"
            )
            try:
                _keep(path, dump(measure()))
            except TonnageError as error:
                sys.stderr.write(f"{part}: {error}\n")
            except Exception:  # a defect of one part, which shall not cost the others their night
                sys.stderr.write(f"{part}: {traceback.format_exc()}")
        if path.is_file():
            results[part] = json.loads(path.read_text())
    return results


def _keep(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.rename(path)


def _lost(published: Path, suite: Suite) -> list[str]:
    """Published parts that the suite does not have as it is asked for now."""
    if not published.is_file():
        return []
    known = {*_parts(suite), "by", "host"}
    return [part for part in json.loads(published.read_text()) if part not in known]


def _rendered(
    suite: Suite, results: Mapping[str, Any], host: dict[str, Any], earlier: Sequence[str] = ()
) -> str:
    """bench.md; ``earlier`` are the parts that other code measured, or another CPU."""
    lines = [
        f"# {suite.title}",
        "",
        f"`make bench` on {host['cpu']}, two cores. {suite.note}",
        "Raw figures: `bench.json`.",
        *_said(earlier, len(results)),
        "",
        "| figure | aim | measured |",
        "|---|---|---|",
    ]
    for module in suite.modules:
        mine = {part: results[part] for part in module.parts() if part in results}
        missing = [part for part in module.parts() if part not in results]
        if mine and (suite.piecemeal or not missing):
            lines += module.render(mine)
        lines += [f"| {part} | - | not measured yet |" for part in missing]
    return "\n".join(lines) + "\n"


def _said(earlier: Sequence[str], every: int) -> list[str]:
    """A sentence where not all is of one code and CPU."""
    if not earlier:
        return []
    return [
        f"{len(earlier)} of {every} parts are from earlier code or another CPU; `by` in "
        f"`bench.json` says which: {', '.join(earlier)}."
    ]


def dump(result: Any) -> str:
    """JSON with as many digits as the figures deserve."""
    return json.dumps(
        json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.5g}"))
    )


if __name__ == "__main__":
    main()
