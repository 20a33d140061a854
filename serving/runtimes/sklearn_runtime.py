"""scikit-learn classifiers, stored with skops: no pickle, so a file cannot run code."""

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
    """A scikit-learn classifier stored with skops (no pickle), answering probabilities.

    Inputs arrive as FP32 and are widened to float64, the type the estimator was
    fitted in; that conversion is part of what serving scikit-learn costs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        from threadpoolctl import threadpool_limits

        self._model = load_skops(path)
        self._limits = threadpool_limits(threads)
        features = int(self._model.n_features_in_)
        classes = len(self._model.classes_)
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="features", datatype="FP32", shape=(-1, features)),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="probabilities", datatype="FP32", shape=(-1, classes)),
        )

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Class probabilities, shape [batch, classes], FP32."""
        rows = inputs["features"].astype(np.float64)
        return {"probabilities": self._model.predict_proba(rows).astype(np.float32)}
