"""Pictures enlarged, against PyTorch's interpolation; and samples that a seed decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serving.datasets import enlarged
from serving.datasets.cifar10 import Cifar10
from serving.datasets.enlarged import Enlarging, enlarged_dataset
from serving.errors import BadInput
from serving.steps import Dataset

PLAIN = Enlarging(64, mean=(0.0,) * 3, deviation=(1.0,) * 3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty pictures in the place of CIFAR-10."""
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(40) % 10
    data = Cifar10(pictures, labels, pictures, labels, "made up")
    monkeypatch.setattr(enlarged, "load_cifar10", lambda source: data)


def sample(seed: int = 1, enlarging: Enlarging = PLAIN) -> Dataset:
    return enlarged_dataset(None, enlarging, training=20, testing=10, seed=seed)


@pytest.mark.parametrize("size", [32, 50, 160])
def test_enlarging_is_bilinear(size: int) -> None:
    """As torch.nn.functional.interpolate does it, and normalised per colour."""
    pictures = np.random.default_rng(1).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    mean, deviation = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    scaled = torch.from_numpy(pictures).float() / 255
    plain = torch.nn.functional.interpolate(scaled, size=(size, size), mode="bilinear")
    columns = [torch.tensor(v).reshape(3, 1, 1) for v in (mean, deviation)]
    wanted = ((plain - columns[0]) / columns[1]).numpy()
    assert Enlarging(size, mean, deviation)(pictures) == pytest.approx(wanted, abs=1e-5)


def test_one_colour_stays_one_colour() -> None:
    """Weights along each side add up to one, at the edges as well."""
    pictures = np.full((1, 3, 32, 32), 51, np.uint8)
    assert PLAIN(pictures) == pytest.approx(0.2, abs=1e-6)


@pytest.mark.usefixtures("small")
def test_the_seed_decides_the_sample() -> None:
    """The same seed gives the same rows and fingerprint, another one others."""
    first, again, other = sample(1), sample(1), sample(2)
    assert (first.train["image"] == again.train["image"]).all()
    assert first.fingerprint == again.fingerprint
    assert (first.train_labels != other.train_labels).any()
    assert (
        len(
            {
                first.fingerprint,
                other.fingerprint,
                sample(1, Enlarging(64, (0.5,) * 3, (1.0,) * 3)).fingerprint,
            }
        )
        == 3
    )


@pytest.mark.usefixtures("small")
def test_training_rows_are_enlarged_when_asked_for() -> None:
    """Kept as bytes, handed out as the model is sent them; the test rows are ready."""
    data = sample()
    assert data.train["image"].dtype == np.uint8
    assert data.training_rows(slice(2))["image"].shape == (2, 3, 64, 64)
    assert data.test["image"].shape == (10, 3, 64, 64)
    assert data.test["image"].dtype == np.float32


@pytest.mark.usefixtures("small")
def test_pictures_that_do_not_fit_are_refused() -> None:
    """Before anything is read, in one line."""
    with pytest.raises(BadInput, match=r"enlarging 10 test pictures needs about .* of memory"):
        sample(enlarging=Enlarging(1_000_000, (0.0,) * 3, (1.0,) * 3))
