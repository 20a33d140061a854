"""Pictures into ten classes: three convolutions and two linear layers, trained on CIFAR-10.

Most weights are in the first linear layer, most arithmetic in the convolutions, so that each
way of compressing has something to bite on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.compressors.clustering import ClusterWeights
from serving.compressors.onnx_export import ExportOnnx
from serving.compressors.onnx_graph import OptimiseGraph
from serving.compressors.onnx_int8 import DynamicInt8, StaticInt8
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.compressors.pruning import PruneChannels
from serving.compressors.torch_int8 import TorchDynamicInt8
from serving.compressors.torch_training import Distil, FineTune, Train
from serving.datasets.cifar10 import CLASSES, picture_dataset
from serving.quality import classification_quality
from serving.records import Quality, TensorSpec
from serving.steps import Dataset
from serving.workloads import Metric, Recipe


def network() -> Any:
    """The network: 294,000 weights, 265,000 of them in the linear layers.

    The first linear layer just fits into a core's second-level cache; twice as wide, it would
    be half of what a single picture takes in ONNX Runtime.
    """
    return of_width((32, 32, 64), hidden=256)


def student() -> Any:
    """The network that is distilled from it: 73,000 weights."""
    return of_width((16, 32, 32), hidden=112)


def of_width(channels: tuple[int, int, int], hidden: int) -> Any:
    """Three convolutions with so many channels, and two linear layers around ``hidden`` units."""
    from torch import nn

    layers: OrderedDict[str, Any] = OrderedDict()
    before = 3
    for number, wide in enumerate(channels, 1):
        layers[f"conv{number}"] = nn.Conv2d(before, wide, 3, padding=1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(wide)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        before = wide
    layers["flatten"] = nn.Flatten()
    layers["full1"] = nn.Linear(before * 4 * 4, hidden)
    layers["relu4"] = nn.ReLU()
    layers["full2"] = nn.Linear(hidden, len(CLASSES))
    return nn.Sequential(layers)


class CifarCnn:
    """The workload; see :class:`serving.workloads.Workload`."""

    name = "cifar_cnn"
    baseline = "torch"
    metric: Metric = "accuracy"
    rows_per_call = 250
    inputs = (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 32, 32)),)
    outputs = (TensorSpec(name="logits", datatype="FP32", shape=(-1, len(CLASSES))),)
    recipes: Mapping[str, Recipe] = {
        "torch": Recipe("torch", "fp32", (Train(network, epochs=8, learning_rate=0.05),)),
        "onnx": Recipe("onnxruntime", "fp32", (ExportOnnx(network),), needs="torch"),
        "onnx_optimised": Recipe("onnxruntime", "fp32", (OptimiseGraph(),), needs="onnx"),
        "torch_int8": Recipe("torch", "int8", (TorchDynamicInt8(network),), needs="torch"),
        "onnx_int8_dynamic": Recipe(
            "onnxruntime", "int8", (DynamicInt8(operators=("MatMul",)),), needs="onnx"
        ),
        # Convolutions as well, which onnxruntime then computes without its fast kernels.
        "onnx_int8_dynamic_all": Recipe("onnxruntime", "int8", (DynamicInt8(),), needs="onnx"),
        "onnx_int8_static": Recipe("onnxruntime", "int8", (StaticInt8(),), needs="onnx"),
        "torch_pruned": Recipe(
            "torch",
            "fp32",
            (PruneChannels(network, share=0.3), FineTune(network, epochs=3)),
            needs="torch",
        ),
        "torch_pruned_int8": Recipe(
            "torch", "int8", (TorchDynamicInt8(network),), needs="torch_pruned"
        ),
        "onnx_pruned": Recipe("onnxruntime", "fp32", (ExportOnnx(network),), needs="torch_pruned"),
        "onnx_pruned_int8": Recipe("onnxruntime", "int8", (StaticInt8(),), needs="onnx_pruned"),
        # Half of the channels leaves whole blocks, which onnxruntime computes in; 70 % does not.
        # Which widths gain on a CPU is measured in reports/published/cifar_cnn/bench.md.
        "onnx_pruned_half": Recipe(
            "onnxruntime",
            "fp32",
            (PruneChannels(network, share=0.5), FineTune(network, epochs=4), ExportOnnx(network)),
            needs="torch",
        ),
        "onnx_clustered": Recipe("onnxruntime", "fp32", (ClusterWeights(values=16),), needs="onnx"),
        "onnx_student": Recipe(
            "onnxruntime",
            "fp32",
            (Distil(student, network, epochs=6, learning_rate=0.05), ExportOnnx(student)),
            needs="torch",
        ),
        "openvino": Recipe("openvino", "fp32", (OpenVinoIr(),), needs="onnx"),
        "openvino_fp16": Recipe("openvino", "fp16", (OpenVinoIr("fp16"),), needs="onnx"),
        "openvino_int8": Recipe("openvino", "int8", (OpenVinoInt8(),), needs="onnx"),
    }

    def load(self, source: str | None, seed: int) -> Dataset:
        """CIFAR-10's own split; the seed changes nothing."""
        return picture_dataset(source)

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """Accuracy, and the rest weighted by class."""
        return classification_quality(outputs["logits"], labels)


WORKLOAD = CifarCnn()
