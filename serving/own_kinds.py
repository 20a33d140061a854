"""Kinds of model files that a user may bring, and what can be made of each."""

from __future__ import annotations

import importlib.util
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

from serving.compressors.checks import is_smaller
from serving.compressors.convert import ConvertEstimator
from serving.compressors.given import ConstantsAsWeights, GivenOnnx, GivenPickle, GivenSkops
from serving.compressors.given_torch import (
    ExportProgram,
    GivenProgram,
    GivenTorchScript,
    exported_program,
)
from serving.compressors.onnx_int8 import DynamicInt8
from serving.compressors.torch_signature import script_signature
from serving.errors import BadInput
from serving.generate import Hints
from serving.memory import require
from serving.onnx_file import (
    content_bytes,
    content_sha256,
    forget_shapes_of_weights,
    hints,
    precision,
    quantizable,
    read_graph,
)
from serving.records import sha256_of
from serving.runtimes import Runtime, open_model
from serving.steps import Making, StepFailed
from serving.wishes import Wish
from serving.workloads import Recipe

_ARCHIVES = {".skops", ".pt2", ".pt", ".ts", ".torchscript"}
_PICKLES = {".pkl", ".pickle", ".joblib"}
_HOW_TO_CONVERT = {
    ".h5": "convert it with tf2onnx",
    ".keras": "convert it with tf2onnx",
    ".pb": "convert it with tf2onnx",
    ".tflite": "convert it with tf2onnx",
    ".safetensors": "it holds weights alone; export the model to ONNX",
    ".pth": "it holds weights alone, as a rule; export the model to ONNX or .pt2",
    ".bin": "it holds weights alone, as a rule; export the model to ONNX",
    ".gguf": "language models with a cache are not served here",
}
_MAGIC = {
    b"PK\x03\x04": "a zip archive (torch, skops or npz)",
    b"\x89HDF": "an HDF5 file (Keras)",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"GGUF": "a GGUF file",
    b"version http": "a pointer of Git LFS: fetch the file itself (git lfs pull)",
}
# Convolutions that choose their scales in every call are slower in eight bits than in float.
_NO_CONVOLUTION = ("MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
_WORTHWHILE = 0.75
_NOTHING_TO_SHRINK = "it holds no float weights that dynamic quantization shrinks"
# What opening takes of the size of a file, measured on 100 MB: an exported program 3.0, ONNX 2.6,
# with its weights beside it 1.3, TorchScript 1.1. What is made of it takes more, and says so.
_OPENING_FACTOR = 3.2
_OPENING_GIB = 0.1


@dataclass(frozen=True)
class MatrixInt8(DynamicInt8):
    """Matrix products alone become int8, where they are what the file is made of."""

    def check(self, source: Path, target: Path, making: Making) -> None:
        """As before, and a quarter of the file is saved."""
        super().check(source, target, making)
        is_smaller(source, target, self.title, at_most=_WORTHWHILE)


@dataclass(frozen=True)
class WeightsToShrink(ConstantsAsWeights):
    """All weights where a quantizer looks for them, and nothing that contradicts it afterwards.

    PyTorch's exporter notes a shape of each weight beside the weight itself. The quantizer
    transposes some of them, the notes stay as they were, and its own inference of shapes stops
    there. A weight has its shape in itself, so the notes say nothing.
    """

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """As before, without the notes; StepFailed where no weight could be shrunk."""
        super().apply(source, target, making)
        if not quantizable(read_graph(target)):
            raise StepFailed(_NOTHING_TO_SHRINK)
        forget_shapes_of_weights(target)


class Given(Protocol):
    """What of the user's choice decides the kind."""

    @property
    def path(self) -> str:
        """A file, or ``module:name``."""
        ...

    @property
    def wishes(self) -> Sequence[Wish]:
        """What the user says of the inputs."""
        ...

    @property
    def allow_pickle_sha256(self) -> str | None:
        """Hash of the pickle that may be loaded."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a file is opened and stored, and which variants may be tried, best recipe first."""

    original: Recipe
    open: Callable[[], Runtime]
    sha256: str
    hints: Hints = field(default_factory=Hints)
    offers: Mapping[str, tuple[Recipe, ...]] = field(default_factory=dict)
    not_offered: Mapping[str, str] = field(default_factory=dict)


def kind_of(given: Given) -> Kind:
    """What the file is; BadInput, with what to do instead, for a kind that is not served."""
    path = Path(given.path)
    suffix = path.suffix.lower()
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", given.path) and not path.exists():
        return _torch_code(given)
    if path.is_dir():
        raise BadInput(f"--model {path}: is a folder; give the model file in it")
    if not path.is_file():
        raise BadInput(f"--model {path}: no such file")
    if not path.stat().st_size:
        raise BadInput(f"{path}: is empty")
    _need_memory(path, path.stat().st_size)
    if suffix in _ARCHIVES and not zipfile.is_zipfile(path):
        raise BadInput(
            f"{path}: is no {suffix} file but something else, renamed or cut short (it would be "
            "a zip archive); copy or export it again"
        )
    if suffix == ".onnx":
        return _onnx(path)
    if suffix == ".skops":
        step = GivenSkops(str(path.absolute()), sha256_of(path))
        return _sklearn(path, step, lambda: open_model("sklearn", path, 1))
    if suffix in _ARCHIVES:
        return _torch(path, given)
    if suffix in _PICKLES:
        return _pickle(path, given.allow_pickle_sha256)
    known = f".onnx, .skops, .pt2, .pt, and {', '.join(sorted(_PICKLES))}"
    instead = _HOW_TO_CONVERT.get(suffix, f"known are {known}")
    raise BadInput(f"{path}: this kind of file is not served; {instead}")


def _onnx(path: Path) -> Kind:
    try:
        graph = read_graph(path)
    except BadInput as error:
        looks = _looks_like(path)
        raise BadInput(f"{error}; it looks like {looks}" if looks else str(error)) from None
    _need_memory(path, content_bytes(path, graph))  # the weights may lie beside it
    runtime = open_model("onnxruntime", path, 1)
    width = precision(graph)
    offers: dict[str, tuple[Recipe, ...]] = {}
    not_offered = {}
    if width == "int8":
        not_offered["int8"] = "it is quantized already"
    elif not quantizable(graph):
        not_offered["int8"] = _NOTHING_TO_SHRINK
    else:
        offers["int8"] = _int8("original")
    digest = content_sha256(path, graph)
    return Kind(
        original=Recipe("onnxruntime", width, (GivenOnnx(str(path.absolute()), digest),)),
        open=lambda: runtime,
        sha256=digest,
        hints=hints(graph, runtime.inputs, runtime.outputs),
        offers=offers,
        not_offered=not_offered,
    )


def _int8(needs: str) -> tuple[Recipe, ...]:
    """Ways to an int8 form of an ONNX variant, the better one first."""
    return tuple(
        Recipe("onnxruntime", "int8", (WeightsToShrink(), step), needs=needs)
        for step in (MatrixInt8(_NO_CONVOLUTION), DynamicInt8())
    )


def _pickle(path: Path, allowed: str | None) -> Kind:
    found = sha256_of(path)
    if allowed is None:
        raise BadInput(
            f"{path}: a pickle runs code when it is loaded; if you trust this one, add "
            f"--allow-pickle-sha256 {found}"
        )
    if allowed.lower() != found:
        raise BadInput(f"{path}: its sha256 is {found}, --allow-pickle-sha256 says {allowed}")
    step = GivenPickle(str(path.absolute()), found)

    def opened() -> Runtime:
        try:
            return step.opened()
        except BadInput as error:  # which may name the file that skops stored it in, gone by now
            said = str(error)
            if said.startswith(str(path.absolute())):
                raise
            raise BadInput(f"{path}: {said.partition(': ')[2]}") from None

    return _sklearn(path, step, opened)


def _sklearn(path: Path, step: GivenSkops | GivenPickle, opened: Callable[[], Runtime]) -> Kind:
    return Kind(
        original=Recipe("sklearn", "fp64", (step,)),
        open=opened,
        sha256=step.sha256,
        offers={
            "onnx": (Recipe("onnxruntime", "fp32", (ConvertEstimator(),), needs="original"),),
            "onnx_int8": _int8("onnx"),
        },
    )


def _torch(path: Path, given: Given) -> Kind:
    _need_torch(str(path))
    _not_of_torch_save(path)
    place, digest = str(path.absolute()), sha256_of(path)
    if path.suffix.lower() == ".pt2":
        return _program(GivenProgram(place, digest))
    step = GivenTorchScript(place, digest, script_signature(path, given.wishes))
    return Kind(
        original=Recipe("torch", "fp32", (step,)),
        open=step.opened,
        sha256=digest,
        not_offered={
            "onnx": "TorchScript is not converted here; export the model to .pt2 or ONNX instead"
        },
    )


def _not_of_torch_save(path: Path) -> None:
    """BadInput for what ``torch.save`` wrote: weights, or a pickled module, and no program."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    # TorchScript has code and constants beside the same pickle, an exported program other names.
    if "data.pkl" in names and "constants.pkl" not in names and "archive_format" not in names:
        raise BadInput(
            f"{path}: was written by torch.save, so it holds weights or a pickle and no program; "
            "give --model module:NAME of the code that makes the network, or save it with "
            "torch.export.save as .pt2"
        )


def _torch_code(given: Given) -> Kind:
    _need_torch(f"--model {given.path}")
    # It lives as long as the process: the step that stores it reads it later. The same code and
    # weights are exported to the same bytes, whose hash is what finds the variant again.
    target = Path(tempfile.mkdtemp(dir=_exports().name)) / "model.pt2"
    exported_program(given.path, given.wishes, target)
    return _program(GivenProgram(str(target), sha256_of(target)))


def _program(step: GivenProgram) -> Kind:
    return Kind(
        original=Recipe("torch", "fp32", (step,)),
        open=step.opened,
        sha256=step.sha256,
        hints=step.hints(),
        offers={
            "onnx": (Recipe("onnxruntime", "fp32", (ExportProgram(),), needs="original"),),
            "onnx_int8": _int8("onnx"),
        },
    )


@cache
def _exports() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tonnage-torch-")


def _need_torch(what: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise BadInput(f"{what}: needs PyTorch; pip install 'tonnage[torch]'")


def _need_memory(path: Path, size_bytes: int) -> None:
    """BadInput before a file is opened that does not fit, for which the kernel would kill us."""
    require(
        _OPENING_GIB + _OPENING_FACTOR * size_bytes / 2**30,
        f"--model {path}: opening it",
        "free some, or take a machine with more",
    )


def _looks_like(path: Path) -> str | None:
    with path.open("rb") as stream:
        begin = stream.read(16)
    return next((name for magic, name in _MAGIC.items() if begin.startswith(magic)), None)
