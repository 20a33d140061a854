"""``python -m benchmarks.workloads NAME... [--fine-tune] [--no-study]``: workloads, published.

Builds the variants of the study of that name, times them in process in alternation (each in a
process of its own, five times over), explains what the seed report left unexplained, and
writes bench.json and bench.md into reports/published/<name>/, and the table over all models. Then
it runs the study itself, and puts its report.md beside them, unless ``--no-study`` is given.
Resumable: what was measured with this very code is not measured again. ``--fine-tune`` adds the
variants of ``bert`` whose encoder is trained too, which takes some half an hour the first time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.__main__ import PUBLISHED, ROOT, code_hash
from benchmarks.aims import AIMS, TUNED, TUNED_AIMS, Aim, Figures
from benchmarks.explain import EXPLANATIONS
from benchmarks.study_report import publish_report
from benchmarks.table import write as write_table
from reports.bundle import Bundle, StudyInfo, read_lines
from reports.comparison_table import comparison
from reports.markdown import render_table
from reports.model_tables import quality, sizes
from serving import host_facts
from serving.bench import bench
from serving.build import build_variants
from serving.errors import BadInput
from serving.records import BenchRow, Variant
from serving.steps import Dataset
from serving.workloads import find_workload
from tonnage.config import Study, load_study

REPEATS = 5
SECONDS = 0.4


def main(names: Sequence[str]) -> None:
    """Measure and publish each workload named."""
    tuned, studied = "--fine-tune" in names, "--no-study" not in names
    names = [name for name in names if name not in ("--fine-tune", "--no-study")]
    try:
        for name in names:
            load_study(name)
    except BadInput as error:
        sys.exit(str(error))
    if not names:
        sys.exit(
            "usage: python -m benchmarks.workloads NAME... [--fine-tune] [--no-study], "
            f"such as {', '.join(AIMS)}"
        )
    for name in names:
        if not tuned and _was_tuned(name):
            sys.exit(f"{name}: published with --fine-tune, whose figures would be lost; give it")
    for name in names:
        say(f"{name}: reading data")
        publish(name, tuned)
    write_table()
    failed = [name for name in names if studied and not report(name)]
    if failed:
        sys.exit(f"the study failed: {', '.join(failed)}")


def report(name: str) -> bool:
    """Run the workload's study and publish its report; False when it failed."""
    say(f"{name}: its study")
    return publish_report(name, state_folder(name), PUBLISHED / name)


def state_folder(name: str) -> Path:
    """Where the parts are kept that this very code has measured."""
    return ROOT / "runs" / "bench" / code_hash() / name


def _was_tuned(name: str) -> bool:
    path = PUBLISHED / name / "bench.json"
    if not path.is_file():
        return False
    kept = {variant["name"] for variant in json.loads(path.read_text())["variants"]}
    return bool(kept.intersection(TUNED.get(name, ())))


def publish(name: str, tuned: bool) -> None:
    """All figures of one workload, as JSON and Markdown."""
    more = TUNED.get(name, ()) if tuned else ()
    study, _ = load_study(name)
    workload = find_workload(study.workload)
    data = workload.load(study.data.source, study.seed)
    variants = build_variants(
        workload,
        [*study.variants, *more],
        data,
        seed=study.seed,
        max_loss=study.quality.max_loss,
        progress=lambda line: say(f"{name}: {line}"),
    )
    state = state_folder(f"{name}-tuned" if more else name)
    state.mkdir(parents=True, exist_ok=True)
    repeats = timed(study, variants, data, state)
    explained = explanations(name, variants, state)
    figures = Figures(variants, repeats, study.seed)
    model, flags = host_facts.cpu_info()
    aims = (*AIMS.get(name, ()), *(TUNED_AIMS[name] if more else ()))
    document = {
        "workload": name,
        "command": f"python -m benchmarks.workloads {name}{' --fine-tune' if more else ''}",
        "host": {"cpu": model, "instruction_sets": flags, "code": code_hash()},
        "method": f"{REPEATS} alternating repeats, one thread, medians of up to {SECONDS} s",
        "aims": [
            *(outcome(aim, figures) for aim in aims),
            *(judged for answer in explained for judged in answer.get("aims", ())),
        ],
        "explained": explained,
        "variants": [v.model_dump(mode="json") for v in variants],
        "rows": [[row.model_dump(mode="json") for row in rows] for rows in repeats],
    }
    folder = PUBLISHED / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(rounded(document), indent=1) + "\n")
    bundle = bundle_of(study, data, variants, middle(repeats))
    (folder / "bench.md").write_text(render(document, bundle))
    sys.stdout.write(render(document, bundle))


def timed(
    study: Study, variants: Sequence[Variant], data: Dataset, state: Path
) -> list[list[BenchRow]]:
    """Rows of each repeat; every repeat goes through all variants once."""
    repeats = []
    for repeat in range(REPEATS):
        path = state / f"timing-{repeat}.jsonl"
        if not path.is_file():
            rows: list[BenchRow] = []
            for variant in variants:
                say(f"{study.name}: timing {repeat + 1} of {REPEATS}, {variant.name}")
                rows += bench(
                    [variant],
                    data.test,
                    batches=study.bench.batches,
                    threads=(1,),
                    seconds=SECONDS,
                )
            path.write_text("".join(f"{row.model_dump_json()}\n" for row in rows))
        repeats.append(list(read_lines(path, BenchRow)))
    return repeats


def explanations(name: str, variants: Sequence[Variant], state: Path) -> list[dict[str, Any]]:
    """Answers to the questions of this workload, each measured once and kept."""
    answers = []
    for explain in EXPLANATIONS.get(name, ()):
        path = state / f"{explain.name}.json"
        if not path.is_file():
            say(f"{name}: {explain.name.replace('_', ' ')}")
            path.write_text(json.dumps(explain.measure({v.name: v for v in variants})))
        answers.append(json.loads(path.read_text()))
    return answers


def middle(repeats: Sequence[Sequence[BenchRow]]) -> list[BenchRow]:
    """Of each variant and batch the row of the middle repeat."""
    return [
        sorted(rows, key=lambda row: row.p50_ms)[len(rows) // 2]
        for rows in zip(*repeats, strict=True)
    ]


def outcome(aim: Aim, figures: Figures) -> dict[str, Any]:
    """An aim, what was measured, and whether it is met; null where it is only shown."""
    values = aim.measure(figures)
    met = aim.at_least <= median(values) <= aim.at_most if aim.bounded else None
    return {"figure": aim.figure, "aim": aim.words, "measured": values, "met": met}


def bundle_of(
    study: Study, data: Dataset, variants: Sequence[Variant], rows: Sequence[BenchRow]
) -> Bundle:
    """The records as a run has them, for the report's own tables."""
    workload = find_workload(study.workload)
    info = StudyInfo(
        name=study.name,
        title=study.title,
        workload=study.workload,
        baseline=workload.baseline,
        config_hash="",
        seed=study.seed,
        started_at="",
        dataset=data.description,
        metric=workload.metric,
        max_loss=study.quality.max_loss,
    )
    return Bundle(info=info, variants=tuple(variants), bench=tuple(rows))


def render(document: dict[str, Any], bundle: Bundle) -> str:
    """bench.md: the aims, the tables, the explanations."""
    lines = [
        f"# {bundle.info.title}: the variants",
        "",
        f"`{document['command']}` on {document['host']['cpu']}: "
        f"{document['method']}. Data: {bundle.info.dataset}. Every figure: `bench.json`.",
        "",
        "| figure | aim | measured | |",
        "|---|---|---|---|",
    ]
    for row in document["aims"]:
        values = row["measured"]
        spread = f" ({min(values):.3g}-{max(values):.3g})" if len(values) > 1 else ""
        met = {None: "-", True: "met", False: "**missed**"}[row["met"]]
        lines.append(f"| {row['figure']} | {row['aim']} | {median(values):.4g}{spread} | {met} |")
    lines += why_missed(document)
    for table in (comparison(bundle), quality(bundle), sizes(bundle)):
        lines += ["", render_table(table)]
    for answer in document["explained"]:
        lines += ["", f"## {answer['question']}", "", answer["answer"], ""]
        lines += ["| " + " | ".join(answer["header"]) + " |", "|---" * len(answer["header"]) + "|"]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in answer["rows"]]
    return "\n".join(lines) + "\n"


def why_missed(document: dict[str, Any]) -> list[str]:
    """Lines below the aims: why those were missed that an explanation has a sentence on."""
    said = {
        figure: f"{sentence} (See *{answer['question']}*.)"
        for answer in document["explained"]
        for figure, sentence in answer.get("missed", {}).items()
    }
    lines = []
    for row in document["aims"]:
        if not row["met"] and row["figure"] in said:
            lines += ["", f"Missed, *{row['figure']}*: {said[row['figure']]}"]
    return lines


def rounded(document: Any) -> Any:
    """Four digits, as many as the figures deserve."""
    return json.loads(json.dumps(document), parse_float=lambda text: float(f"{float(text):.4g}"))


def say(line: str) -> None:
    """Progress on stderr."""
    sys.stderr.write(f"bench: {line}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
