"""CIFAR-10 as networks that were made for larger pictures are sent it: enlarged, a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.datasets.cifar10 import load_cifar10
from serving.memory import require
from serving.steps import Dataset


@dataclass(frozen=True)
class Enlarging:
    """How pictures become what a network is sent: [n, 3, 32, 32] bytes to float32 of ``size``.

    ``mean`` and ``deviation`` are per colour, in fractions of one.
    """

    size: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Bilinear between the centres of pixels, as image libraries enlarge; then normalised."""
        mean = np.array(self.mean, np.float32).reshape(3, 1, 1)
        deviation = np.array(self.deviation, np.float32).reshape(3, 1, 1)
        small = (pictures.astype(np.float32) / np.float32(255) - mean) / deviation
        down, right = (_weights(side, self.size) for side in pictures.shape[2:])
        enlarged: np.ndarray = down @ small @ right.T
        return enlarged


def enlarged_dataset(
    source: str | None, enlarging: Enlarging, *, training: int, testing: int, seed: int
) -> Dataset:
    """A seeded sample of CIFAR-10 for a workload whose input is ``image``.

    Raises the errors of :func:`serving.datasets.cifar10.load_cifar10`, and BadInput when the
    test pictures would not fit into memory.
    """
    # Twice: while they are enlarged, and the sums on the way, beside the result.
    pictures_gib = 4 * 3 * enlarging.size**2 * testing / 2**30
    require(2 * pictures_gib, f"enlarging {testing:,} test pictures", "free some memory")
    data = load_cifar10(source)
    draw = np.random.default_rng(seed)
    train = np.sort(draw.permutation(len(data.train))[:training])
    test = np.sort(draw.permutation(len(data.test))[:testing])

    def prepare(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: enlarging(pictures) for name, pictures in rows.items()}

    chosen = repr((data.fingerprint, enlarging, training, testing, seed))
    return Dataset(
        train={"image": data.train[train]},
        train_labels=data.train_labels[train],
        test=prepare({"image": data.test[test]}),
        test_labels=data.test_labels[test],
        description=(
            f"CIFAR-10, {len(train):,} pictures for training and {len(test):,} for testing, "
            f"enlarged to {enlarging.size} x {enlarging.size}"
        ),
        fingerprint=hashlib.sha256(chosen.encode()).hexdigest(),
        prepare=prepare,
    )


def _weights(before: int, after: int) -> np.ndarray:
    """The matrix [after, before] that interpolates along one side; edges are repeated."""
    centres = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    left = np.minimum(centres.astype(int), before - 2)
    share = centres - left
    weights = np.zeros((after, before), np.float32)
    weights[np.arange(after), left] = 1 - share
    weights[np.arange(after), left + 1] = share
    return weights
