"""What each workload's variants are to reach, and how it is read from the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from serving.records import BenchRow, Variant


class Figures:
    """Records of a workload's variants, asked for by name."""

    def __init__(
        self, variants: Sequence[Variant], repeats: Sequence[Sequence[BenchRow]], seed: int
    ) -> None:
        self._variants = {v.name: v for v in variants}
        self._repeats = repeats
        self.seed = seed

    def score(self, name: str, metric: str) -> list[float]:
        """A measure of quality on the test set."""
        return [float(getattr(self._variants[name].quality, metric))]

    def lost(self, name: str, against: str, metric: str) -> list[float]:
        """How much of a measure a variant lost."""
        return [self.score(against, metric)[0] - self.score(name, metric)[0]]

    def smaller(self, name: str, against: str) -> list[float]:
        """How many times smaller the files are."""
        return [self._variants[against].size_bytes / self._variants[name].size_bytes]

    def faster(self, name: str, against: str, batch: int) -> list[float]:
        """How many times faster a call is, one ratio a repeat."""
        return [
            _row(rows, against, batch).p50_ms / _row(rows, name, batch).p50_ms
            for rows in self._repeats
        ]

    def memory(self, name: str, against: str, batch: int) -> list[float]:
        """Peak memory of a process up to a batch size as a share of another's, one a repeat."""
        return [
            _row(rows, name, batch).peak_rss_bytes / _row(rows, against, batch).peak_rss_bytes
            for rows in self._repeats
        ]

    def size(self, name: str) -> int:
        """Bytes of a variant's files."""
        return self._variants[name].size_bytes


def _row(rows: Sequence[BenchRow], variant: str, batch: int) -> BenchRow:
    return next(r for r in rows if (r.variant, r.batch, r.device) == (variant, batch, "cpu"))


@dataclass(frozen=True)
class Aim:
    """A figure, the range it is to be in, and how it is measured."""

    figure: str
    measure: Callable[[Figures], list[float]]
    at_least: float = -inf
    at_most: float = inf

    @property
    def bounded(self) -> bool:
        """Whether there is a range to be in; else the figure is only shown."""
        return self.at_least > -inf or self.at_most < inf

    @property
    def words(self) -> str:
        """The range in words."""
        if self.at_least > -inf:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}" if self.at_most < inf else "shown"


def _faster(name: str, against: str, batch: int, at_least: float = -inf) -> Aim:
    return Aim(
        f"{name} over {against}, batch {batch:,}",
        lambda f: f.faster(name, against, batch),
        at_least=at_least,
    )


def _smaller(name: str, against: str, at_least: float = -inf) -> Aim:
    return Aim(
        f"{name}: times smaller than {against}",
        lambda f: f.smaller(name, against),
        at_least=at_least,
    )


def _memory(name: str, against: str, batch: int, at_most: float = inf) -> Aim:
    return Aim(
        f"{name}: peak RAM at batch {batch} as a share of {against}",
        lambda f: f.memory(name, against, batch),
        at_most=at_most,
    )


def _lost(name: str, against: str, metric: str, at_most: float) -> Aim:
    return Aim(
        f"{name}: {metric} lost against {against}",
        lambda f: f.lost(name, against, metric),
        at_most=at_most,
    )


# Bytes of the linear weights of cifar_cnn in float32; the rest of torch's file stays as it is.
_LINEAR = 4 * (1024 * 256 + 256 * 10)


def _linear_shrinks(figures: Figures) -> list[float]:
    saved = figures.size("torch") - figures.size("torch_int8")
    return [_LINEAR / (_LINEAR - saved)]


def _share_lost(figures: Figures, name: str) -> list[float]:
    """Of the baseline's F1, as the seed report gives it."""
    return [figures.lost(name, "torch", "f1")[0] / figures.score("torch", "f1")[0]]


AIMS: dict[str, tuple[Aim, ...]] = {
    "cifar_cnn": (
        Aim("torch: accuracy", lambda f: f.score("torch", "accuracy"), at_least=0.65),
        _faster("onnx", "torch", 1, at_least=5),
        _faster("onnx", "torch", 256),
        Aim("torch_int8: times smaller, of what is linear", _linear_shrinks, at_least=3.5),
        _smaller("torch_pruned", "torch", at_least=1.3),
        _faster("torch_pruned", "torch", 1, at_least=1.3),
        _faster("torch_pruned", "torch", 32, at_least=1.3),
        _faster("onnx_pruned", "onnx", 1),
        _faster("onnx_pruned", "onnx", 32),
        _faster("onnx_pruned_half", "onnx", 1),
        _faster("onnx_pruned_half", "onnx", 32),
        _lost("torch_pruned", "torch", "accuracy", at_most=0.02),
        _faster("onnx_int8_dynamic", "onnx", 1),
        _faster("onnx_int8_dynamic_all", "onnx", 1),
        _smaller("onnx_int8_static", "onnx", at_least=3.5),
        _lost("onnx_int8_static", "torch", "accuracy", at_most=0.02),
        _smaller("onnx_clustered", "onnx", at_least=4),
        _smaller("onnx_student", "onnx", at_least=2),
        _smaller("onnx_pruned_int8", "torch", at_least=3.6),
    ),
    "lenet": (
        _faster("onnx", "torch", 1, at_least=1),
        _faster("openvino", "torch", 1, at_least=1),
        Aim("onnx: equal decisions", lambda f: f.score("onnx", "fidelity"), at_least=0.999),
        Aim("openvino: equal decisions", lambda f: f.score("openvino", "fidelity"), at_least=0.999),
        Aim(
            "openvino_fp16: equal decisions",
            lambda f: f.score("openvino_fp16", "fidelity"),
            at_least=0.999,
        ),
        Aim(
            "openvino_fp16: size of the ONNX file",
            lambda f: [f.size("openvino_fp16") / f.size("onnx")],
            at_most=0.55,
        ),
        Aim("torch: accuracy", lambda f: f.score("torch", "accuracy"), at_least=0.58),
    ),
    "efficientvit": (
        Aim("torch: million weights' bytes", lambda f: [f.size("torch") / 1e6], at_least=190),
        _smaller("onnx_int8_static", "onnx", at_least=3.8),
        _memory("onnx_int8_static", "onnx", 1, at_most=0.5),
        _memory("onnx_int8_static", "onnx", 8),
        _faster("onnx_int8_static", "onnx", 1, at_least=1),
        _faster("onnx_int8_static", "onnx", 8),
        _faster("onnx", "torch", 1),
        Aim("onnx: equal decisions", lambda f: f.score("onnx", "fidelity"), at_least=0.99),
        Aim("onnx_int8_static: equal decisions", lambda f: f.score("onnx_int8_static", "fidelity")),
        Aim("openvino_int8: equal decisions", lambda f: f.score("openvino_int8", "fidelity")),
    ),
    "efficientnet_lite0": (
        Aim("torch: accuracy", lambda f: f.score("torch", "accuracy")),
        Aim("onnx_int8_naive: share of F1 lost", lambda f: _share_lost(f, "onnx_int8_naive")),
        _lost("onnx_int8_static", "torch", "accuracy", at_most=inf),
        _lost("onnx_int8_mixed", "torch", "accuracy", at_most=0.02),
        _smaller("onnx_int8_mixed", "onnx", at_least=3),
        _faster("onnx_int8_mixed", "onnx", 1),
        _faster("onnx_int8_mixed", "onnx", 16),
        _faster("onnx_int8_static", "onnx", 1),
        _memory("onnx_int8_mixed", "onnx", 1),
        _memory("onnx_int8_mixed", "onnx", 16),
    ),
    "bert": (
        Aim("torch: weighted F1", lambda f: f.score("torch", "f1"), at_least=0.94),
        _smaller("torch_int8", "torch", at_least=2),
        _lost("torch_int8", "torch", "f1", at_most=0.01),
        _smaller("onnx_int8", "onnx", at_least=2),
        _lost("onnx_int8", "torch", "f1", at_most=0.01),
        Aim("torch_student: weighted F1", lambda f: f.score("torch_student", "f1"), at_least=0.93),
        _smaller("torch_student", "torch"),
        _smaller("onnx_student_int8", "torch"),
        _smaller("onnx_clustered", "onnx", at_least=4),
        _lost("onnx_clustered", "torch", "f1", at_most=0.02),
        _faster("onnx", "torch", 1, at_least=1),
        _faster("onnx", "torch", 8),
        _faster("onnx_int8", "onnx", 1),
        _faster("onnx_int8", "onnx", 8),
        _faster("onnx_student_int8", "torch", 1),
        _faster("openvino", "torch", 1),
        _faster("openvino_int8", "openvino", 1),
        _smaller("openvino_fp16", "openvino", at_least=1.8),
        _lost("openvino_int8", "torch", "f1", at_most=0.01),
    ),
    "bert_base": (
        _smaller("torch_int8", "torch", at_least=2),
        _smaller("onnx_int8", "onnx", at_least=2),
        _smaller("torch_half", "torch"),
        _smaller("onnx_clustered", "onnx", at_least=4),
        _faster("onnx", "torch", 1, at_least=1),
        _faster("onnx_int8", "onnx", 1),
        _faster("onnx_half", "onnx", 1),
        _faster("openvino", "torch", 1),
        _faster("openvino_int8", "openvino", 1),
        *(
            Aim(f"{name}: fidelity", lambda f, name=name: f.score(name, "fidelity"))
            for name in ("torch_int8", "onnx_int8", "onnx_clustered", "openvino_int8")
        ),
    ),
}

# With --fine-tune: variants that no study builds unless it is asked for them, and their aims.
TUNED: dict[str, tuple[str, ...]] = {"bert": ("torch_tuned", "onnx_tuned", "onnx_tuned_int8")}
TUNED_AIMS: dict[str, tuple[Aim, ...]] = {
    "bert": (
        Aim("torch_tuned: weighted F1", lambda f: f.score("torch_tuned", "f1"), at_least=0.96),
        _lost("onnx_tuned_int8", "torch_tuned", "f1", at_most=0.01),
    ),
}
