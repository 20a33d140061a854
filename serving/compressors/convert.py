"""scikit-learn to ONNX, for estimators of every kind that skl2onnx knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from serving.runtimes import open_model
from serving.runtimes.sklearn_runtime import load_skops
from serving.steps import Making, Step, StepFailed


@dataclass(frozen=True)
class ConvertEstimator(Step):
    """An estimator whose ONNX form answers under the names that the original answers under."""

    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "skl2onnx", "scikit-learn", "skops")

    @property
    def title(self) -> str:
        """In words."""
        return "converted to ONNX"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Convert; of a classifier the probabilities alone."""
        import onnx
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
        from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

        model = load_skops(source)
        classifies = hasattr(model, "predict_proba")
        converted = to_onnx(
            model,
            initial_types=[("features", FloatTensorType([None, model.n_features_in_]))],
            options={id(model): {"zipmap": False}} if classifies else None,
            target_opset=17,
        )
        made = converted.graph.output[-1].name  # a classifier's first is the label
        graph = select_model_inputs_outputs(converted, outputs=[made])
        _rename(graph.graph, made, "probabilities" if classifies else "predictions")
        onnx.save(graph, target)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """It answers under the original's names."""
        before = {spec.name for spec in open_model("sklearn", source, 1).outputs}
        after = {spec.name for spec in open_model("onnxruntime", target, 1).outputs}
        if before != after:
            raise StepFailed(f"converted to ONNX: answers {after}, not {before}")


def _rename(graph: Any, before: str, after: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == before:
                    names[index] = after
    for output in graph.output:
        if output.name == before:
            output.name = after
