"""Variants of the stub: models of a known service time, and the no-op that shows the floor."""

from __future__ import annotations

import json
import os
from pathlib import Path

from serving.model_store import store_folder
from serving.records import Variant, sha256_of
from serving.runtimes.stub import StubRuntime

NOOP = "noop"


def stub_variant(
    folder: Path, busy_ms: float, name: str = "stub", workload: str = "test", **settings: object
) -> Variant:
    """A stub that takes ``busy_ms`` of CPU per call; its file is ``folder/name.json``.

    ``settings`` are those of :class:`serving.runtimes.stub.StubRuntime`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"busy_ms": busy_ms, **settings}))
    os.replace(draft, path)
    runtime = StubRuntime(path, 1)
    return Variant(
        workload=workload,
        name=name,
        runtime="stub",
        precision="none",
        file=str(path),
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        inputs=runtime.inputs,
        outputs=runtime.outputs,
    )


def noop_variant(workload: str, features: int) -> Variant:
    """A no-op whose requests have ``features`` numbers a row, as the model's have.

    Its file is written into the model store.
    """
    folder = store_folder() / workload
    made = stub_variant(folder, 0.0, f"{NOOP}-{features}", workload, features=features)
    relative = str(Path(made.file).relative_to(store_folder()))
    return made.model_copy(update={"name": NOOP, "file": relative})
