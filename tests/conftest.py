"""Shared fixtures: a stub variant, whose answers and service time are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.records import Variant, sha256_of
from serving.runtimes.stub import StubRuntime


@pytest.fixture
def make_stub(tmp_path: Path) -> Callable[..., Variant]:
    """Factory of stub variants with a known service time."""

    def make(busy_ms: float = 0.0, name: str = "stub", **settings: object) -> Variant:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"busy_ms": busy_ms, **settings}))
        runtime = StubRuntime(path, 1)
        return Variant(
            workload="test",
            name=name,
            runtime="stub",
            precision="none",
            file=str(path),
            sha256=sha256_of(path),
            size_bytes=path.stat().st_size,
            inputs=runtime.inputs,
            outputs=runtime.outputs,
        )

    return make
