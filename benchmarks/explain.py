"""Why a runtime is faster or slower than another: measured, a table and its sentences each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.explain_cifar import (
    from_the_reports_figure_to_ours,
    what_makes_onnx_faster,
    what_pruning_gains_in_onnx_runtime,
)
from benchmarks.explain_int8 import which_layers_int8_hurts
from benchmarks.explain_lenet import why_the_report_found_them_slower
from benchmarks.explain_onnx_int8 import KINDS, where_the_memory_goes, where_the_time_goes
from benchmarks.explain_process import Answer
from benchmarks.explain_text import how_long_the_default_build_takes, what_a_token_costs
from serving.records import Variant


@dataclass(frozen=True)
class Explanation:
    """A question that is answered by measuring, and the variants that this takes.

    An answer has ``question``, ``answer``, ``header`` and ``rows``; where it explains an aim that
    may be missed, ``missed`` has the sentence to put beside the aim, by the aim's figure.
    """

    answer: Callable[[Mapping[str, Variant]], Answer]
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What its figures are kept under."""
        return self.answer.__name__

    def measure(self, variants: Mapping[str, Variant]) -> Answer:
        """The answer, from those variants alone that it says it needs."""
        return self.answer({name: variants[name] for name in self.needs})


EXPLANATIONS: dict[str, tuple[Explanation, ...]] = {
    "cifar_cnn": (
        Explanation(what_makes_onnx_faster, ("torch", "onnx")),
        Explanation(from_the_reports_figure_to_ours, ("torch", "onnx")),
        Explanation(what_pruning_gains_in_onnx_runtime),
    ),
    "lenet": (Explanation(why_the_report_found_them_slower, ("torch", "onnx", "openvino")),),
    "efficientvit": (
        Explanation(where_the_time_goes, KINDS),
        Explanation(where_the_memory_goes, KINDS),
    ),
    "efficientnet_lite0": (
        Explanation(
            which_layers_int8_hurts,
            ("onnx", "onnx_int8_naive", "onnx_int8_static", "onnx_int8_mixed"),
        ),
    ),
    "bert": (
        Explanation(what_a_token_costs, ("torch", "onnx", "onnx_int8", "onnx_student_int8")),
        Explanation(how_long_the_default_build_takes),
    ),
}
