"""Pictures that can be learnt in a moment: each class has a bar of its own colour and height."""

from __future__ import annotations

import numpy as np
import pytest

from serving.datasets.cifar10 import prepared
from serving.steps import Dataset


@pytest.fixture(scope="session")
def pictures() -> Dataset:
    """600 pictures to train on and 150 to test, in the form of CIFAR-10."""
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
