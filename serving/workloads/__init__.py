"""Workloads: what a model is asked, on which data, and how good its answers are.

A workload is one module in this folder that defines ``WORKLOAD``; nothing else knows
its name. Its heavy libraries are imported when it builds, not before.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from serving.errors import BadInput
from serving.records import Quality


@dataclass(frozen=True)
class Dataset:
    """Train and test split. ``test`` maps input name to an array [rows, ...]."""

    train: Mapping[str, np.ndarray]
    train_labels: np.ndarray
    test: Mapping[str, np.ndarray]
    test_labels: np.ndarray
    description: str
    fingerprint: str


@dataclass(frozen=True)
class Recipe:
    """How one variant comes about: its runtime, precision and file ending."""

    runtime: str
    precision: str
    suffix: str
    needs: str | None = None


class Workload(Protocol):
    """The interface of a workload module's ``WORKLOAD``."""

    name: str
    baseline: str
    recipes: Mapping[str, Recipe]

    def load(self, source: str | None, seed: int) -> Dataset:
        """Read the data; BadInput says how to get it when it is absent."""
        ...

    def build(
        self, variant: str, target: Path, needed: Path | None, data: Dataset, seed: int
    ) -> None:
        """Write the file of ``variant``; ``needed`` is the file of the recipe's ``needs``."""
        ...

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """Score the answers to the test set."""
        ...


def find_workload(name: str) -> Workload:
    """The workload of that name. BadInput lists those that exist."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise BadInput(f"unknown workload {name!r}; known are {', '.join(known)}")
    workload: Workload = importlib.import_module(f"{__name__}.{name}").WORKLOAD
    return workload
