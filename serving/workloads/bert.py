"""News into eight kinds: MiniLM, a BERT of six layers with real weights, on Reuters R8.

A request carries token ids: texts are tokenised beforehand, here by the workload. Rows are
padded to one length, so that every request costs the same whatever its texts; the models take
any length up to 512, and a study may set another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from serving.compressors.clustering import ClusterWeights
from serving.compressors.onnx_export import ExportOnnx
from serving.compressors.onnx_int8 import DynamicInt8
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.compressors.text_training import DistilText, FineTuneText, TrainHead
from serving.compressors.torch_int8 import TorchDynamicInt8
from serving.datasets.minilm import WEIGHTS, model_file, token_inputs, tokens_of
from serving.datasets.reuters import CLASSES, load_reuters
from serving.quality import classification_quality
from serving.records import Quality, TensorSpec, sha256_of
from serving.steps import Dataset
from serving.workloads import Metric, Recipe

_HALF = (0, 2, 4)
# Up to 19 a GELU is written out, and onnxruntime fuses it with the bias before it; from 20 on it
# is an operator of its own, which it does not: a seventh slower in int8.
OPSET = 18


def network() -> Any:
    """MiniLM with a head for eight classes: 22.6 million weights, half of them embeddings."""
    from serving.compressors.bert_network import MINILM, Bert

    return Bert(MINILM, len(CLASSES))


def student() -> Any:
    """The same with three of the six layers."""
    from serving.compressors.bert_network import MINILM, Bert

    return Bert(replace(MINILM, layers=len(_HALF)), len(CLASSES))


class BertOnReuters:
    """The workload, with rows of ``length`` tokens; see :class:`serving.workloads.Workload`."""

    name = "bert"
    baseline = "torch"
    metric: Metric = "f1"
    rows_per_call = 32
    inputs = token_inputs(vocabulary=30522, longest=512)
    outputs = (TensorSpec(name="logits", datatype="FP32", shape=(-1, len(CLASSES))),)
    recipes: Mapping[str, Recipe] = {
        "torch": Recipe("torch", "fp32", (TrainHead(network),)),
        "torch_int8": Recipe("torch", "int8", (TorchDynamicInt8(network),), needs="torch"),
        "torch_student": Recipe(
            "torch", "fp32", (DistilText(student, network, _HALF, epochs=3),), needs="torch"
        ),
        "onnx": Recipe("onnxruntime", "fp32", (ExportOnnx(network, opset=OPSET),), needs="torch"),
        "onnx_int8": Recipe("onnxruntime", "int8", (DynamicInt8(),), needs="onnx"),
        "onnx_clustered": Recipe("onnxruntime", "fp32", (ClusterWeights(values=16),), needs="onnx"),
        "onnx_student": Recipe(
            "onnxruntime", "fp32", (ExportOnnx(student, opset=OPSET),), needs="torch_student"
        ),
        "onnx_student_int8": Recipe("onnxruntime", "int8", (DynamicInt8(),), needs="onnx_student"),
        "openvino": Recipe("openvino", "fp32", (OpenVinoIr(),), needs="onnx"),
        "openvino_fp16": Recipe("openvino", "fp16", (OpenVinoIr("fp16"),), needs="onnx"),
        "openvino_int8": Recipe(
            "openvino", "int8", (OpenVinoInt8(128, transformer=True),), needs="onnx"
        ),
        "torch_tuned": Recipe("torch", "fp32", (FineTuneText(network, epochs=2),), needs="torch"),
        "onnx_tuned": Recipe(
            "onnxruntime", "fp32", (ExportOnnx(network, opset=OPSET),), needs="torch_tuned"
        ),
        "onnx_tuned_int8": Recipe("onnxruntime", "int8", (DynamicInt8(),), needs="onnx_tuned"),
    }

    longest = 512

    def __init__(self, length: int = 128) -> None:
        self.length = length

    def of_length(self, length: int) -> BertOnReuters:
        """The same with rows of another length."""
        return BertOnReuters(length)

    def load(self, source: str | None, seed: int) -> Dataset:
        """Reuters R8's own split as tokens; the seed changes nothing."""
        news = load_reuters(source)
        train, test = tokens_of(news.train, self.length), tokens_of(news.test, self.length)
        digest = hashlib.sha256(sha256_of(model_file(WEIGHTS)).encode())
        for values in (*train.values(), news.train_labels, *test.values(), news.test_labels):
            digest.update(values.tobytes())
        filled = test["attention_mask"].mean()
        return Dataset(
            train=train,
            train_labels=news.train_labels,
            test=test,
            test_labels=news.test_labels,
            description=(
                f"Reuters R8: {len(news.train):,} texts for training, {len(news.test):,} for "
                f"testing, {len(CLASSES)} classes; {self.length} tokens a row, {filled:.0%} of "
                "them text and the rest padding"
            ),
            fingerprint=digest.hexdigest(),
        )

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """Accuracy, and the rest weighted by class."""
        return classification_quality(outputs["logits"], labels)


WORKLOAD = BertOnReuters()
