"""Training text classifiers: a head on a frozen encoder, all of it, or a student with fewer layers.

Rows are tokens, as :func:`serving.datasets.minilm.tokens_of` makes them. While training they are
sorted by length and cut where only padding is left, which changes no answer and saves a third
of the time.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
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
from serving.datasets.minilm import WEIGHTS, model_file
from serving.model_store import store_folder
from serving.steps import Making, Step, StepFailed

_BATCH = 32
_POOL = 20 * _BATCH  # rows that are sorted by length together
_THREADS = len(os.sched_getaffinity(0))
_TEMPERATURE = 2.0
_OWN_LABELS = 0.3  # a student's share of the loss that the labels have, the teacher the rest


@dataclass(frozen=True)
class TrainHead(Step):
    """Give ``network`` the published encoder, and fit its head; the encoder stays as it is.

    Logistic regression on the pooled states. These are computed once and kept in the store.
    """

    network: Network
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "scikit-learn")
    memory_gib: ClassVar[float] = 1.0

    @property
    def title(self) -> str:
        """In words."""
        return "head trained on a frozen encoder"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Embed the training texts, fit, and put what was fitted into the head."""
        import torch
        from sklearn.linear_model import LogisticRegression

        from serving.compressors.bert_network import load_encoder

        module = self.network().eval()
        load_encoder(module, model_file(WEIGHTS))
        with reproducible(making.seed, threads=_THREADS):
            states = _kept_states(module, making)
        fitted = LogisticRegression(max_iter=2000).fit(states, making.data.train_labels)
        with torch.no_grad():
            module.head.weight.copy_(torch.from_numpy(fitted.coef_))
            module.head.bias.copy_(torch.from_numpy(fitted.intercept_))
        save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The encoder in the file is the published one, to the last bit."""
        import torch

        from serving.compressors.bert_network import load_encoder

        wanted = self.network()
        load_encoder(wanted, model_file(WEIGHTS))
        found = open_network(target, self.network).state_dict()
        for name, value in wanted.state_dict().items():
            if not name.startswith("head.") and not torch.equal(value, found[name]):
                raise StepFailed(f"{self.title}: {name} has changed")


@dataclass(frozen=True)
class FineTuneText(Step):
    """Train the encoder and the head of a file together."""

    network: Network
    epochs: int
    learning_rate: float = 1e-4
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    memory_gib: ClassVar[float] = 2.0

    @property
    def title(self) -> str:
        """In words."""
        return "fine-tuned"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """From where the head was fitted, so that the encoder is not torn by a random one."""
        with reproducible(making.seed, threads=_THREADS):
            module = open_network(source, self.network)
            fit_texts(module, making, self.epochs, self.learning_rate)
            save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The encoder is another one now."""
        import torch

        before, after = (open_network(p, self.network).state_dict() for p in (source, target))
        if torch.equal(before["layers.0.query.weight"], after["layers.0.query.weight"]):
            raise StepFailed(f"{self.title}: the encoder has not changed")


@dataclass(frozen=True)
class DistilText(Step):
    """Train ``student``, made of some ``layers`` of the teacher, to answer as the teacher does.

    Every second layer as in Sanh and others, "DistilBERT" (2019); loss as in Hinton, Vinyals
    and Dean, "Distilling the Knowledge in a Neural Network" (2015).
    """

    student: Network
    teacher: Network
    layers: tuple[int, ...]
    epochs: int
    learning_rate: float = 2e-4
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    memory_gib: ClassVar[float] = 2.0

    @property
    def title(self) -> str:
        """In words."""
        return f"distilled to {len(self.layers)} layers"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Start from the teacher's layers, train mostly on its answers."""
        import torch

        with reproducible(making.seed, threads=_THREADS):
            teacher = open_network(source, self.teacher)
            module = self.student()
            module.load_state_dict(_some_layers(teacher.state_dict(), self.layers))
            wanted = torch.from_numpy(_answers(teacher, making))
            fit_texts(module, making, self.epochs, self.learning_rate, wanted)
            save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The student has at most half of the teacher's layers."""
        teacher = open_network(source, self.teacher)
        student = open_network(target, self.student)
        if 2 * len(student.layers) > len(teacher.layers):
            raise StepFailed(f"{self.title}: the teacher has {len(teacher.layers)}")
        if count_parameters(student) >= count_parameters(teacher):
            raise StepFailed(f"{self.title}: it has as many weights as the teacher")


def _some_layers(state: Mapping[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """The weights of these layers only, numbered anew, and of all that is no layer."""
    kept = {name: value for name, value in state.items() if not name.startswith("layers.")}
    for number, layer in enumerate(layers):
        for name, value in state.items():
            if name.startswith(f"layers.{layer}."):
                kept[name.replace(f".{layer}.", f".{number}.", 1)] = value
    return kept


def fit_texts(
    module: Any, making: Making, epochs: int, learning_rate: float, wanted: Any = None
) -> None:
    """Train in place with AdamW, the rate rising for a tenth of the time and then falling to 0.

    ``wanted`` are a teacher's logits, [rows, classes]. Seeded, yet not the same to the last bit
    on machines with other numbers of cores.
    """
    import torch
    from torch.nn import functional

    labels = torch.from_numpy(making.data.train_labels)
    draw = np.random.default_rng(making.seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate)
    total = epochs * -(-len(labels) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=total, pct_start=0.1, anneal_strategy="linear"
    )
    module.train()
    for epoch in range(1, epochs + 1):
        lost, seen = 0.0, 0
        batches = _batches(_lengths(making), draw)
        for number, chosen in enumerate(batches, 1):
            answers = module(*_cut(making, chosen))
            loss = functional.cross_entropy(answers, labels[chosen])
            if wanted is not None:
                loss = _OWN_LABELS * loss + (1 - _OWN_LABELS) * _distance(answers, wanted[chosen])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            lost += float(loss.detach()) * len(chosen)
            seen += len(chosen)
            if number % 20 == 0 or number == len(batches):
                done = f"epoch {epoch} of {epochs}, {number / len(batches):.0%}"
                making.progress(f"{done}, loss {lost / seen:.3f}")
    module.eval()


def _distance(answers: Any, wanted: Any) -> Any:
    from torch.nn import functional

    return _TEMPERATURE**2 * functional.kl_div(
        functional.log_softmax(answers / _TEMPERATURE, dim=1),
        functional.log_softmax(wanted / _TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def _lengths(making: Making) -> np.ndarray:
    """Tokens of each training text, [rows]."""
    lengths: np.ndarray = making.data.train["attention_mask"].sum(axis=1)
    return lengths


def _batches(lengths: np.ndarray, draw: np.random.Generator) -> list[np.ndarray]:
    """Rows in random order, so that those of a batch are about as long as one another."""
    order = draw.permutation(len(lengths))
    pools = [order[start : start + _POOL] for start in range(0, len(order), _POOL)]
    by_length = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    batches = [
        pool[start : start + _BATCH] for pool in by_length for start in range(0, len(pool), _BATCH)
    ]
    return [batches[i] for i in draw.permutation(len(batches))]


def _cut(making: Making, chosen: np.ndarray) -> Sequence[Any]:
    """The inputs of some training rows, without the columns that are padding in all of them."""
    import torch

    longest = int(_lengths(making)[chosen].max())
    rows = making.data.training_rows(chosen)
    return [torch.from_numpy(rows[spec.name][:, :longest]) for spec in making.inputs]


def _answers(ask: Callable[..., Any], making: Making) -> np.ndarray:
    """What ``ask`` makes of the inputs of every training row, in the order of the rows."""
    import torch

    order = np.argsort(_lengths(making), kind="stable")
    parts = []
    with torch.no_grad():
        for start in range(0, len(order), _BATCH):
            parts.append(ask(*_cut(making, order[start : start + _BATCH])).numpy())
            if start % (10 * _BATCH) == 0:
                making.progress(f"{start:,} of {len(order):,} texts read")
    made: np.ndarray = np.concatenate(parts)[np.argsort(order, kind="stable")]
    return made


def _kept_states(module: Any, making: Making) -> np.ndarray:
    """Pooled states of the training texts, [rows, hidden], from the store if they are there."""
    made_from = (making.data.fingerprint, inspect.getsource(sys.modules[type(module).__module__]))
    key = hashlib.sha256(repr(made_from).encode()).hexdigest()[:12]
    kept = store_folder() / "datasets" / f"states-{key}.npy"
    try:
        stored: np.ndarray = np.load(kept, allow_pickle=False)
        return stored
    except (OSError, ValueError, EOFError):
        states = _answers(module.pooled, making)
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_name(f".{os.getpid()}-{kept.name}")
    try:
        np.save(draft, states)
        os.replace(draft, kept)
    finally:
        draft.unlink(missing_ok=True)
    return states
