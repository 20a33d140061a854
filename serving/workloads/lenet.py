"""LeNet-5 on CIFAR-10: a network so small that what surrounds it decides its speed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.compressors.onnx_export import ExportOnnx
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.compressors.torch_training import Train
from serving.datasets.cifar10 import CLASSES, picture_dataset
from serving.quality import classification_quality
from serving.records import Quality, TensorSpec
from serving.steps import Dataset
from serving.workloads import Metric, Recipe


def network() -> Any:
    """LeNet-5 for three colours, with rectifiers and maximum pooling: 62,000 weights."""
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            full1=nn.Linear(16 * 5 * 5, 120),
            relu3=nn.ReLU(),
            full2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            full3=nn.Linear(84, len(CLASSES)),
        )
    )


class LeNet:
    """The workload; see :class:`serving.workloads.Workload`."""

    name = "lenet"
    baseline = "torch"
    metric: Metric = "accuracy"
    rows_per_call = 250
    inputs = (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 32, 32)),)
    outputs = (TensorSpec(name="logits", datatype="FP32", shape=(-1, len(CLASSES))),)
    recipes: Mapping[str, Recipe] = {
        "torch": Recipe("torch", "fp32", (Train(network, epochs=10, learning_rate=0.02),)),
        "onnx": Recipe("onnxruntime", "fp32", (ExportOnnx(network),), needs="torch"),
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


WORKLOAD = LeNet()
