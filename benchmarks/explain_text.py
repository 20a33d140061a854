"""What the length of a text costs, and what a build from nothing takes: measured, in tables."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from statistics import median

from benchmarks.explain_process import REPEATS, Answer
from serving.bench import bench
from serving.build import build_variants
from serving.records import Variant
from serving.runtimes import load_runtime
from serving.scoring import predict_in_chunks
from serving.workloads import find_workload
from tonnage.config import load_study

_LENGTHS = (16, 32, 64, 128, 256)
_SHOWN = ("torch", "onnx", "onnx_int8", "onnx_student_int8")
_LONGEST_BUILD_S = 300.0


def what_a_token_costs(variants: Mapping[str, Variant]) -> Answer:
    """One row, one thread, at several lengths; and what is decided when texts are cut there."""
    times: dict[tuple[str, int], list[float]] = {}
    data = {length: find_workload("bert", length).load(None, 0) for length in _LENGTHS}
    for _ in range(REPEATS):
        for length in _LENGTHS:
            chosen = [variants[name] for name in _SHOWN]
            rows = bench(chosen, data[length].test, batches=(1,), threads=(1,), seconds=0.4)
            for row in rows:
                times.setdefault((row.variant, length), []).append(row.p50_ms)
    ms = {key: median(values) for key, values in times.items()}
    runtime = load_runtime(variants["onnx_int8"], len(os.sched_getaffinity(0)))
    table = []
    for length in _LENGTHS:
        answers = predict_in_chunks(runtime, data[length].test, 32)
        f1 = find_workload("bert").quality(answers, data[length].test_labels).f1
        filled = data[length].test["attention_mask"].mean()
        shown = [f"{ms[name, length]:.3g}" for name in _SHOWN]
        gain = ms["torch", length] / ms["onnx", length]
        table.append([length, f"{filled:.0%}", *shown, f"{gain:.2f}x", f"{f1:.4f}"])
    first, last = _LENGTHS[0], _LENGTHS[-1]
    gains = [ms["torch", length] / ms["onnx", length] for length in (first, last)]
    return {
        "question": "What the length of a row costs",
        "answer": (
            f"ONNX Runtime is {gains[0]:.2f} times as fast as torch at {first} tokens and "
            f"{gains[1]:.2f} times at {last}: both multiply large matrices alike, and what it "
            "saves is the time between them. Rows are padded to the length of the study, so that "
            "every request costs the same; a server that pads to the longest text of a request "
            "would compute the filled share only. F1 is that of onnx_int8 on texts cut there."
        ),
        "header": [
            "tokens a row",
            "filled by text",
            *(f"{name} ms" for name in _SHOWN),
            "onnx over torch",
            "F1",
        ],
        "rows": table,
    }


def how_long_the_default_build_takes(variants: Mapping[str, Variant]) -> Answer:
    """The baseline in an empty store: reading, embedding, fitting, answering the test set."""
    study, _ = load_study("bert")
    workload = find_workload(study.workload, study.data.length)
    before = os.environ.get("TONNAGE_CACHE")
    with tempfile.TemporaryDirectory() as store:
        os.environ["TONNAGE_CACHE"] = store
        try:
            begin = time.perf_counter()
            data = workload.load(study.data.source, study.seed)
            built = build_variants(workload, ["torch"], data, seed=study.seed, max_loss=1.0)
            took = time.perf_counter() - begin
        finally:
            os.environ.pop("TONNAGE_CACHE")
            if before is not None:
                os.environ["TONNAGE_CACHE"] = before
    quality = built[0].quality
    return {
        "question": "How long the default build takes",
        "aims": [
            {
                "figure": "torch: seconds from an empty store",
                "aim": f"at most {_LONGEST_BUILD_S:g}",
                "measured": [took],
                "met": took <= _LONGEST_BUILD_S,
            }
        ],
        "answer": (
            "From an empty store: tokens, the states of all training texts, the head, and the "
            "answers to the test set."
        ),
        "header": ["cores", "seconds", "weighted F1"],
        "rows": [
            [
                len(os.sched_getaffinity(0)),
                f"{took:.0f}",
                f"{quality.f1 if quality else 0:.4f}",
            ]
        ],
    }
