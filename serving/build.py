"""Build the variants of a workload, each only when its inputs changed.

A variant lives in a folder named by the hash of everything it was made from: data,
seed, recipe, the code of its workload and the versions of the libraries. Files appear
under their final name only when they are whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from serving.errors import BadInput
from serving.model_store import store_folder
from serving.records import Parity, Variant, sha256_of
from serving.runtimes import load_runtime
from serving.workloads import Dataset, Workload

_LIBRARIES = ("onnxruntime", "onnx", "scikit-learn", "skl2onnx", "skops", "numpy")


def build_variants(
    workload: Workload,
    names: Sequence[str],
    data: Dataset,
    *,
    seed: int,
    max_auc_loss: float,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Variant]:
    """Build or reuse the variants ``names``, and judge each against the baseline.

    Quality is measured over the whole test set; a variant that loses more than
    ``max_auc_loss`` of the baseline's AUC carries the reason in ``barred``.
    """
    unknown = [name for name in names if name not in workload.recipes]
    if unknown:
        raise BadInput(
            f"workload {workload.name} has no variant {unknown[0]!r}; "
            f"known are {', '.join(workload.recipes)}"
        )
    wanted = dict.fromkeys([workload.baseline, *names])
    variants: dict[str, Variant] = {}
    answers: dict[str, Mapping[str, np.ndarray]] = {}
    for name in wanted:
        progress(name)
        variant, answers[name] = _build(workload, name, data, seed)
        variants[name] = _judge(
            variant, answers[name], answers[workload.baseline], variants, workload, max_auc_loss
        )
    return [variants[name] for name in wanted]


def _build(
    workload: Workload, name: str, data: Dataset, seed: int
) -> tuple[Variant, Mapping[str, np.ndarray]]:
    path = _file(workload, name, data, seed)
    recipe = workload.recipes[name]
    digest = sha256_of(path)
    draft = Variant(
        workload=workload.name,
        name=name,
        runtime=recipe.runtime,
        precision=recipe.precision,
        file=str(path.relative_to(store_folder())),
        sha256=digest,
        size_bytes=path.stat().st_size,
        inputs=(),
        outputs=(),
    )
    runtime = load_runtime(draft, threads=1)
    outputs = runtime.predict(data.test)
    variant = draft.model_copy(
        update={
            "inputs": runtime.inputs,
            "outputs": runtime.outputs,
            "quality": workload.quality(outputs, data.test_labels),
        }
    )
    return variant, outputs


def _file(workload: Workload, name: str, data: Dataset, seed: int) -> Path:
    """Path of a variant's file, built if need be, and of what it is made from before it."""
    recipe = workload.recipes[name]
    key = hashlib.sha256(
        json.dumps(
            [
                name,
                seed,
                data.fingerprint,
                _code_hash(workload),
                [recipe.runtime, recipe.precision, recipe.needs],
                {library: _version(library) for library in _LIBRARIES},
            ]
        ).encode()
    ).hexdigest()[:12]
    path = store_folder() / workload.name / f"{name}-{key}{recipe.suffix}"
    digest = path.with_suffix(".sha256")
    if path.is_file() and digest.is_file() and digest.read_text() == sha256_of(path):
        return path  # as it was built; anything else is built again
    needed = _file(workload, recipe.needs, data, seed) if recipe.needs else None
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=path.parent))
    try:
        draft = folder / path.name
        workload.build(name, draft, needed, data, seed)
        (folder / digest.name).write_text(sha256_of(draft))
        os.replace(folder / digest.name, digest)
        os.replace(draft, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def _judge(
    variant: Variant,
    outputs: Mapping[str, np.ndarray],
    original: Mapping[str, np.ndarray],
    variants: Mapping[str, Variant],
    workload: Workload,
    max_auc_loss: float,
) -> Variant:
    if variant.name == workload.baseline or variant.quality is None:
        return variant
    differences = np.concatenate([np.abs(outputs[k] - original[k]).reshape(-1) for k in original])
    base = variants[workload.baseline].quality
    barred = None
    if base and base.auc is not None and variant.quality.auc is not None:
        loss = base.auc - variant.quality.auc
        if loss > max_auc_loss:
            barred = (
                f"loses {loss:.4f} AUC against {workload.baseline}, allowed are {max_auc_loss:g}"
            )
    return variant.model_copy(
        update={
            "parity": Parity(
                n_rows=variant.quality.n_rows,
                max_abs_difference=float(differences.max()),
                mean_abs_difference=float(differences.mean()),
            ),
            "barred": barred,
        }
    )


def _code_hash(workload: Workload) -> str:
    module = __import__(type(workload).__module__, fromlist=["_"])
    return sha256_of(Path(str(module.__file__)))


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "absent"
