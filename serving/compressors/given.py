"""Steps that take a model as a user gives it into the store, in a form that can be served."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from serving.errors import BadInput
from serving.onnx_file import content_bytes, content_sha256, read_graph, uses_external_data
from serving.records import sha256_of
from serving.runtimes import Runtime, open_model
from serving.steps import Making, Step, StepFailed


@dataclass(frozen=True)
class AsGiven(Step):
    """The file itself. Its hash is a parameter, so that another file is another variant.

    Its path is not in the key: a file that was moved is the same variant, and so is what code
    made again in another temporary folder.
    """

    path: str
    sha256: str
    not_in_key: ClassVar[frozenset[str]] = frozenset({"path"})
    # Measured on 100 MB: ONNX 2.0, with its weights beside it 3.2, an exported program 2.3.
    memory_factor: ClassVar[float] = 3.5

    def needed_gib(self, source: Path) -> float:
        """By the file that is given: a first step has no other source."""
        return super().needed_gib(Path(self.path))

    @property
    def title(self) -> str:
        """In words."""
        return "as given"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Copy it."""
        shutil.copyfile(self.path, target)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """It is the file that was looked at."""
        if sha256_of(target) != self.sha256:
            raise BadInput(f"{self.path}: changed while it was read; try again")


@dataclass(frozen=True)
class GivenOnnx(AsGiven):
    """An ONNX file; weights that lie beside it are taken inside.

    ``sha256`` is that of :func:`serving.onnx_file.content_sha256`.
    """

    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnx",)

    def needed_gib(self, source: Path) -> float:
        """By the file and the weights beside it."""
        path = Path(self.path)
        size = content_bytes(path, read_graph(path))
        return self.memory_gib + self.memory_factor * size / 2**30

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Copy it, or write it anew with its weights inside."""
        import onnx

        if not uses_external_data(read_graph(Path(self.path))):
            super().apply(source, target, making)
            return
        model = onnx.load(self.path)
        try:
            onnx.save(model, target)
        except ValueError:  # protobuf's limit
            raise BadInput(f"{self.path}: with its weights above 2 GiB; not supported") from None

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The file that was looked at is the same, and what was written loads."""
        path = Path(self.path)
        if content_sha256(path, read_graph(path)) != self.sha256:
            raise BadInput(f"{self.path}: changed while it was read; try again")
        open_model("onnxruntime", target, 1)


@dataclass(frozen=True)
class ConstantsAsWeights(Step):
    """Some exporters write weights as Constant nodes, where no quantizer looks for them."""

    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnx",)

    @property
    def title(self) -> str:
        """In words."""
        return "constants as weights"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Turn every Constant that holds a tensor into an initializer of its name."""
        import onnx

        model = onnx.load(source)
        for node in [n for n in model.graph.node if n.op_type == "Constant"]:
            values = next((a.t for a in node.attribute if a.name == "value"), None)
            if values is not None:
                model.graph.initializer.add().CopyFrom(values)
                model.graph.initializer[-1].name = node.output[0]
                model.graph.node.remove(node)
        onnx.save(model, target)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """It still loads, with the same inputs and outputs."""
        before, after = (open_model("onnxruntime", path, 1) for path in (source, target))
        if (before.inputs, before.outputs) != (after.inputs, after.outputs):
            raise StepFailed(f"{self.title}: inputs or outputs changed")


@dataclass(frozen=True)
class GivenSkops(AsGiven):
    """A scikit-learn estimator that skops stored."""

    suffix: ClassVar[str] = ".skops"
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn", "skops")


@dataclass(frozen=True)
class GivenPickle(AsGiven):
    """A scikit-learn estimator in a pickle that the user vouches for, by its hash.

    It is unpickled once, here, and stored with skops: no replica ever unpickles.
    """

    suffix: ClassVar[str] = ".skops"
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn", "skops", "joblib")

    @property
    def title(self) -> str:
        """In words."""
        return "pickle, stored with skops"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Unpickle once, store."""
        self.store(target)

    def store(self, target: Path) -> None:
        """Check the hash, unpickle, and store with skops."""
        import skops.io

        if sha256_of(Path(self.path)) != self.sha256:
            raise BadInput(f"{self.path}: is not the file of --allow-pickle-sha256; refused")
        try:
            skops.io.dump(_unpickled(Path(self.path)), target)
        except Exception as error:  # whatever unpickling runs into
            raise BadInput(f"{self.path}: cannot be unpickled ({error!r})") from None

    def check(self, source: Path, target: Path, making: Making) -> None:
        """What was stored can be served."""
        open_model("sklearn", target, 1)

    def opened(self) -> Runtime:
        """The estimator, by way of skops, as it will be served."""
        with tempfile.TemporaryDirectory(prefix="tonnage-pickle-") as folder:
            stored = Path(folder) / "model.skops"
            self.store(stored)
            return open_model("sklearn", stored, 1)


def _unpickled(path: Path) -> Any:
    import joblib

    return joblib.load(path)  # which reads plain pickles as well
