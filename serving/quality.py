"""How good the answers of a classifier are, and how like another's they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from serving.records import Quality

METRIC_NAMES = {"accuracy": "accuracy", "auc": "AUC", "f1": "F1", "fidelity": "fidelity"}


def classification_quality(scores: np.ndarray, labels: np.ndarray) -> Quality:
    """Accuracy, and precision, recall and F1 weighted by the support of each class.

    ``scores`` is [rows, classes], the largest decides; ``labels`` is [rows], from 0 on.
    A class that is never guessed has precision 0, as scikit-learn's ``zero_division=0``.
    """
    guessed = scores.argmax(axis=1)
    classes = scores.shape[1]
    table = np.bincount(labels * classes + guessed, minlength=classes**2)
    confusion = table.reshape(classes, classes).astype(np.float64)
    right, support, claimed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = np.divide(right, claimed, out=np.zeros(classes), where=claimed > 0)
    recall = np.divide(right, support, out=np.zeros(classes), where=support > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros(classes), where=both > 0)
    weight = support / support.sum()
    return Quality(
        n_rows=len(labels),
        accuracy=float(right.sum() / len(labels)),
        precision=float(weight @ precision),
        recall=float(weight @ recall),
        f1=float(weight @ f1),
    )


def fidelity(answers: Mapping[str, np.ndarray], original: Mapping[str, np.ndarray]) -> float:
    """Share of the test rows on which both decide for the same class, by the first output."""
    name = next(iter(original))
    same = answers[name].argmax(axis=-1) == original[name].argmax(axis=-1)
    return float(same.mean())
