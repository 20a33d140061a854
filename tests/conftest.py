"""Shared fixtures: a stub whose answers are known, and pictures that are learnt in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.datasets.cifar10 import prepared
from serving.records import Variant
from serving.steps import Dataset
from serving.stub_variant import stub_variant


@pytest.fixture
def make_stub(tmp_path: Path) -> Callable[..., Variant]:
    """Factory of stub variants with a known service time."""

    def make(busy_ms: float = 0.0, name: str = "stub", **settings: object) -> Variant:
        return stub_variant(tmp_path, busy_ms, name, **settings)

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
