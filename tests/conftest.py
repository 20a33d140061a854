"""Shared fixtures: a stub whose answers are known, and pictures that are learnt in a moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.datasets.cifar10 import prepared
from serving.records import Variant, sha256_of
from serving.runtimes.stub import StubRuntime
from serving.steps import Dataset


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


@pytest.fixture(scope="session")
def pictures() -> Dataset:
    """600 pictures to train on and 150 to test; each class has a bar of its own."""
    draw = np.random.default_rng(0)

    def some(rows: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(rows) % 10
        made = draw.integers(0, 90, (rows, 3, 32, 32))
        for picture, label in zip(made, labels, strict=True):
            picture[label % 3, 8 * (label // 3) : 8 * (label // 3 + 1)] += 160
        return made.astype(np.uint8), labels.astype(np.int64)

    (train, train_labels), (test, test_labels) = some(600), some(150)
    return Dataset(
        train={"image": train},
        train_labels=train_labels,
        test=prepared({"image": test}),
        test_labels=test_labels,
        description="pictures made for a test",
        fingerprint="made",
        prepare=prepared,
    )
