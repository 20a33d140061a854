"""scikit-learn estimators, stored with skops: no pickle, so a file cannot run code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import BadInput
from serving.records import TensorSpec

# State of a fitted network's optimiser: plain data, not on skops' own list.
_TRUSTED_SKLEARN = {
    f"sklearn.neural_network._stochastic_optimizers.{name}Optimizer" for name in ("Adam", "SGD")
}


def load_skops(path: Path) -> Any:
    """A scikit-learn estimator from a skops file; BadInput if it may run code or is damaged."""
    import skops.io

    try:
        untrusted = set(skops.io.get_untrusted_types(file=path)) - _TRUSTED_SKLEARN
        if untrusted:
            raise BadInput(
                f"{path}: holds types that may run code ({', '.join(sorted(untrusted))}); refused"
            )
        return skops.io.load(path, trusted=sorted(_TRUSTED_SKLEARN))
    except BadInput:
        raise
    except Exception as error:  # zip, json and numpy errors of a damaged file
        raise BadInput(f"{path}: skops cannot load this file ({error})") from None


class SklearnRuntime:
    """A scikit-learn estimator stored with skops (no pickle).

    A classifier answers probabilities where it has them, everything else its predictions.
    Inputs arrive as FP32 and are widened to float64, the type the estimator was
    fitted in; that conversion is part of what serving scikit-learn costs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        from threadpoolctl import threadpool_limits

        self._model = load_skops(path)
        self._limits = threadpool_limits(threads)
        features = getattr(self._model, "n_features_in_", None)
        if features is None or not hasattr(self._model, "predict"):
            raise BadInput(f"{path}: {type(self._model).__name__} is no fitted estimator")
        self._guesses = hasattr(self._model, "predict_proba")
        output = TensorSpec(name="predictions", datatype="FP32", shape=(-1, 1))
        if self._guesses:
            classes = len(self._model.classes_)
            output = TensorSpec(name="probabilities", datatype="FP32", shape=(-1, classes))
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="features", datatype="FP32", shape=(-1, int(features))),
        )
        self.outputs: tuple[TensorSpec, ...] = (output,)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Probabilities, shape [batch, classes], or predictions, [batch, 1]; FP32."""
        rows = inputs["features"].astype(np.float64)
        if self._guesses:
            return {"probabilities": self._model.predict_proba(rows).astype(np.float32)}
        made = np.asarray(self._model.predict(rows), dtype=np.float32)
        return {"predictions": made.reshape(len(rows), -1)}
