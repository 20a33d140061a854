"""Training image networks in PyTorch: from nothing, again after pruning, or from a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from serving.compressors.torch_models import (
    Network,
    count_parameters,
    open_network,
    reproducible,
    save_network,
)
from serving.steps import Making, Step, StepFailed

_BATCH = 128
_SHIFT = 4  # pixels by which a training picture may be moved
_FEWEST_STEPS = 10  # that the cycle can be laid over
_TEMPERATURE = 4.0
_OWN_LABELS = 0.1  # a student's share of the loss that the labels have, the teacher the rest


@dataclass(frozen=True)
class Train(Step):
    """Train ``network`` on pictures, from nothing."""

    network: Network
    epochs: int
    learning_rate: float = 0.1
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    memory_gib: ClassVar[float] = 1.0

    @property
    def title(self) -> str:
        """In words."""
        return "trained"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Stochastic gradient descent with one cycle of the learning rate."""
        with reproducible(making.seed):
            module = self.network()
            fit(module, making, self.epochs, self.learning_rate)
            save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The archive opens again as the network."""
        open_network(target, self.network)


@dataclass(frozen=True)
class FineTune(Step):
    """Train the network of a file for a little longer, so that it recovers from pruning."""

    network: Network
    epochs: int
    learning_rate: float = 0.02
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    memory_gib: ClassVar[float] = 1.0

    @property
    def title(self) -> str:
        """In words."""
        return "fine-tuned"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """As training, from where the weights are."""
        with reproducible(making.seed):
            module = open_network(source, self.network)
            fit(module, making, self.epochs, self.learning_rate)
            save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """No layer has grown or shrunk."""
        before = count_parameters(open_network(source, self.network))
        after = count_parameters(open_network(target, self.network))
        if before != after:
            raise StepFailed(f"fine-tuned: {after:,} weights, {before:,} before")


@dataclass(frozen=True)
class Distil(Step):
    """Train the smaller ``student`` to answer as the network of the source file does.

    Loss as in Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015).
    """

    student: Network
    teacher: Network
    epochs: int
    learning_rate: float = 0.1
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    memory_gib: ClassVar[float] = 1.0

    @property
    def title(self) -> str:
        """In words."""
        return "distilled"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Train from nothing, mostly on the teacher's answers."""
        with reproducible(making.seed):
            teacher = open_network(source, self.teacher)
            module = self.student()
            fit(module, making, self.epochs, self.learning_rate, teacher)
            save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The student has at most half the teacher's weights."""
        teacher = count_parameters(open_network(source, self.teacher))
        student = count_parameters(open_network(target, self.student))
        if student > teacher / 2:
            raise StepFailed(f"distilled: {student:,} weights, the teacher has {teacher:,}")


def fit(
    module: Any,
    making: Making,
    epochs: int,
    learning_rate: float,
    teacher: Any = None,
) -> None:
    """Train in place on ``making.data``, telling the loss after each epoch.

    Pictures are mirrored and moved by up to four pixels at random.
    """
    import torch
    from torch.nn import functional

    name = making.inputs[0].name
    pictures = making.data.train[name]
    labels = torch.from_numpy(making.data.train_labels)
    draw = np.random.default_rng(making.seed)
    module.train().to(memory_format=torch.channels_last)
    steps = -(-len(pictures) // _BATCH)
    optimiser = torch.optim.SGD(
        module.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=max(epochs * steps, _FEWEST_STEPS), pct_start=0.2
    )
    for epoch in range(1, epochs + 1):
        total = 0.0
        order = draw.permutation(len(pictures))
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = torch.from_numpy(
                making.data.prepare({name: _varied(pictures[chosen], draw)})[name]
            )
            batch = batch.to(memory_format=torch.channels_last)
            answers = module(batch)
            loss = functional.cross_entropy(answers, labels[chosen])
            if teacher is not None:
                with torch.no_grad():
                    wanted = teacher(batch)
                loss = _OWN_LABELS * loss + (1 - _OWN_LABELS) * _distance(answers, wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        making.progress(f"epoch {epoch} of {epochs}, loss {total / len(order):.3f}")
    module.eval().to(memory_format=torch.contiguous_format)


def _distance(answers: Any, wanted: Any) -> Any:
    from torch.nn import functional

    return _TEMPERATURE**2 * functional.kl_div(
        functional.log_softmax(answers / _TEMPERATURE, dim=1),
        functional.log_softmax(wanted / _TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def _varied(pictures: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Half of the pictures mirrored, each moved by up to four pixels, edges repeated."""
    n, _, height, width = pictures.shape
    mirrored = np.asarray(draw.random(n) < 0.5)
    varied = np.where(mirrored.reshape(-1, 1, 1, 1), pictures[:, :, :, ::-1], pictures)
    padded = np.pad(varied, ((0, 0), (0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT)), mode="edge")
    down, right = draw.integers(0, 2 * _SHIFT + 1, (2, n))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    moved: np.ndarray = windows[np.arange(n), :, down, right]
    return moved
