"""EfficientViT-B3: 48.6 million weights, 195 MB, for size, speed and memory; not for quality.

No trained weights are at hand, so they are drawn by the seed. What can be said of a compressed
form is how often it decides as the original does, which is called fidelity, and no accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from serving.compressors.onnx_export import ExportOnnx
from serving.compressors.onnx_int8 import StaticInt8
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.compressors.torch_models import open_network, reproducible, save_network
from serving.datasets.enlarged import Enlarging, enlarged_dataset
from serving.records import Quality, TensorSpec
from serving.steps import Dataset, Making, Step, StepFailed
from serving.workloads import Metric, Recipe

_SIZE = 224
_CLASSES = 1000
_ENLARGING = Enlarging(_SIZE, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
_ROWS_PER_CALL = 16


def network() -> Any:
    """The architecture, without weights worth keeping."""
    from serving.networks.efficientvit import EfficientViT

    return EfficientViT()


@dataclass(frozen=True)
class DrawWeights(Step):
    """Draw the weights, then fit what depends on the data so that answers differ by picture.

    Normalisation takes mean and variance from ``rows`` training pictures, and the last bias is
    set so that on their average no class is preferred. With plain random weights every picture
    falls into the same class, and agreeing with that would mean nothing.
    """

    rows: int = 64
    least_classes: int = 16
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    memory_gib: ClassVar[float] = 2.0

    @property
    def title(self) -> str:
        """In words."""
        return "random weights"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Draw, fit, and store."""
        import torch
        from torch import nn

        with reproducible(making.seed), torch.no_grad():
            module = network()
            norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
            for norm in norms:
                norm.momentum = None  # plain averages over the batches
            module.train()
            hidden = []
            last = module.head.classifier[-1]
            batches = list(range(0, self.rows, _ROWS_PER_CALL))
            for number, start in enumerate(batches, 1):
                making.progress(f"normalisation, batch {number} of {len(batches)}")
                module(self._pictures(making, start))
            module.eval()
            watching = last.register_forward_hook(lambda _, given, __: hidden.append(given[0]))
            for number, start in enumerate(batches, 1):
                making.progress(f"last bias, batch {number} of {len(batches)}")
                module(self._pictures(making, start))
            watching.remove()
            last.bias.copy_(-(last.weight @ torch.cat(hidden).mean(0)))
            save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The pictures are decided for many different classes."""
        import torch

        with torch.inference_mode():
            module = open_network(target, network)
            decided = torch.cat(
                [
                    module(self._pictures(making, start)).argmax(1)
                    for start in range(0, self.rows, _ROWS_PER_CALL)
                ]
            )
        found = len(decided.unique())
        if found < self.least_classes:
            raise StepFailed(
                f"{self.title}: {self.rows} pictures fall into {found} classes; fidelity would "
                "say nothing"
            )

    def _pictures(self, making: Making, start: int) -> Any:
        import torch

        end = min(start + _ROWS_PER_CALL, self.rows)
        return torch.from_numpy(making.data.training_rows(slice(start, end))["image"])


class EfficientVit:
    """The workload; see :class:`serving.workloads.Workload`."""

    name = "efficientvit"
    baseline = "torch"
    metric: Metric = "fidelity"
    rows_per_call = 8
    inputs = (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, _SIZE, _SIZE)),)
    outputs = (TensorSpec(name="logits", datatype="FP32", shape=(-1, _CLASSES)),)
    recipes: Mapping[str, Recipe] = {
        "torch": Recipe("torch", "fp32", (DrawWeights(),)),
        "onnx": Recipe("onnxruntime", "fp32", (ExportOnnx(network),), needs="torch"),
        "onnx_int8_naive": Recipe(
            "onnxruntime", "int8", (StaticInt8(calibration_rows=64),), needs="onnx"
        ),
        # The attention's products and quotient stay in float: in the tensor between them the
        # sum of the weights is a column beside the values, and takes all levels.
        "onnx_int8_static": Recipe(
            "onnxruntime",
            "int8",
            (StaticInt8(calibration_rows=64, operators=("Conv", "Gemm")),),
            needs="onnx",
        ),
        "openvino_fp16": Recipe("openvino", "fp16", (OpenVinoIr("fp16"),), needs="onnx"),
        "openvino_int8": Recipe(
            "openvino", "int8", (OpenVinoInt8(calibration_rows=64),), needs="onnx"
        ),
    }

    def load(self, source: str | None, seed: int) -> Dataset:
        """CIFAR-10 enlarged to 224 x 224: 300 pictures to answer, 512 to calibrate with."""
        return enlarged_dataset(source, _ENLARGING, training=512, testing=300, seed=seed)

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """None of its own: the classes mean nothing. Fidelity is added by the scoring."""
        return Quality(n_rows=len(labels))


WORKLOAD = EfficientVit()
