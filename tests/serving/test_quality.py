"""Measures of quality, held against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from serving.quality import classification_quality, fidelity


@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_quality_is_scikit_learns(classes: int, rows: int, seed: int) -> None:
    """Accuracy, and weighted precision, recall and F1, also where classes are missing."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(rows, classes))
    labels = draw.integers(0, classes, rows)
    found = classification_quality(scores, labels)
    guessed = scores.argmax(axis=1)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, guessed, average="weighted", zero_division=0.0
    )
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, guessed))
    assert (found.precision, found.recall, found.f1) == pytest.approx((precision, recall, f1))


def test_fidelity_counts_equal_decisions() -> None:
    """Two of three rows are decided alike, whatever the scores."""
    original = {"logits": np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 9.0]])}
    answers = {"logits": np.array([[0.0, 0.1], [0.2, 0.1], [5.0, 4.0]])}
    assert fidelity(answers, original) == pytest.approx(2 / 3)
    assert fidelity(original, original) == 1.0
