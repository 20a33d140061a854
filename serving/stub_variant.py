"""Variants of the stub: models of a known service time, and the no-op that shows the floor."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from serving.generate import generated_rows
from serving.model_store import store_folder
from serving.records import Variant, sha256_of
from serving.rows import Rows
from serving.runtimes.stub import StubRuntime

NOOP = "noop"
_MOST_ROWS, _MOST_BYTES = 6000, 64 << 20


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


def noop_rows(noop: Variant, batch: int, seed: int) -> Rows:
    """Rows to ask a no-op with: thousands where they are short, ``batch`` at least."""
    (spec,) = noop.inputs
    numbers = max(1, math.prod(spec.shape[1:]))
    most = max(batch, min(_MOST_ROWS, _MOST_BYTES // (4 * numbers)))
    return generated_rows(noop.inputs, most, seed)
