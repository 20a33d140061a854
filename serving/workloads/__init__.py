"""Workloads: what a model is asked, on which data, and how good its answers are.

A workload is one module in this folder that defines ``WORKLOAD``; nothing else knows
its name. Its heavy libraries are imported when it builds, not before.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from serving.errors import BadInput
from serving.records import Quality, TensorSpec
from serving.steps import Dataset, Step

Metric = Literal["accuracy", "auc", "f1", "fidelity", "reproduced"]


@dataclass(frozen=True)
class Recipe:
    """How one variant comes about: ``steps``, one after another, on the file of ``needs``.

    Without ``needs`` the first step starts from the data alone.
    """

    runtime: str
    precision: str
    steps: tuple[Step, ...]
    needs: str | None = None

    @property
    def suffix(self) -> str:
        """Ending of the variant's file, which is that of the last step."""
        return self.steps[-1].suffix

    @property
    def method(self) -> str:
        """The steps in words."""
        return ", ".join(step.title for step in self.steps)


class Workload(Protocol):
    """The interface of a workload module's ``WORKLOAD``.

    ``inputs`` and ``outputs`` are the signature that all of its variants have.
    ``metric`` is the field of :class:`Quality` that the quality gate watches;
    ``rows_per_call`` is how many test rows one call of the scoring predicts, chosen so that
    the activations fit into memory.
    """

    name: str
    baseline: str
    metric: Metric
    rows_per_call: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    recipes: Mapping[str, Recipe]

    def load(self, source: str | None, seed: int) -> Dataset:
        """Read the data; BadInput says how to get it when it is absent."""
        ...

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """Score the answers to the test set."""
        ...


@runtime_checkable
class OfAnyLength(Protocol):
    """A workload whose rows may be longer or shorter: sequences of tokens."""

    length: int
    longest: int

    def of_length(self, length: int) -> Workload:
        """The same with rows of ``length``, at most ``longest``."""
        ...


def known_workloads() -> list[str]:
    """Names of all workloads that come with Tonnage."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_workload(
    name: str, length: int | None = None, said: str = "'length' under [data]"
) -> Workload:
    """The workload of that name, with rows of ``length`` where one is given.

    BadInput lists those that exist, or says that this one has no length, or a shorter one;
    ``said`` is where the length was given.
    """
    known = known_workloads()
    if name not in known:
        raise BadInput(f"unknown workload {name!r}; known are {', '.join(known)}")
    workload: Workload = importlib.import_module(f"{__name__}.{name}").WORKLOAD
    if length is None:
        return workload
    if not isinstance(workload, OfAnyLength):
        raise BadInput(f"workload {name} has no sequences; remove {said}")
    if length > workload.longest:
        raise BadInput(f"workload {name}: {said} is at most {workload.longest}")
    return workload.of_length(length)
