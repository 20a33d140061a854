"""PyTorch to ONNX, for any batch size, with the answers compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from serving.compressors import checks
from serving.compressors.quiet import quiet
from serving.compressors.torch_models import Network, example, open_network
from serving.steps import Making, Step

# Float arithmetic in another order; measured differences are a tenth of this.
_TOLERANCE = 1e-3
# Names of free dimensions, which are of one size in all inputs.
_AXES = ("batch", "sequence")


@dataclass(frozen=True)
class ExportOnnx(Step):
    """Export the network of a TorchScript archive; what its signature leaves free stays free."""

    network: Network
    opset: int = 20
    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")
    memory_gib: ClassVar[float] = 0.5
    memory_factor: ClassVar[float] = 5.0  # the module, the program, and the file twice

    @property
    def title(self) -> str:
        """In words."""
        return "exported to ONNX"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Export, which also folds batch normalisation into the convolutions."""
        export_network(open_network(source, self.network), target, making, self.opset)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Same answers as before the export, at several batch sizes."""
        checks.answers_agree(("torch", source), ("onnxruntime", target), making, _TOLERANCE)


def export_network(module: Any, target: Path, making: Making, opset: int = 20) -> None:
    """Write a module of the workload's signature as ONNX; its free axes stay free."""
    import torch

    free = [torch.export.Dim(name) for name in _AXES]
    with quiet():
        program = torch.onnx.export(
            module,
            example(making.inputs, 2),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=[spec.name for spec in making.inputs],
            output_names=[spec.name for spec in making.outputs],
            dynamic_shapes=tuple(
                {axis: free[axis] for axis, size in enumerate(spec.shape) if size < 0}
                for spec in making.inputs
            ),
        )
        program.save(str(making.scratch / target.name))
    _without_notes(making.scratch / target.name, target)


def _without_notes(source: Path, target: Path) -> None:
    """Leave out what the exporter notes for debugging: call stacks, paths, inner shapes.

    The inner shapes of weights would contradict the graph once a quantizer transposes them.
    """
    import onnx

    model = onnx.load(source)
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.value_info[:]
    onnx.save(model, target)
