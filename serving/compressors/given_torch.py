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

import numpy as np

from serving.compressors.given import AsGiven
from serving.errors import BadInput
from serving.generate import generated_rows
from serving.records import TensorSpec, has_batch_axis, sha256_of
from serving.rows import take
from serving.runtimes import Runtime, open_model
from serving.runtimes.torch_runtime import (
    SIGNATURE,
    open_torchscript,
    signature_json,
)
from serving.steps import Making, Step, StepFailed
from serving.v2 import datatype_of
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


def program_signature(
    path: str, program: Any
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an exported program, from the tensors that it was traced with."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    inputs = tuple(_of_node(path, name, name, nodes) for name in signature.user_inputs)
    names = [f"output{i}" if len(signature.user_outputs) > 1 else "output" for i in range(99)]
    pairs = zip(names, signature.user_outputs, strict=False)
    return inputs, tuple(_of_node(path, name, made, nodes) for name, made in pairs)


def script_signature(path: Path, wishes: Sequence[Wish]) -> str:
    """Signature of a TorchScript archive: names from its code, the rest from the user.

    The outputs are what it answers to rows made to fit. BadInput says what is not known.
    """
    module, _ = open_torchscript(path)
    names = [a.name for a in module.forward.schema.arguments if a.name != "self"]
    inputs = said_inputs(str(path), names, wishes)
    return signature_json(inputs, _answered(str(path), module, inputs))


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
            given = tuple(_tensors(inputs, 2).values())
            program = torch.export.export(
                network.eval(), given, dynamic_shapes=tuple(free.values())
            )
    except Exception as error:  # the exporter refuses in many words
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(f"--model {place}: torch.export cannot export it ({first})") from None
    torch.export.save(program, str(target))


def said_inputs(path: str, names: Sequence[str], wishes: Sequence[Wish]) -> tuple[TensorSpec, ...]:
    """Specs of inputs that only the user can say; BadInput shows how."""
    wished = {wish.name: wish for wish in wishes}
    specs = []
    for name in names:
        wish = wished.get(name)
        if wish is None or wish.dims is None:
            raise BadInput(
                f"{path}: does not say what {name!r} is; say it as in --input "
                f"'{name}=float[b,3,224,224]'"
            )
        specs.append(
            TensorSpec(
                name=name,
                datatype=wish.datatype or "FP32",
                shape=tuple(d if isinstance(d, int) else -1 for d in wish.dims),
                symbols=tuple(None if isinstance(d, int) else d for d in wish.dims),
            )
        )
    return tuple(specs)


def _of_node(path: str, name: str, node: str, nodes: dict[str, Any]) -> TensorSpec:
    value = nodes[node].meta.get("val") if node in nodes else None
    if value is None or not hasattr(value, "dtype"):
        raise BadInput(f"{path}: {node} is no tensor, which is all that can be served")
    sizes = list(value.shape)
    return TensorSpec(
        name=name,
        datatype=_datatype(path, value.dtype),
        shape=tuple(int(d) if isinstance(d, int) else -1 for d in sizes),
        symbols=tuple(None if isinstance(d, int) else str(d) for d in sizes),
    )


def _datatype(path: str, dtype: Any) -> str:
    import torch

    try:
        return datatype_of(torch.empty(0, dtype=dtype).numpy())
    except (TypeError, ValueError):
        raise BadInput(f"{path}: takes or gives {dtype}, which V2 cannot carry") from None


def _answered(path: str, module: Any, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Specs of what a module answers, seen from two calls of different batch sizes."""
    import torch

    batched = has_batch_axis(inputs, inputs)
    try:
        with torch.inference_mode():
            seen = [
                module(*_tensors(inputs, rows).values()) for rows in ((2, 3) if batched else (1, 1))
            ]
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1][:200]
        raise BadInput(f"{path}: does not run on the inputs that --input says ({first})") from None
    several = [made if isinstance(made, tuple | list) else (made,) for made in seen]
    specs = []
    for index, (first_one, second) in enumerate(zip(*several, strict=True)):
        if not isinstance(first_one, torch.Tensor):
            raise BadInput(f"{path}: answers {type(first_one).__name__}, not tensors")
        shape = [a if a == b else -1 for a, b in zip(first_one.shape, second.shape, strict=True)]
        name = "output" if len(several[0]) == 1 else f"output{index}"
        specs.append(
            TensorSpec(name=name, datatype=_datatype(path, first_one.dtype), shape=tuple(shape))
        )
    return tuple(specs)


def _tensors(inputs: Sequence[TensorSpec], rows: int) -> dict[str, Any]:
    """Tensors of random numbers that fit; a free dimension beyond the batch is 8 long."""
    import torch

    batched = has_batch_axis(inputs, inputs)
    sizes = {
        spec.symbol(axis) or f"{spec.name}.{axis}": 8
        for spec in inputs
        for axis, size in enumerate(spec.shape)
        if size == -1 and not (batched and axis == 0)
    }
    made = take(
        generated_rows(inputs, rows, 0, batched=batched, sizes=sizes), range(rows), batched=batched
    )
    return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in made.items()}


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
