"""Steps: what makes one model file from another, and checks that it did what it claims."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from serving.errors import Infrastructure
from serving.records import TensorSpec


class StepFailed(Infrastructure):
    """A step finished, and its file is not what the step claims to make."""


@dataclass(frozen=True)
class Dataset:
    """Train and test split.

    ``test`` is what a model is sent: input name to an array [rows, ...]. ``train`` may hold its
    rows in a smaller form, pictures as bytes for example, which ``prepare`` makes into what a
    model is sent. ``fingerprint`` identifies the content of all arrays, as they are sent.
    Rows that are ``generated`` have no labels: answers to them are compared with the
    baseline's. Without ``batched`` a call takes one row, whose tensors are passed as they are.
    """

    train: Mapping[str, np.ndarray]
    train_labels: np.ndarray
    test: Mapping[str, np.ndarray]
    test_labels: np.ndarray
    description: str
    fingerprint: str
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = lambda rows: rows
    generated: bool = False
    batched: bool = True

    def training_rows(self, chosen: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Some rows of the training split, as a model is sent them."""
        rows = self.prepare({name: values[chosen] for name, values in self.train.items()})
        return {name: np.ascontiguousarray(values) for name, values in rows.items()}


@dataclass(frozen=True)
class Making:
    """What a step may use: data, seed, signature, a scratch folder, a line for its progress."""

    data: Dataset
    seed: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scratch: Path
    progress: Callable[[str], None] = field(default=lambda line: None)


class Step(ABC):
    """One way to make a model file. Subclasses are frozen dataclasses of its parameters.

    Parameters are plain values, or classes and functions of a module; both enter the cache
    key, with the source of their modules and the versions of ``libraries``. Those that only say
    where something lies are named in ``not_in_key``: what lies there must be known by another.
    """

    suffix: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()
    not_in_key: ClassVar[frozenset[str]] = frozenset()
    memory_gib: ClassVar[float] = 0.2
    memory_factor: ClassVar[float] = 6.5
    """How much memory it needs beside the data: so much, and so many times the size of the file
    that it starts from. Refused beforehand when there is less. A step that says nothing else is
    taken for one of those that read a file and write another:

    Measured once each on files of 100 MB, as the peak of resident memory over that before: int8
    dynamic 3.4, and 6.0 of a file that is one large table; weights clustered 2.5, and 6.1 of
    such a file; graph optimised 4.3; OpenVINO 3.7, its int8 2.8; int8 static 4.3, mixed 5.4;
    int8 of torch 4.5; exported to ONNX 5.2; constants as weights 3.6.
    """

    @property
    @abstractmethod
    def title(self) -> str:
        """The step in a few words, for tables: ``int8 dynamic``."""

    def needed_gib(self, source: Path) -> float:
        """Memory in GiB for making a file of ``source``, which is what :meth:`apply` is given."""
        size = source.stat().st_size if source.is_file() else 0
        return self.memory_gib + self.memory_factor * size / 2**30

    @abstractmethod
    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Write ``target`` (and parts beside it that share its stem) from ``source``.

        The first step of a recipe that needs no other variant is given an empty folder.
        """

    @abstractmethod
    def check(self, source: Path, target: Path, making: Making) -> None:
        """Raise StepFailed unless ``target`` is what the step claims to make."""


def parameters(step: Step) -> dict[str, Any]:
    """The step's parameters that enter the key, by name; callables as ``module:name``."""
    return {
        name: _plain(value) for name, value in vars(step).items() if name not in step.not_in_key
    }


def _plain(value: Any) -> Any:
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
