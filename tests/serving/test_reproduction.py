"""Fidelity to the original: the share of its answers' variation that is reproduced."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.quality import reproduction

NUMBERS = arrays.arrays(
    np.float64, st.tuples(st.integers(2, 8), st.integers(1, 3)), elements=st.floats(-100, 100)
)


@given(answers=NUMBERS)
@settings(deadline=None)
def test_the_same_answers_are_reproduced_whole(answers: np.ndarray) -> None:
    """Whatever they are, constant or not."""
    assert reproduction({"y": answers}, {"y": answers}) == 1


@given(answers=NUMBERS, scale=st.floats(0.01, 100), seed=st.integers(0, 9))
@settings(deadline=None)
def test_units_do_not_matter(answers: np.ndarray, scale: float, seed: int) -> None:
    """Scaling both alike leaves the share as it is, which lies between 0 and 1."""
    other = answers + np.random.default_rng(seed).normal(size=answers.shape)
    share = reproduction({"y": other}, {"y": answers})
    assert 0 <= share <= 1
    assert reproduction({"y": scale * other}, {"y": scale * answers}) == pytest.approx(
        share, abs=1e-6
    )


def test_known_shares() -> None:
    """Noise of a tenth of the spread leaves 99 %; the mean in place of the answers leaves none."""
    draw = np.random.default_rng(0)
    truth = draw.normal(size=20_000)
    noisy = truth + 0.1 * draw.normal(size=20_000)
    assert reproduction({"y": noisy}, {"y": truth}) == pytest.approx(0.99, abs=0.001)
    assert reproduction({"y": np.full(20_000, truth.mean())}, {"y": truth}) == 0


def test_the_worst_output_counts() -> None:
    """Text and whole numbers count by equality; another shape is nothing alike."""
    words = np.array(["a", "b", "c", "d"])
    same, other = words.copy(), np.array(["a", "b", "c", "x"])
    assert reproduction({"y": np.ones(3), "w": other}, {"y": np.ones(3), "w": same}) == 0.75
    assert reproduction({"y": np.array([1, 2])}, {"y": np.array([1, 3])}) == 0.5
    assert reproduction({"y": np.ones(3)}, {"y": np.ones(4)}) == 0


def test_undefined_numbers_agree_only_with_themselves() -> None:
    """Masks of minus infinity are answers; a nan that was a number is not."""
    masked = np.array([1.0, 2.0, -np.inf, np.nan])
    assert reproduction({"y": masked}, {"y": masked}) == 1
    broken = np.array([1.0, np.nan, -np.inf, np.nan])
    assert reproduction({"y": broken}, {"y": masked}) == 0
