"""PyTorch models as users give them: exported programs, TorchScript, and code that makes one.

Whatever is given is stored anew with its signature inside, in the form that the replicas
load. A file is opened with weights only: what a ``.pt2`` may otherwise unpickle is refused.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from serving.compressors.given import AsGiven
from serving.compressors.torch_signature import (
    example_tensors,
    program_hints,
    program_signature,
    said_inputs,
)
from serving.errors import BadInput
from serving.generate import Hints
from serving.records import sha256_of
from serving.runtimes import Runtime, open_model
from serving.runtimes.torch_runtime import (
    SIGNATURE,
    open_torchscript,
    signature_json,
)
from serving.steps import Making, Step, StepFailed
from serving.wishes import Wish

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class GivenProgram(AsGiven):
    """An exported program (``.pt2``)."""

    suffix: ClassVar[str] = ".pt2"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Store it anew, with its signature."""
        self.store(target)

    def store(self, target: Path) -> None:
        """Write the program and its signature into ``target``."""
        import torch

        program = loaded_program(Path(self.path))
        inputs, outputs = program_signature(self.path, program)
        torch.export.save(
            program, str(target), extra_files={SIGNATURE: signature_json(inputs, outputs)}
        )

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The file that was looked at is the same, and what was written loads."""
        if sha256_of(Path(self.path)) != self.sha256:
            raise BadInput(f"{self.path}: changed while it was read; try again")
        open_model("torch", target, 1)

    def opened(self) -> Runtime:
        """The model as it will be served."""
        return _by_way_of(self.store, self.suffix)

    def hints(self) -> Hints:
        """Vocabulary sizes of its inputs."""
        return program_hints(loaded_program(Path(self.path)))


@dataclass(frozen=True)
class GivenTorchScript(AsGiven):
    """A TorchScript archive, which keeps no signature: the user says it."""

    signature: str
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Store it anew, with its signature."""
        self.store(target)

    def store(self, target: Path) -> None:
        """Write the archive and its signature into ``target``."""
        import torch

        module, _ = open_torchscript(Path(self.path))
        with _quiet():
            torch.jit.save(module, str(target), {SIGNATURE: self.signature})

    def check(self, source: Path, target: Path, making: Making) -> None:
        """The file that was looked at is the same, and what was written loads."""
        if sha256_of(Path(self.path)) != self.sha256:
            raise BadInput(f"{self.path}: changed while it was read; try again")
        open_model("torch", target, 1)

    def opened(self) -> Runtime:
        """The model as it will be served."""
        return _by_way_of(self.store, self.suffix)


@dataclass(frozen=True)
class ExportProgram(Step):
    """An exported program to ONNX, under the names of its signature."""

    suffix: ClassVar[str] = ".onnx"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")
    memory_gib: ClassVar[float] = 0.5

    @property
    def title(self) -> str:
        """In words."""
        return "exported to ONNX"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Export; weights inside the file."""
        import torch

        program = loaded_program(source)
        inputs, outputs = program_signature(str(source), program)
        with _quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
            )
        made.save(str(target))

    def check(self, source: Path, target: Path, making: Making) -> None:
        """It answers under the original's names."""
        before = [spec.name for spec in open_model("torch", source, 1).outputs]
        after = [spec.name for spec in open_model("onnxruntime", target, 1).outputs]
        if before != after:
            raise StepFailed(f"exported to ONNX: answers {after}, not {before}")


def loaded_program(path: Path) -> Any:
    """The ``torch.export.ExportedProgram`` of a file; BadInput when there is none in it."""
    import torch

    try:
        with _weights_only(), _quiet():
            return torch.export.load(str(path))
    except Exception as error:  # zip, JSON, pickle and schema errors of many types
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(f"{path}: torch cannot load this file ({first})") from None


def exported_program(place: str, wishes: Sequence[Wish], target: Path) -> None:
    """Export what ``module:name`` makes, for inputs that the user says, into a ``.pt2``.

    ``name`` is an ``nn.Module``, or something that returns one when it is called. This runs
    the user's code.
    """
    import torch

    module_name, _, name = place.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module_name), name)
        torch.manual_seed(0)
        network = made if isinstance(made, torch.nn.Module) else made()
    except Exception as error:  # whatever that code does
        raise BadInput(f"--model {place}: cannot be made ({error!r})") from None
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(network, torch.nn.Module):
        raise BadInput(f"--model {place}: is {type(network).__name__}, not a torch module")
    inputs = said_inputs(place, _argument_names(network), wishes)
    free = {spec.name: {0: torch.export.Dim("batch")} if spec.batched else None for spec in inputs}
    try:
        with _quiet(), torch.no_grad():
            given = tuple(example_tensors(inputs, 2).values())
            program = torch.export.export(
                network.eval(), given, dynamic_shapes=tuple(free.values())
            )
    except Exception as error:  # the exporter refuses in many words
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(f"--model {place}: torch.export cannot export it ({first})") from None
    torch.export.save(program, str(target))


def _argument_names(network: Any) -> list[str]:
    import inspect

    parameters = inspect.signature(network.forward).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in (0, 1)]


def _by_way_of(store: Callable[[Path], None], suffix: str) -> Runtime:
    with tempfile.TemporaryDirectory(prefix="tonnage-torch-") as folder:
        path = Path(folder) / f"model{suffix}"
        store(path)
        return open_model("torch", path, 1)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Keep torch from unpickling anything but weights, whatever its own loaders ask for."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
