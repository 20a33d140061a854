"""A model that does nothing, in the place of a real one: what the platform itself costs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence

from serving.model_store import store_folder
from serving.records import TensorSpec, Variant, sha256_of
from serving.runtimes.stub import StubRuntime

NAME = "noop"


def noop_variant(workload: str, inputs: Sequence[TensorSpec]) -> Variant:
    """A no-op whose requests have as many numbers a row as those of ``inputs``.

    Its file is written into the model store.
    """
    features = sum(math.prod(max(1, d) for d in spec.shape[1:]) for spec in inputs) or 1
    path = store_folder() / workload / f"{NAME}-{features}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"busy_ms": 0.0, "features": features}))
    os.replace(draft, path)
    runtime = StubRuntime(path, 1)
    return Variant(
        workload=workload,
        name=NAME,
        runtime="stub",
        precision="none",
        file=str(path.relative_to(store_folder())),
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        inputs=runtime.inputs,
        outputs=runtime.outputs,
    )
