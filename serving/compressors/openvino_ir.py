"""OpenVINO's own model format, from ONNX: in float32, in float16, or quantized to int8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from serving.compressors import checks
from serving.compressors.onnx_int8 import calibration_batches
from serving.compressors.quiet import quiet
from serving.steps import Making, Step, StepFailed

# Of half precision, ten bits after the point; activations here stay below a hundred.
_TOLERANCE = {"fp32": 1e-3, "fp16": 0.1}


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
        """Convert and save; ``save_model`` halves the weights unless it is told not to."""
        import openvino

        model = openvino.convert_model(str(source))
        openvino.save_model(model, str(target), compress_to_fp16=self.precision == "fp16")

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The same answers; in fp16 also a much smaller file."""
        checks.answers_agree(
            ("onnxruntime", source), ("openvino", target), making, _TOLERANCE[self.precision]
        )
        if self.precision == "fp16":
            checks.is_smaller(source, target, self.title, at_most=0.7)


@dataclass(frozen=True)
class OpenVinoInt8(Step):
    """Quantize weights and activations with NNCF, on rows of the training split."""

    calibration_rows: int = 512
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
            )
            openvino.save_model(quantized, str(target), compress_to_fp16=False)

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
