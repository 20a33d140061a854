"""Text training and compressors on a BERT so small that it learns in a moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from serving.compressors import text_training
from serving.compressors.bert_network import Bert, Geometry, load_encoder
from serving.compressors.checks import size_of
from serving.compressors.clustering import ClusterWeights
from serving.compressors.onnx_export import ExportOnnx
from serving.compressors.onnx_int8 import DynamicInt8
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.compressors.text_training import DistilText, FineTuneText, TrainHead
from serving.compressors.torch_int8 import TorchDynamicInt8
from serving.datasets import minilm
from serving.errors import BadInput
from serving.quality import classification_quality
from serving.records import TensorSpec
from serving.runtimes import open_model
from serving.steps import Dataset, Making, Step, StepFailed

TINY = Geometry(layers=2, hidden=128, heads=4, inner=1024, vocabulary=500, longest=32)
CLASSES, LENGTH = 4, 16


def network() -> Any:
    return Bert(TINY, CLASSES)


def student() -> Any:
    return Bert(replace(TINY, layers=1), CLASSES)


def texts(rows: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random tokens, of which two tell the class; lengths from 4 to :data:`LENGTH`."""
    draw = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    ids = draw.integers(10, TINY.vocabulary, (rows, LENGTH))
    ids[:, 1], ids[:, 3] = 1 + labels, 5 + labels
    mask = (np.arange(LENGTH) < draw.integers(4, LENGTH + 1, (rows, 1))).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}, labels


@pytest.fixture(scope="module")
def news() -> Dataset:
    (train, train_labels), (test, test_labels) = texts(400, 1), texts(120, 2)
    return Dataset(
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        description="texts made for a test",
        fingerprint="made",
    )


def published(geometry: Geometry, seed: int = 0) -> dict[str, torch.Tensor]:
    """An encoder's weights under the names that published files give them."""
    torch.manual_seed(seed)
    size, inner = geometry.hidden, geometry.inner
    layer = {
        "attention.self.query": nn.Linear(size, size),
        "attention.self.key": nn.Linear(size, size),
        "attention.self.value": nn.Linear(size, size),
        "attention.output.dense": nn.Linear(size, size),
        "attention.output.LayerNorm": nn.LayerNorm(size),
        "intermediate.dense": nn.Linear(size, inner),
        "output.dense": nn.Linear(inner, size),
        "output.LayerNorm": nn.LayerNorm(size),
    }
    state = {
        "embeddings.word_embeddings.weight": torch.randn(geometry.vocabulary, size),
        "embeddings.position_embeddings.weight": torch.randn(geometry.longest, size),
        "embeddings.token_type_embeddings.weight": torch.randn(2, size),
        "embeddings.LayerNorm.weight": torch.rand(size) + 0.5,
        "embeddings.LayerNorm.bias": torch.randn(size),
        "pooler.dense.weight": torch.randn(size, size),
    }
    for number in range(geometry.layers):
        for name, module in layer.items():
            for kind, value in module.state_dict().items():
                noise = 0.1 * torch.randn_like(value)
                state[f"encoder.layer.{number}.{name}.{kind}"] = value + noise
    return state


class Kitchen:
    """Applies steps, one on the file of another, in a folder."""

    def __init__(self, folder: Path, data: Dataset) -> None:
        self.folder, self.data = folder, data

    def making(self) -> Making:
        return Making(
            data=self.data,
            seed=3,
            inputs=minilm.token_inputs(TINY.vocabulary, TINY.longest),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, CLASSES)),),
            scratch=self.folder,
        )

    def make(self, name: str, step: Step, source: Path | None = None) -> Path:
        target = self.folder / f"{name}{step.suffix}"
        step.apply(source or self.folder, target, self.making())
        step.check(source or self.folder, target, self.making())
        return target

    def f1(self, runtime: str, path: Path) -> float:
        answers = open_model(runtime, path, 1).predict(self.data.test)["logits"]
        return classification_quality(answers, self.data.test_labels).f1 or 0.0


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory, news: Dataset) -> Iterator[Kitchen]:
    folder = tmp_path_factory.mktemp("text")
    save_file(published(TINY), str(folder / minilm.WEIGHTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(minilm.VARIABLE, str(folder))
        patch.setenv("TONNAGE_CACHE", str(folder / "store"))
        patch.setattr(text_training, "_THREADS", 1)  # too small to share
        yield Kitchen(folder, news)


@pytest.fixture(scope="module")
def headed(kitchen: Kitchen) -> Path:
    return kitchen.make("headed", TrainHead(network))


@pytest.fixture(scope="module")
def tuned(kitchen: Kitchen, headed: Path) -> Path:
    return kitchen.make("tuned", FineTuneText(network, epochs=4, learning_rate=1e-3), headed)


@pytest.fixture(scope="module")
def exported(kitchen: Kitchen, tuned: Path) -> Path:
    return kitchen.make("exported", ExportOnnx(network), tuned)


def test_the_encoder_computes_what_torch_s_own_layers_do(tmp_path: Path) -> None:
    """Against nn.TransformerEncoderLayer with the same published weights."""
    state = published(TINY)
    save_file(state, str(tmp_path / "w.safetensors"))
    module = network().eval()
    load_encoder(module, tmp_path / "w.safetensors")
    rows, _ = texts(6, 5)
    ids, mask = (torch.from_numpy(rows[name]) for name in ("input_ids", "attention_mask"))

    embedded = state["embeddings.word_embeddings.weight"][ids]
    embedded = embedded + state["embeddings.position_embeddings.weight"][:LENGTH]
    embedded = embedded + state["embeddings.token_type_embeddings.weight"][0]
    weight, bias = (state[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias"))
    states = nn.functional.layer_norm(embedded, (TINY.hidden,), weight, bias, 1e-12)
    for number in range(TINY.layers):
        states = _torch_layer(state, number)(states, src_key_padding_mask=mask == 0)
    wanted = torch.stack([row[keep == 1].mean(0) for row, keep in zip(states, mask, strict=True)])
    with torch.no_grad():
        got = module.pooled(ids, mask)
    assert torch.allclose(got, wanted.detach(), atol=1e-4)


def _torch_layer(state: dict[str, torch.Tensor], number: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        TINY.hidden, TINY.heads, TINY.inner, 0.0, "gelu", 1e-12, batch_first=True
    )
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    prefix = f"encoder.layer.{number}"
    made = {
        f"{ours}.{kind}": state[f"{prefix}.{theirs}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        parts = [state[f"{prefix}.attention.self.{p}.{kind}"] for p in ("query", "key", "value")]
        made[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
    layer.load_state_dict(made)
    return layer.eval()


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_padding_and_neighbours_change_no_answer(
    runtime: str, kitchen: Kitchen, tuned: Path, exported: Path
) -> None:
    """A text answers the same alone, cut to its own length, as padded among others."""
    model = open_model(runtime, tuned if runtime == "torch" else exported, 1)
    test = kitchen.data.test
    together = model.predict({name: values[:8] for name, values in test.items()})["logits"]
    for row, length in enumerate(test["attention_mask"][:8].sum(axis=1)):
        alone = model.predict({n: v[row : row + 1, :length].copy() for n, v in test.items()})
        assert np.allclose(alone["logits"][0], together[row], atol=1e-4)


def test_a_head_is_fitted_on_states_that_are_kept(kitchen: Kitchen, headed: Path) -> None:
    """It beats guessing by far; the states it was fitted on are not computed again."""
    assert kitchen.f1("torch", headed) > 0.6
    kept = list((kitchen.folder / "store" / "datasets").glob("states-*.npy"))
    assert len(kept) == 1
    assert np.load(kept[0]).shape == (400, TINY.hidden)
    np.save(kept[0], np.zeros((400, TINY.hidden), np.float32))
    blind = kitchen.make("blind", TrainHead(network))
    kept[0].unlink()
    assert kitchen.f1("torch", blind) < 0.3  # it was fitted on what was found there


def test_fine_tuning_improves_on_the_head_alone(
    kitchen: Kitchen, headed: Path, tuned: Path
) -> None:
    """The encoder learns what a frozen one does not show."""
    assert kitchen.f1("torch", tuned) > max(0.9, kitchen.f1("torch", headed))


def test_a_student_of_half_the_layers_learns_from_the_teacher(
    kitchen: Kitchen, tuned: Path
) -> None:
    """It answers nearly as well; its file is smaller by the layers it lacks."""
    step = DistilText(student, network, (1,), epochs=4, learning_rate=1e-3)
    path = kitchen.make("student", step, tuned)
    assert kitchen.f1("torch", path) > 0.9
    layer = 4 * (4 * TINY.hidden**2 + 2 * TINY.hidden * TINY.inner)
    assert size_of(tuned) - size_of(path) == pytest.approx(layer, rel=0.05)


def test_a_student_with_most_of_the_layers_is_refused(kitchen: Kitchen, tuned: Path) -> None:
    """All of two layers are no distillation."""
    step = DistilText(network, network, (0, 1), epochs=1)
    with pytest.raises(StepFailed, match="distilled to 2 layers: the teacher has 2"):
        kitchen.make("large", step, tuned)


def test_training_that_changes_nothing_is_noticed(kitchen: Kitchen, tuned: Path) -> None:
    """A learning rate of nothing leaves the encoder as it was, and the step fails."""
    with pytest.raises(StepFailed, match="the encoder has not changed"):
        kitchen.make("same", FineTuneText(network, epochs=1, learning_rate=0.0), tuned)


def test_a_head_on_another_encoder_is_noticed(kitchen: Kitchen, headed: Path) -> None:
    """The check compares the file with the published weights."""
    changed = published(TINY, seed=1)
    path = kitchen.folder / minilm.WEIGHTS
    before = path.read_bytes()
    save_file(changed, str(path))
    try:
        with pytest.raises(StepFailed, match="has changed"):
            TrainHead(network).check(kitchen.folder, headed, kitchen.making())
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("runtime", "step", "smaller"),
    [
        ("onnxruntime", DynamicInt8(), 3.0),
        ("onnxruntime", ClusterWeights(values=16), 5.0),
        ("openvino", OpenVinoIr("fp16"), 1.8),
        ("openvino", OpenVinoInt8(calibration_rows=64, transformer=True), 3.0),
    ],
    ids=["int8", "clustered", "fp16", "openvino_int8"],
)
def test_what_is_made_from_the_exported_file_is_smaller_and_as_good(
    runtime: str, step: Step, smaller: float, kitchen: Kitchen, exported: Path
) -> None:
    """Embeddings shrink with the rest; hardly an answer changes."""
    path = kitchen.make(f"made-{runtime}-{smaller}", step, exported)
    assert size_of(exported) > smaller * size_of(path)
    assert kitchen.f1(runtime, path) > kitchen.f1("onnxruntime", exported) - 0.03


def test_int8_in_torch_covers_embeddings(kitchen: Kitchen, tuned: Path) -> None:
    """The whole file is a third at most, which linear layers alone do not give."""
    path = kitchen.make("torch-int8", TorchDynamicInt8(network), tuned)
    assert size_of(tuned) > 2.5 * size_of(path)
    assert kitchen.f1("torch", path) > kitchen.f1("torch", tuned) - 0.03


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(b"not a safetensors file"), "cannot read this file"),
        (lambda path: save_file({"x": torch.ones(1)}, str(path)), "is missing"),
        (lambda path: save_file(published(replace(TINY, hidden=32)), str(path)), "another size"),
        (lambda path: save_file(published(replace(TINY, layers=1)), str(path)), "is missing"),
        (lambda path: None, "cannot read this file"),
    ],
    ids=["damaged", "no_encoder", "narrower", "fewer_layers", "absent"],
)
def test_weights_that_do_not_fit_are_refused(spoil: Any, told: str, tmp_path: Path) -> None:
    """One line names the file and what is wrong with it."""
    path = tmp_path / "model.safetensors"
    spoil(path)
    with pytest.raises(BadInput, match=told) as caught:
        load_encoder(network(), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
