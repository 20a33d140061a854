"""Runtimes: the libraries that execute a model, behind one small protocol.

One module a library, imported only when a model of its kind is loaded, so the base install
needs none but onnxruntime. Loading happens inside the replica, after the replica has
been put into its instance, so that threads and memory belong to the instance.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from serving.errors import BadInput
from serving.model_store import model_path, store_folder
from serving.records import TensorSpec, Variant, sha256_of

Tensors = Mapping[str, np.ndarray]


@runtime_checkable
class Runtime(Protocol):
    """A loaded model. ``predict`` is called by one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def predict(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """Run one inference call; arrays in, arrays out, by tensor name."""
        ...


# Per runtime: module, class, the packages whose versions its answers depend on, and the
# extra that installs it.
_RUNTIMES: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "onnxruntime": ("onnx_runtime", "OnnxRuntime", ("onnxruntime",), "tonnage"),
    "openvino": ("openvino_runtime", "OpenVinoRuntime", ("openvino",), "tonnage[openvino]"),
    "sklearn": ("sklearn_runtime", "SklearnRuntime", ("scikit-learn", "skops"), "tonnage[credit]"),
    "stub": ("stub", "StubRuntime", (), "tonnage"),
    "torch": ("torch_runtime", "TorchRuntime", ("torch",), "tonnage[torch]"),
}


def libraries_of(runtime: str) -> tuple[str, ...]:
    """Packages whose versions decide what a runtime answers."""
    return _RUNTIMES[runtime][2]


def extra_of(runtime: str) -> str:
    """The extra of Tonnage that installs them, in brackets; "" where it needs none."""
    return _RUNTIMES[runtime][3].removeprefix("tonnage")


def load_runtime(variant: Variant, threads: int) -> Runtime:
    """Load ``variant`` with ``threads`` compute threads, after checking the hash of its files.

    Raises BadInput when a file is missing, changed since it was built, or damaged, and when
    the library of its runtime is not installed.
    """
    path = model_path(variant)
    for name, digest in variant.files.items():
        file = store_folder() / name
        if not file.is_file():
            raise BadInput(
                f"{file}: model file of variant {variant.name} is missing; build it again"
            )
        if sha256_of(file) != digest:
            raise BadInput(f"{file}: changed since it was built (sha256 differs); build it again")
    options = {"providers": variant.providers} if variant.providers else {}
    return open_model(variant.runtime, path, threads, **options)


def open_model(runtime: str, path: Path, threads: int, **options: Any) -> Runtime:
    """Load a file that no record describes; BadInput names what is wrong with it."""
    if runtime not in _RUNTIMES:
        raise BadInput(f"{path}: unknown runtime {runtime!r}; known are {', '.join(_RUNTIMES)}")
    module, name, _, extra = _RUNTIMES[runtime]
    try:
        kind = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        loaded: Runtime = kind(path, threads, **options)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{path}: runtime {runtime} needs the package {error.name}; "
            f"install it with: pip install '{extra}'"
        ) from None
    return loaded
