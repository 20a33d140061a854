"""The picture workloads on real CIFAR-10; a little of it, for no more than a minute."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.build import build_variants
from serving.compressors.torch_training import Train
from serving.datasets.cifar10 import VARIABLE
from serving.steps import Dataset
from serving.workloads import lenet

pytestmark = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no folder with CIFAR-10"
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The data set as the workload reads it, decoded once for these tests."""
    before = os.environ.get("TONNAGE_CACHE")
    os.environ["TONNAGE_CACHE"] = str(tmp_path_factory.mktemp("decoded"))
    try:
        return lenet.WORKLOAD.load(None, 0)
    finally:
        os.environ.pop("TONNAGE_CACHE")
        if before is not None:
            os.environ["TONNAGE_CACHE"] = before


def test_the_real_data_are_whole(real: Dataset) -> None:
    """All pictures, all classes alike, brightness as published."""
    assert real.train["image"].shape == (50_000, 3, 32, 32)
    assert real.test["image"].shape == (10_000, 3, 32, 32)
    assert np.bincount(real.train_labels).tolist() == [5000] * 10
    assert np.bincount(real.test_labels).tolist() == [1000] * 10
    assert real.test["image"].mean() == pytest.approx(0, abs=0.05)
    assert real.test["image"].std() == pytest.approx(1, abs=0.05)


def test_lenet_learns_from_real_pictures(
    real: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six epochs on 4,000 pictures beat guessing twofold; ONNX and OpenVINO decide alike."""
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path))
    small = replace(
        real,
        train={"image": real.train["image"][:4000]},
        train_labels=real.train_labels[:4000],
        test={"image": real.test["image"][:2000]},
        test_labels=real.test_labels[:2000],
        fingerprint="a little",
    )
    workload = lenet.LeNet()
    recipes = dict(workload.recipes)
    recipes["torch"] = replace(
        recipes["torch"], steps=(Train(lenet.network, epochs=6, learning_rate=0.05),)
    )
    monkeypatch.setattr(workload, "recipes", recipes, raising=False)
    made = build_variants(workload, list(recipes), small, seed=1, max_loss=0.02)
    quality = {variant.name: variant.quality for variant in made}
    assert (quality["torch"].accuracy or 0) > 0.25
    for name in ("onnx", "openvino", "openvino_fp16"):
        assert (quality[name].fidelity or 0) >= 0.999
    sizes = {variant.name: variant.size_bytes for variant in made}
    assert sizes["openvino_fp16"] <= 0.55 * sizes["onnx"]
