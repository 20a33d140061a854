"""How good the answers of a classifier are, and how like another's they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from serving.records import Quality

METRIC_NAMES = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "f1": "F1",
    "fidelity": "fidelity",
    "reproduced": "fidelity",
}

# Relative to its energy an output varies less than this only by rounding.
_CONSTANT = 1e-9


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


def reproduction(answers: Mapping[str, np.ndarray], original: Mapping[str, np.ndarray]) -> float:
    """Share of the variation of the original's answers that is reproduced; the worst output's.

    For numbers it is the coefficient of determination, R^2 = 1 - SS_residual / SS_total, over
    all values of an output, not below 0; for whole numbers, truth values and text the share of
    equal values. Where both are infinite or undefined they agree.
    """
    return min(_reproduced(answers[name], values) for name, values in original.items())


def _reproduced(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return 0.0
    if b.dtype.kind != "f" or not b.size:
        return float((a == b).mean()) if b.size else 1.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    alike = np.where(finite, 0.0, (x == y) | (np.isnan(x) & np.isnan(y)))
    if not (finite | (alike > 0)).all():
        return 0.0
    x, y = x[finite], y[finite]
    residual, total = (
        float(((x - y) ** 2).sum()),
        float(((y - y.mean()) ** 2).sum()) if len(y) else 0,
    )
    if total <= _CONSTANT * float((y**2).sum()):  # it answers always the same
        return float(residual <= _CONSTANT * float((y**2).sum()))
    return max(0.0, 1 - residual / total)
