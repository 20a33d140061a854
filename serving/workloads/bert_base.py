"""BERT-base with random weights, for its size and speed alone: no quality is claimed.

There are no public weights at hand, and none are needed to see what 109 million weights cost.
Rows are random token ids that fill the whole length. How far a compressed variant still decides
as the original does is its fidelity, which says nothing about any task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from serving.compressors.clustering import ClusterWeights
from serving.compressors.onnx_export import ExportOnnx
from serving.compressors.onnx_int8 import DynamicInt8
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.compressors.torch_int8 import TorchDynamicInt8
from serving.compressors.torch_models import Network, open_network, reproducible, save_network
from serving.datasets.minilm import token_inputs
from serving.records import Quality, TensorSpec
from serving.steps import Dataset, Making, Step, StepFailed
from serving.workloads import Metric, Recipe
from serving.workloads.bert import OPSET

_CLASSES = 8
_ROWS = 64  # of either split
_FEWEST_CLASSES = 4
_DEVIATION = 0.02  # of the weights, as Devlin and others start from


def network() -> Any:
    """BERT-base with a head for eight classes: 109 million weights."""
    from serving.compressors.bert_network import BERT_BASE, Bert

    return Bert(BERT_BASE, _CLASSES)


def half() -> Any:
    """The same with six of the twelve layers, as DistilBERT has: 66 million weights."""
    from serving.compressors.bert_network import BERT_BASE, Bert

    return Bert(replace(BERT_BASE, layers=6), _CLASSES)


@dataclass(frozen=True)
class RandomWeights(Step):
    """Draw the weights of ``network``, and put its head where its answers differ."""

    network: Network
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    memory_gib: ClassVar[float] = 2.0

    @property
    def title(self) -> str:
        """In words."""
        return "random weights"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Normal weights; the head's bias takes away what its answers have in common.

        Without that, one class would win every row, and fidelity would be 1 whatever was lost.
        """
        import torch

        with reproducible(making.seed), torch.no_grad():
            module = self.network().eval()
            for name, value in module.named_parameters():
                if name.endswith("bias"):
                    value.zero_()
                elif "norm" not in name:
                    value.normal_(0.0, _DEVIATION)
            logits = _answers(module, making)
            module.head.bias.copy_(-logits.mean(0))
        save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Several classes are decided for."""
        import torch

        with torch.no_grad():
            decided = _answers(open_network(target, self.network), making).argmax(1)
        if len(decided.unique()) < _FEWEST_CLASSES:
            raise StepFailed(f"{self.title}: only {len(decided.unique())} classes are decided for")


def _answers(module: Any, making: Making) -> Any:
    import torch

    rows = making.data.training_rows(slice(None))
    ids, mask = (torch.from_numpy(rows[spec.name]) for spec in making.inputs)
    return torch.cat([module(i, m) for i, m in zip(ids.split(8), mask.split(8), strict=True)])


class BertBase:
    """The workload, with rows of ``length`` tokens; see :class:`serving.workloads.Workload`."""

    name = "bert_base"
    baseline = "torch"
    metric: Metric = "fidelity"
    rows_per_call = 8
    inputs = token_inputs(vocabulary=30522, longest=512)
    outputs = (TensorSpec(name="logits", datatype="FP32", shape=(-1, _CLASSES)),)
    recipes: Mapping[str, Recipe] = {
        "torch": Recipe("torch", "fp32", (RandomWeights(network),)),
        "torch_int8": Recipe("torch", "int8", (TorchDynamicInt8(network),), needs="torch"),
        "torch_half": Recipe("torch", "fp32", (RandomWeights(half),)),
        "onnx": Recipe("onnxruntime", "fp32", (ExportOnnx(network, opset=OPSET),), needs="torch"),
        "onnx_int8": Recipe("onnxruntime", "int8", (DynamicInt8(),), needs="onnx"),
        "onnx_clustered": Recipe("onnxruntime", "fp32", (ClusterWeights(values=16),), needs="onnx"),
        "onnx_half": Recipe(
            "onnxruntime", "fp32", (ExportOnnx(half, opset=OPSET),), needs="torch_half"
        ),
        "openvino": Recipe("openvino", "fp32", (OpenVinoIr(),), needs="onnx"),
        "openvino_fp16": Recipe("openvino", "fp16", (OpenVinoIr("fp16"),), needs="onnx"),
        "openvino_int8": Recipe(
            "openvino", "int8", (OpenVinoInt8(_ROWS, transformer=True),), needs="onnx"
        ),
    }
    longest = 512

    def __init__(self, length: int = 128) -> None:
        self.length = length

    def of_length(self, length: int) -> BertBase:
        """The same with rows of another length."""
        return BertBase(length)

    def load(self, source: str | None, seed: int) -> Dataset:
        """Random ids, seeded; there is nothing to be read."""
        draw = np.random.default_rng(seed)
        vocabulary = int(self.inputs[0].high or 0) + 1
        splits = [
            {
                "input_ids": draw.integers(1, vocabulary, (_ROWS, self.length), np.int64),
                "attention_mask": np.ones((_ROWS, self.length), np.int64),
            }
            for _ in range(2)
        ]
        digest = hashlib.sha256()
        for split in splits:
            digest.update(split["input_ids"].tobytes())
        none = np.zeros(_ROWS, np.int64)
        return Dataset(
            train=splits[0],
            train_labels=none,
            test=splits[1],
            test_labels=none,
            description=f"{_ROWS} rows of {self.length} random token ids; they mean nothing",
            fingerprint=digest.hexdigest(),
        )

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """None of its own; fidelity is added to it."""
        return Quality(n_rows=len(labels))


WORKLOAD = BertBase()
