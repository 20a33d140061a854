"""onnxruntime's graph optimisation, done once and saved instead of at every start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from serving.compressors import checks
from serving.steps import Making, Step, StepFailed

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class OptimiseGraph(Step):
    """Fuse and fold what onnxruntime can, except for layouts that fit one kind of CPU only."""

    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    @property
    def title(self) -> str:
        """In words."""
        return "graph optimised"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Let a session write the graph that it would run."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Fewer nodes, and the same answers."""
        import onnx

        before, after = (len(onnx.load(path).graph.node) for path in (source, target))
        if after >= before:
            raise StepFailed(f"{self.title}: {after} nodes, {before} before")
        checks.answers_agree(("onnxruntime", source), ("onnxruntime", target), making, _TOLERANCE)
