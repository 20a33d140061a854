"""Where int8 gains and loses time and memory in ONNX Runtime, from its own profile."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.explain_process import REPEATS, Answer, alone, medians
from benchmarks.explain_timing import session
from serving.model_store import model_path
from serving.records import Variant
from serving.workloads import find_workload
from tonnage.config import load_study

KINDS = ("onnx", "onnx_int8_static")
_BATCHES = (1, 8)
_SHOWN = 15
_CALLS = 20
_FAMILIES = {
    "convolutions": ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger"),
    "matrix products": (
        "Gemm",
        "FusedGemm",
        "MatMul",
        "FusedMatMul",
        "QGemm",
        "QLinearMatMul",
        "MatMulInteger",
        "DynamicQuantizeMatMul",
    ),
    "changes of number format": ("QuantizeLinear", "DequantizeLinear"),
    "changes of layout": ("ReorderInput", "ReorderOutput", "Transpose"),
}
_NAMED = 4  # other operators that the sentence names


def where_the_time_goes(variants: Mapping[str, Variant]) -> Answer:
    """Onnxruntime's own profile of a call with test pictures on one thread, by operator."""
    rows = _test_rows(variants["onnx"])
    spent = {
        (name, batch): _profile(variants[name], rows[:batch])
        for batch in _BATCHES
        for name in KINDS
    }
    operators = sorted(
        {operator for found in spent.values() for operator in found},
        key=lambda operator: -max(spent[name, 1].get(operator, 0.0) for name in KINDS),
    )
    said = {batch: in_words(*(spent[name, batch] for name in KINDS)) for batch in _BATCHES}
    return {
        "question": "Where int8 gains time, and where it loses some",
        "answer": " ".join(f"At batch {batch}: {words}" for batch, words in said.items()),
        "missed": {"onnx_int8_static over onnx, batch 1": said[1]},
        "header": ["operator", *(f"ms at {batch}, {name}" for name, batch in _columns())],
        "rows": [
            [operator, *(f"{spent[key].get(operator, 0.0):.3g}" for key in _columns())]
            for operator in operators[:_SHOWN]
        ]
        + [["all", *(f"{sum(spent[key].values()):.3g}" for key in _columns())]],
    }


def in_words(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """A call's milliseconds by operator, in float and in int8: what the difference is made of."""
    whole, small = sum(before.values()), sum(after.values())
    known = {operator: family for family, names in _FAMILIES.items() for operator in names}
    changes: dict[str, float] = {}
    for operator in before.keys() | after.keys():
        part = known.get(operator, operator)
        change = after.get(operator, 0.0) - before.get(operator, 0.0)
        changes[part] = changes.get(part, 0.0) + change
    families = [part for part in _FAMILIES if part in changes]
    others = sorted(changes.keys() - families, key=lambda part: -abs(changes[part]))
    shown = sorted([*families, *others[:_NAMED]], key=lambda part: changes[part])
    rest = sum(changes[part] for part in others[_NAMED:])
    parts = [f"{part} {changes[part]:+.3g}" for part in shown]
    if others[_NAMED:]:
        parts.append(f"all others {rest:+.3g}")
    verdict = "faster" if small < whole else "slower"
    factor = max(whole, small) / min(whole, small)
    saved = -sum(value for value in changes.values() if value < 0)
    lost = sum(value for value in changes.values() if value > 0)
    return (
        f"int8 is {factor:.2f} times {'as fast' if verdict == 'faster' else 'as slow'} under the "
        f"profiler, {small:.3g} ms where float takes {whole:.3g}: it saves {saved:.3g} ms and "
        f"loses {lost:.3g} (ms: {', '.join(parts)})."
    )


def where_the_memory_goes(variants: Mapping[str, Variant]) -> Answer:
    """Processes that load a file and call it, by stage, with the memory arena and without."""
    rows = _test_rows(variants["onnx"])
    cases = [(name, arena) for name in KINDS for arena in ("arena", "no arena")]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "rows.npy")
        np.save(file, rows[: _BATCHES[-1]])
        found = {
            (name, arena): medians(
                [alone("memory", variants[name], file, arena) for _ in range(REPEATS)]
            )
            for name, arena in cases
        }
    whole, small = (found[name, "arena"] for name in KINDS)
    peak, rest = memory_in_words(whole, small)
    return {
        "question": "Where the memory goes, in float and in int8",
        "answer": f"{peak} {rest}",
        "missed": {"onnx_int8_static: peak RAM at batch 1 as a share of onnx": peak},
        "header": [
            "variant",
            "file MiB",
            "library MiB",
            "peak of loading",
            "loaded",
            "peak, batch 1",
            "after, batch 1",
            f"peak, batch {_BATCHES[-1]}",
            f"after, batch {_BATCHES[-1]}",
        ],
        "rows": [
            [
                name if arena == "arena" else f"{name}, {arena}",
                f"{variants[name].size_bytes / 2**20:.3g}",
                *(f"{value:.0f}" for value in found[name, arena].values()),
            ]
            for name, arena in cases
        ],
    }


def memory_in_words(whole: Mapping[str, float], small: Mapping[str, float]) -> tuple[str, str]:
    """Int8's memory against float's: the peak in a sentence, and what each stage adds to it."""
    library = small["library"]
    loading, steady = (
        f"{small[key]:.0f} MiB of {whole[key]:.0f} ({small[key] / whole[key]:.0%})"
        for key in ("load_peak", "loaded")
    )
    adds = {
        "the loaded model": [f["loaded"] - f["library"] for f in (whole, small)],
        "its loading, on the way": [f["load_peak"] - f["loaded"] for f in (whole, small)],
        "calls, over the peak of loading": [f["all_peak"] - f["load_peak"] for f in (whole, small)],
    }
    added = "; ".join(f"{what} {few:.0f} of {many:.0f}" for what, (many, few) in adds.items())
    without = (small["all_peak"] - library) / (whole["all_peak"] - whole["library"])
    return (
        f"int8 peaks at {small['all_peak']:.0f} MiB where float peaks at {whole['all_peak']:.0f} "
        f"({small['all_peak'] / whole['all_peak']:.0%}), of which the library takes "
        f"{library:.0f} in each; without it int8 has {without:.0%}."
    ), (
        f"At the peak of loading it is {loading}, loaded {steady}. MiB that int8 adds to the "
        f"library, of those that float adds: {added}."
    )


def _columns() -> Sequence[tuple[str, int]]:
    return [(name, batch) for batch in _BATCHES for name in KINDS]


def _test_rows(variant: Variant) -> np.ndarray:
    """The first test pictures, as the variant is sent them."""
    study, _ = load_study(variant.workload)
    data = find_workload(study.workload).load(study.data.source, study.seed)
    return data.test[variant.inputs[0].name][: _BATCHES[-1]]


def _profile(variant: Variant, rows: np.ndarray) -> dict[str, float]:
    """Milliseconds of a call by operator, medians over calls."""
    with tempfile.TemporaryDirectory() as folder:
        opened = session(
            str(model_path(variant)),
            enable_profiling=True,
            profile_file_prefix=f"{folder}/profile",
        )
        for _ in range(_CALLS):
            opened.run(None, {variant.inputs[0].name: rows})
        events = json.loads(Path(opened.end_profiling()).read_text())
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    calls: list[dict[str, float]] = [{} for _ in starts]
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            call = calls[int(np.searchsorted(starts, event["ts"], side="right")) - 1]
            operator = event["args"]["op_name"]
            call[operator] = call.get(operator, 0.0) + event["dur"] / 1e3
    warm = calls[3:]
    return {
        operator: median(call.get(operator, 0.0) for call in warm)
        for operator in {operator for call in warm for operator in call}
    }
