"""Compressors on a small network: what each makes is what it claims, and is refused if not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from serving.compressors.checks import size_of
from serving.compressors.clustering import ClusterWeights
from serving.compressors.onnx_export import ExportOnnx
from serving.compressors.onnx_graph import OptimiseGraph
from serving.compressors.onnx_int8 import DynamicInt8, StaticInt8
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.compressors.pruning import PruneChannels
from serving.compressors.torch_int8 import TorchDynamicInt8
from serving.compressors.torch_models import count_parameters, open_network
from serving.compressors.torch_training import Distil, FineTune, Train
from serving.quality import classification_quality
from serving.records import TensorSpec
from serving.runtimes import open_model
from serving.steps import Dataset, Making, Step, StepFailed


def network() -> Any:
    return _network(16, 512)


def student() -> Any:
    return _network(6, 64)


def _network(wide: int, hidden: int) -> Any:
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, wide, 3, stride=2, padding=1, bias=False),
            norm1=nn.BatchNorm2d(wide),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(4),
            flatten=nn.Flatten(),
            full1=nn.Linear(wide * 16, hidden),
            relu2=nn.ReLU(),
            full2=nn.Linear(hidden, 10),
        )
    )


@dataclass
class Bench:
    """Applies steps to files in a folder, and scores what they answer."""

    folder: Path
    data: Dataset
    made: dict[str, Path] = field(default_factory=dict)

    def making(self, progress: Callable[[str], None] = lambda line: None) -> Making:
        scratch = self.folder / f"scratch-{len(list(self.folder.iterdir()))}"
        scratch.mkdir()
        return Making(
            data=self.data,
            seed=3,
            inputs=(TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 32, 32)),),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),),
            scratch=scratch,
            progress=progress,
        )

    def make(self, name: str, step: Step, source: str = "") -> Path:
        target = self.folder / f"{name}{step.suffix}"
        making = self.making()
        before = self.made.get(source, self.folder)
        step.apply(before, target, making)
        step.check(before, target, making)
        self.made[name] = target
        return target

    def accuracy(self, name: str, runtime: str) -> float:
        answers = open_model(runtime, self.made[name], 1).predict(self.data.test)
        found = classification_quality(answers["logits"], self.data.test_labels).accuracy
        assert found is not None
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, pictures: Dataset) -> Bench:
    """A trained network and its export, which the other steps start from."""
    bench = Bench(tmp_path_factory.mktemp("compressors"), pictures)
    bench.make("torch", Train(network, epochs=6, learning_rate=0.05))
    bench.make("onnx", ExportOnnx(network), "torch")
    return bench


def test_training_learns(bench: Bench) -> None:
    """The pictures are easy: nearly all of them are told apart."""
    assert bench.accuracy("torch", "torch") > 0.8


def test_training_is_seeded(bench: Bench) -> None:
    """The same seed gives the same weights, to the last bit."""
    first = bench.make("one", Train(network, epochs=1))
    second = bench.make("two", Train(network, epochs=1))
    weights = [open_network(path, network).state_dict() for path in (first, second)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_training_tells_how_far_it_is(bench: Bench) -> None:
    """A line an epoch."""
    lines: list[str] = []
    making = bench.making(lines.append)
    Train(network, epochs=2).apply(bench.folder, bench.folder / "told.pt", making)
    assert [line.partition(",")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]


def test_an_export_takes_any_batch_and_carries_no_paths(bench: Bench) -> None:
    """The batch axis is free, and nothing of the machine that exported is in the file."""
    runtime = open_model("onnxruntime", bench.made["onnx"], 1)
    assert runtime.inputs[0].shape == (-1, 3, 32, 32)
    assert runtime.outputs[0].shape == (-1, 10)
    assert bench.accuracy("onnx", "onnxruntime") == bench.accuracy("torch", "torch")
    assert str(Path(__file__).parents[1]).encode() not in bench.made["onnx"].read_bytes()
    assert b"site-packages" not in bench.made["onnx"].read_bytes()


def test_graph_optimisation_is_saved(bench: Bench) -> None:
    """Activations are fused into what is before them."""
    path = bench.make("optimised", OptimiseGraph(), "onnx")
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert "FusedConv" in operators
    assert "Relu" not in operators


@pytest.mark.parametrize("step", [DynamicInt8(), StaticInt8(calibration_rows=64)], ids=repr)
def test_onnx_int8(bench: Bench, step: Step) -> None:
    """A third of the bytes or less, and hardly another answer."""
    bench.make("int8", step, "onnx")
    assert size_of(bench.made["int8"]) < 0.45 * size_of(bench.made["onnx"])
    assert bench.accuracy("int8", "onnxruntime") > bench.accuracy("onnx", "onnxruntime") - 0.1


@pytest.mark.parametrize(("reduce_range", "most"), [(True, 64), (False, 127)])
def test_static_int8_keeps_weights_to_seven_bits(
    bench: Bench, reduce_range: bool, most: int
) -> None:
    """On a CPU without VNNI products of 8 by 8 bits overflow; the test need not run on one."""
    step = StaticInt8(calibration_rows=64, reduce_range=reduce_range)
    made = onnx.load(bench.make("int8", step, "onnx"))
    weights = [
        onnx.numpy_helper.to_array(tensor).astype(int)
        for tensor in made.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert max(int(abs(values).max()) for values in weights) == most


@pytest.mark.parametrize("per_channel", [True, False])
def test_static_int8_scales_each_channel(bench: Bench, per_channel: bool) -> None:
    """As many scales as channels where it is claimed, a single one where it is not."""
    step = StaticInt8(calibration_rows=64, per_channel=per_channel)
    graph = onnx.load(bench.make("int8", step, "onnx")).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for node in (n for n in graph.node if n.op_type == "DequantizeLinear"):
        weights = stored.get(node.input[0])
        if weights is not None and len(weights.dims) > 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            scales = int(np.prod(stored[node.input[1]].dims, dtype=int))
            found.append((scales, weights.dims[axis] if per_channel else 1))
    assert len(found) == 3
    assert all(scales == wanted for scales, wanted in found)


@pytest.mark.parametrize(
    ("made", "claimed", "complaint"),
    [
        (StaticInt8(64), StaticInt8(64, per_channel=False), "16 scales; one is claimed"),
        (StaticInt8(64, per_channel=False), StaticInt8(64), "not have a scale for each channel"),
        (StaticInt8(64, reduce_range=False), StaticInt8(64), "holds 127, more than seven bits"),
        (DynamicInt8(operators=("Conv",)), DynamicInt8(), "claimed to shrink 3.5 times"),
    ],
    ids=["one scale", "many scales", "seven bits", "linear layers"],
)
def test_int8_that_is_not_what_it_claims_is_told(
    bench: Bench, made: Step, claimed: Step, complaint: str
) -> None:
    """The check reads the file, whatever has made it."""
    path = bench.make("int8", made, "onnx")
    with pytest.raises(StepFailed, match=complaint):
        claimed.check(bench.made["onnx"], path, bench.making())


def test_torch_int8_is_stored_and_served(bench: Bench) -> None:
    """The quantized network survives its file, which TorchScript alone manages."""
    bench.make("torch_int8", TorchDynamicInt8(network), "torch")
    assert bench.accuracy("torch_int8", "torch") > bench.accuracy("torch", "torch") - 0.1


def test_pruned_channels_are_gone(bench: Bench) -> None:
    """Layers really have fewer channels, and a little training brings the answers back."""
    bench.make("pruned", PruneChannels(network, share=0.25), "torch")
    pruned = open_network(bench.made["pruned"], network)
    assert (pruned.conv1.out_channels, pruned.full1.out_features) == (12, 384)
    assert pruned.full1.in_features == 12 * 16
    bench.make("tuned", FineTune(network, epochs=2), "pruned")
    assert bench.accuracy("tuned", "torch") > bench.accuracy("torch", "torch") - 0.1
    bench.make("tuned_onnx", ExportOnnx(network), "tuned")
    assert size_of(bench.made["tuned_onnx"]) < 0.7 * size_of(bench.made["onnx"])


@pytest.mark.parametrize(("values", "at_most"), [(16, 0.25), (64, 0.35)])
def test_clustered_weights_have_few_values(bench: Bench, values: int, at_most: float) -> None:
    """What the graph looks up has no more values than the code book; the file shows it."""
    path = bench.make("clustered", ClusterWeights(values=values), "onnx")
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    books = {name: book for name, book in stored.items() if name.endswith(".book")}
    assert books
    for name, book in books.items():
        codes = stored[name.replace(".book", ".codes")].astype(int)
        assert book.size <= values
        assert 0 <= codes.min() <= codes.max() < book.size
    assert size_of(path) < at_most * size_of(bench.made["onnx"])
    assert bench.accuracy("clustered", "onnxruntime") > 0.7


def test_a_student_is_smaller_and_learns(bench: Bench) -> None:
    """Half the weights or fewer, trained on the teacher's answers."""
    path = bench.make("student", Distil(student, network, epochs=6, learning_rate=0.05), "torch")
    ratio = count_parameters(open_network(path, student)) / count_parameters(network())
    assert ratio < 0.5
    assert bench.accuracy("student", "torch") > 0.6


@pytest.mark.parametrize(
    ("step", "at_most"),
    [(OpenVinoIr(), 1.1), (OpenVinoIr("fp16"), 0.6), (OpenVinoInt8(calibration_rows=64), 0.45)],
    ids=repr,
)
def test_openvino(bench: Bench, step: Step, at_most: float) -> None:
    """The .xml and .bin together have the size they promise, and answer as before."""
    path = bench.make("ir", step, "onnx")
    assert size_of(path) < at_most * size_of(bench.made["onnx"])
    runtime = open_model("openvino", path, 1)
    assert [spec.name for spec in (*runtime.inputs, *runtime.outputs)] == ["image", "logits"]
    assert bench.accuracy("ir", "openvino") > bench.accuracy("onnx", "onnxruntime") - 0.1


CLAIMS = {
    "int8 dynamic": (DynamicInt8(), "onnx", "no weight is stored in eight bits"),
    "int8 static": (StaticInt8(), "onnx", "no weight is stored in eight bits"),
    "graph optimised": (OptimiseGraph(), "onnx", "nodes"),
    "torch int8": (TorchDynamicInt8(network), "torch", "claimed to shrink"),
    "pruned": (PruneChannels(network, share=0.3), "torch", "conv1 has 16 of 16 channels"),
    "clustered": (ClusterWeights(), "onnx", "has more values"),
}


@pytest.mark.parametrize(("step", "source", "said"), CLAIMS.values(), ids=CLAIMS)
def test_a_step_that_did_nothing_is_found_out(
    bench: Bench, step: Step, source: str, said: str
) -> None:
    """Each check refuses the unchanged file in the place of its result."""
    with pytest.raises(StepFailed, match=said):
        step.check(bench.made[source], bench.made[source], bench.making())


def test_an_export_of_other_weights_is_found_out(bench: Bench) -> None:
    """The parity test compares answers, not shapes."""
    model = onnx.load(bench.made["onnx"])
    bias = next(t for t in model.graph.initializer if t.name == "full2.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.ones(10, np.float32), bias.name))
    other = bench.folder / "other.onnx"
    onnx.save(model, other)
    with pytest.raises(StepFailed, match="'logits' differs by up to"):
        ExportOnnx(network).check(bench.made["torch"], other, bench.making())


def test_a_large_student_is_found_out(bench: Bench) -> None:
    """A student with as many weights as its teacher is none."""
    step = Distil(network, network, epochs=1)
    with pytest.raises(StepFailed, match="the teacher has"):
        step.check(bench.made["torch"], bench.made["torch"], bench.making())
