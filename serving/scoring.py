"""What the variants answer to the test set, and what that says of each against the baseline.

Answers are kept beside the model file, so that a model is asked once.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np

from serving.errors import Infrastructure
from serving.model_store import model_path
from serving.quality import METRIC_NAMES, fidelity, reproduction
from serving.records import Parity, Quality, Variant, with_limits
from serving.rows import count_rows, take
from serving.runtimes import Runtime, load_runtime
from serving.steps import Dataset, StepFailed
from serving.workloads import Workload

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Answered:
    """A variant, now with its inputs and outputs, and its answers by output name."""

    variant: Variant
    answers: Arrays


def answers_of(draft: Variant, workload: Workload, data: Dataset) -> Answered:
    """Load the model once, and predict the whole test set unless that was done before."""
    runtime = load_runtime(draft, threads=len(os.sched_getaffinity(0)))
    variant = draft.model_copy(
        update={
            "inputs": with_limits(runtime.inputs, workload.inputs),
            "outputs": runtime.outputs,
            "one_row_a_call": not data.batched,
        }
    )
    _check_signature(variant, workload)
    asked = [data.fingerprint, workload.rows_per_call, draft.sha256, draft.providers]
    asked.append(inspect.getsource(sys.modules[type(runtime).__module__]))
    key = hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
    path = model_path(draft)
    kept = path.with_name(f"{path.stem}.answers-{key}.npz")
    try:
        with np.load(kept, allow_pickle=False) as stored:
            return Answered(variant, {spec.name: stored[spec.name] for spec in variant.outputs})
    except (OSError, KeyError, ValueError, BadZipFile):
        answers = predict_in_chunks(
            runtime, data.test, workload.rows_per_call, batched=data.batched
        )
    for name, values in answers.items() if not data.generated else ():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Infrastructure(f"{path}: answers infinite or undefined numbers in {name!r}")
    part = kept.with_name(f".{kept.name}")
    try:
        np.savez(part, **answers)  # type: ignore[arg-type] # numpy's stub misreads keywords
        os.replace(part, kept)
    finally:  # interrupted, or the disk is full
        part.unlink(missing_ok=True)
    return Answered(variant, answers)


def _check_signature(variant: Variant, workload: Workload) -> None:
    """StepFailed unless tensor names and types are those that the workload states."""
    for kind in ("inputs", "outputs"):
        stated, found = (
            [(spec.name, spec.datatype) for spec in getattr(one, kind)]
            for one in (workload, variant)
        )
        if sorted(stated) != sorted(found):
            raise StepFailed(
                f"{workload.name}: {variant.name} has the {kind} {found}, stated are {stated}"
            )


def predict_in_chunks(
    runtime: Runtime, rows: Arrays, rows_per_call: int, *, batched: bool = True
) -> dict[str, np.ndarray]:
    """Answers to all rows, at most ``rows_per_call`` a call; arrays joined along the batch.

    Text comes as numpy's own, which a file takes without pickle. Answers whose shape depends
    on the values are laid end to end.
    """
    total, size = count_rows(rows), rows_per_call if batched else 1
    parts: dict[str, list[np.ndarray]] = {}
    for first in range(0, total, size):
        chosen = range(first, min(first + size, total))
        for name, values in runtime.predict(take(rows, chosen, batched=batched)).items():
            plain = values.astype(str) if values.dtype.kind == "O" else values
            parts.setdefault(name, []).append(plain if batched else plain[np.newaxis])
    return {name: _joined(found) for name, found in parts.items()}


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return np.concatenate([part.reshape(-1) for part in parts])


def judge(
    answered: Sequence[Answered], workload: Workload, data: Dataset, max_loss: float
) -> list[Variant]:
    """Give every variant its quality and parity; bar those that lose more than ``max_loss``."""
    original = next(a for a in answered if a.variant.name == workload.baseline)
    base = _quality(original, original, workload, data)
    judged = []
    for one in answered:
        quality = _quality(one, original, workload, data)
        barred = _barred(quality, base, workload, max_loss)
        update: dict[str, object] = {"quality": quality, "barred": barred}
        if one is not original:
            update["parity"] = _parity(one.answers, original.answers)
        judged.append(one.variant.model_copy(update=update))
    return judged


def _quality(one: Answered, original: Answered, workload: Workload, data: Dataset) -> Quality:
    if data.generated:
        share = reproduction(one.answers, original.answers)
        return Quality(n_rows=count_rows(data.test), reproduced=share)
    quality = workload.quality(one.answers, data.test_labels)
    return quality.model_copy(update={"fidelity": fidelity(one.answers, original.answers)})


def _barred(quality: Quality, base: Quality, workload: Workload, max_loss: float) -> str | None:
    before, now = getattr(base, workload.metric), getattr(quality, workload.metric)
    if before is None or now is None or before - now <= max_loss:
        return None
    return (
        f"loses {before - now:.4f} {METRIC_NAMES[workload.metric]} against {workload.baseline}, "
        f"allowed are {max_loss:g}"
    )


def _parity(answers: Arrays, original: Arrays) -> Parity:
    pairs = [(answers[name], original[name]) for name in original]
    differences = np.concatenate([_differences(a, b) for a, b in pairs])
    return Parity(
        n_rows=max(1, len(pairs[0][0])),
        max_abs_difference=float(differences.max()),
        mean_abs_difference=float(differences.mean()),
    )


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Absolute differences; 1 where text or truth values differ; none between undefined ones."""
    if a.shape != b.shape or not b.size:
        return np.array([0.0 if a.shape == b.shape else np.inf])
    if b.dtype.kind not in "fiu":
        return np.asarray(a != b, dtype=np.float64).reshape(-1)
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):  # inf - inf, where they are the same
        return np.asarray(np.nan_to_num(np.where(same, 0.0, np.abs(x - y)), nan=np.inf)).reshape(-1)
