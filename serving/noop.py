"""A model that does nothing, in the place of a real one: what the platform itself costs."""

from __future__ import annotations

import json
import os

from serving.model_store import store_folder
from serving.records import Variant, sha256_of
from serving.runtimes.stub import StubRuntime

NAME = "noop"


def noop_variant(workload: str, features: int) -> Variant:
    """A no-op whose requests have ``features`` numbers a row, as the model's have.

    Its file is written into the model store.
    """
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
