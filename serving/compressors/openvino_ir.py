"""OpenVINO's own model format, from ONNX: in float32, in float16, or quantized to int8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree

import numpy as np

from serving.compressors import checks
from serving.compressors.onnx_int8 import calibration_batches
from serving.compressors.quiet import quiet
from serving.steps import Making, Step, StepFailed

# Of half precision, ten bits after the point; activations here stay below a hundred.
_TOLERANCE = {"fp32": 1e-3, "fp16": 0.1}


_WORTH_HALVING = 300  # numbers


@dataclass(frozen=True)
class OpenVinoIr(Step):
    """Convert to an ``.xml`` and a ``.bin``. fp16 is how weights are stored, not computed with."""

    precision: Literal["fp32", "fp16"] = "fp32"
    suffix: ClassVar[str] = ".xml"
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)

    @property
    def title(self) -> str:
        """In words."""
        return f"OpenVINO, {self.precision}"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Convert and save."""
        import openvino

        model = openvino.convert_model(str(source))
        if self.precision == "fp16":
            _halve(model)
        _save(model, target)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The same answers; in fp16 also a much smaller file."""
        checks.answers_agree(
            ("onnxruntime", source), ("openvino", target), making, _TOLERANCE[self.precision]
        )
        if self.precision == "fp16":
            checks.is_smaller(source, target, self.title, at_most=0.7)


@dataclass(frozen=True)
class OpenVinoInt8(Step):
    """Quantize weights and activations with NNCF, on rows of the training split.

    ``transformer`` says that the network has attention, which needs a treatment of its own.
    """

    calibration_rows: int = 512
    transformer: bool = False
    suffix: ClassVar[str] = ".xml"
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    memory_gib: ClassVar[float] = 1.0

    @property
    def title(self) -> str:
        """In words."""
        return "OpenVINO, int8"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Calibrate and quantize the converted graph."""
        with quiet():
            import nncf
            import openvino

            batches = list(calibration_batches(making, self.calibration_rows))
            quantized = nncf.quantize(
                openvino.convert_model(str(source)),
                nncf.Dataset(batches),
                subset_size=len(batches),
                model_type=nncf.ModelType.TRANSFORMER if self.transformer else None,
            )
        _save(quantized, target)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Some constants are stored in eight bits, and the file is smaller."""
        import openvino

        model = openvino.Core().read_model(str(target))
        kinds = {
            node.get_output_element_type(0).get_type_name()
            for node in model.get_ops()
            if node.get_type_name() == "Constant"
        }
        if not kinds & {"i8", "u8"}:
            raise StepFailed(f"{self.title}: no weight is stored in eight bits")
        checks.is_smaller(source, target, self.title, at_most=0.7)


def _halve(model: Any) -> None:
    """Store weights in float16, to be widened again when the model is loaded.

    ``save_model`` can do it too, but for every constant: one of a few numbers costs more bytes
    in the .xml, as a conversion, than it saves.
    """
    import openvino
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        values = node.get_data()
        if values.size >= _WORTH_HALVING:
            users = list(node.output(0).get_target_inputs())
            widened = opset13.convert(opset13.constant(values.astype(np.float16)), "f32")
            for user in users:
                user.replace_source_output(widened.output(0))


def _save(model: Any, target: Path) -> None:
    """Write .xml and .bin, without what only a reader of the .xml would miss.

    Names of inner tensors and indentation are a tenth of all bytes of a small network.
    ``save_model`` stores every weight in float16 unless it is told not to.
    """
    import openvino

    outer = {port.get_node() for port in (*model.inputs, *model.outputs)}
    outer |= {port.get_node().input_value(0).get_node() for port in model.outputs}
    names = {node.get_friendly_name() for node in outer}
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() not in names:
            node.set_friendly_name(str(number))
            for port in node.outputs():
                port.get_tensor().set_names(set())
    openvino.save_model(model, str(target), compress_to_fp16=False)
    tree = ElementTree.parse(target)  # noqa: S314 # written a moment ago
    for element in tree.iter():
        element.text = (element.text or "").strip() or None
        element.tail = None
    tree.write(target, encoding="utf-8", xml_declaration=True)
