"""Why a runtime is faster or slower than another: measured, a table and a sentence each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import median
from typing import Any

from benchmarks.explain_int8 import where_the_time_goes, which_layers_int8_hurts
from benchmarks.explain_one import PICTURES
from benchmarks.explain_text import how_long_the_default_build_takes, what_a_token_costs
from serving.model_store import model_path
from serving.records import Variant

Answer = dict[str, Any]
_REPEATS = 3


def what_makes_onnx_faster(variants: Mapping[str, Variant]) -> Answer:
    """One thread, one process: the same network in ways that differ in one thing each."""
    found = _run("ways", variants["torch"], variants["onnx"])
    batches = sorted({int(batch) for times in found.values() for batch in times})
    torch_ms = found["TorchScript, as served"]
    rows = [
        [
            way,
            *(f"{times[str(b)]:.3g}" for b in batches),
            *(f"{torch_ms[str(b)] / times[str(b)]:.1f}x" for b in batches),
        ]
        for way, times in found.items()
    ]
    shares = _run("operators", variants["torch"], variants["onnx"])
    most = ", ".join(f"{name} {share:.0%}" for name, share in shares["256"][:4])
    overhead = max(0.0, 1 - sum(share for _, share in shares["1"]))
    return {
        "question": "Where the difference between torch and ONNX Runtime comes from",
        "answer": (
            f"At batch 1, {overhead:.0%} of torch's time (under its profiler) passes between its "
            "kernels, in dispatch and allocation; ONNX Runtime plans both once, when it loads the "
            f"file. At batch 256 the kernels take: {most}. ONNX Runtime fuses normalisation and "
            "activations into the convolutions and keeps a blocked layout from one to the next."
        ),
        "header": ["way", *(f"ms at {b}" for b in batches), *(f"speed-up at {b}" for b in batches)],
        "rows": rows,
    }


def why_the_report_found_them_slower(variants: Mapping[str, Variant]) -> Answer:
    """A script's way of measuring against ours, stage by stage."""
    stages: dict[tuple[str, str], dict[str, float]] = {}
    empty = _medians([_run("loader") for _ in range(_REPEATS)])
    for name, settings in product(_RUNTIMES, ("library defaults", "one thread")):
        runs = [_run("stages", variants[name], settings) for _ in range(_REPEATS)]
        stages[name, settings] = _medians(runs)
    heads = list(next(iter(stages.values())))
    rows = [[*key, *(f"{found[head]:.3g}" for head in heads)] for key, found in stages.items()]
    nothing = [f"{empty[head]:.3g}" if head in empty else "-" for head in heads]
    rows.append(["no model", "-", *nothing])
    plain = {name: stages[name, "library defaults"] for name in _RUNTIMES}
    share = empty["loader_4_s"] / plain["torch"]["loader_4_s"]
    return {
        "question": "Why the report found ONNX Runtime and OpenVINO slower than PyTorch",
        "answer": (
            "The report gives seconds for the test set (5.84, 7.70, 9.28), not its loop. A call "
            f"at batch 1 takes {_listed(plain, 'ms_at_1', 'ms')} here, and {PICTURES:,} pictures "
            f"from memory {_listed(plain, 'from_memory_s', 's')}. Through a data loader, as in "
            f"tutorials, {_listed(plain, 'loader_4_s', 's')}, and {empty['loader_4_s']:.3g} s with "
            f"no model at all: {share:.0%} of torch's seconds are the loader's. A file exported "
            "for a fixed batch of 1 needs four times the calls and the loader's steps: "
            f"{_listed(plain, 'loader_1_s', 's')}. Loading adds "
            f"{_listed(plain, 'load_s', 's')}, because OpenVINO compiles the model then."
        ),
        "header": [
            "runtime",
            "threads",
            "import s",
            "load s",
            "first call ms",
            "call ms at 1",
            "from memory s at 4",
            "with loader s at 4",
            "with loader s at 1",
        ],
        "rows": rows,
    }


def what_pruning_gains_in_onnx_runtime(variants: Mapping[str, Variant]) -> Answer:
    """Widths of the network with weights that were never trained: speed alone."""
    del variants
    found = _run("widths")
    batches = sorted({int(batch) for times in found.values() for batch in times})
    whole = next(iter(found.values()))
    return {
        "question": "What pruned channels gain in ONNX Runtime",
        "answer": (
            "Its convolutions keep a layout of 16 channels a block on this CPU. Channels that are "
            "no multiple of it fall back to a plain layout, which costs more than the missing "
            "channels save. In PyTorch, whose time is spent elsewhere, the gain is there at once."
        ),
        "header": [
            "channels; hidden units",
            *(f"ms at {b}" for b in batches),
            *(f"speed-up at {b}" for b in batches),
        ],
        "rows": [
            [
                name,
                *(f"{times[str(b)]:.3g}" for b in batches),
                *(f"{whole[str(b)] / times[str(b)]:.2f}x" for b in batches),
            ]
            for name, times in found.items()
        ],
    }


_RUNTIMES = ("torch", "onnx", "openvino")


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: median(run[key] for run in runs) for key in runs[0]}


def _listed(found: Mapping[str, Mapping[str, float]], key: str, unit: str) -> str:
    return ", ".join(f"{values[key]:.3g} {unit} ({name})" for name, values in found.items())


EXPLANATIONS: dict[str, tuple[Callable[[Mapping[str, Variant]], Answer], ...]] = {
    "cifar_cnn": (what_makes_onnx_faster, what_pruning_gains_in_onnx_runtime),
    "lenet": (why_the_report_found_them_slower,),
    "efficientvit": (where_the_time_goes,),
    "efficientnet_lite0": (which_layers_int8_hurts,),
    "bert": (what_a_token_costs, how_long_the_default_build_takes),
}


def _run(what: str, *arguments: Variant | str) -> Any:
    """One measurement in a process of its own."""
    words = [str(model_path(a)) if isinstance(a, Variant) else a for a in arguments]
    command = [sys.executable, "-m", "benchmarks.explain_one", what, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
