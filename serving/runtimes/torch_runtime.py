"""PyTorch models: TorchScript archives (``.pt``) and exported programs (``.pt2``).

Neither form is a pickle that could run code on loading. The signature (tensor names, types,
shapes) lies beside the weights inside the file, as JSON, because TorchScript keeps none.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import BadInput
from serving.heap import keep_freed_memory
from serving.records import TensorSpec

SIGNATURE = "signature.json"


def signature_json(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """What is stored beside the weights, for :class:`TorchRuntime` to read."""
    return json.dumps(
        {
            "inputs": [spec.model_dump(mode="json") for spec in inputs],
            "outputs": [spec.model_dump(mode="json") for spec in outputs],
        }
    )


def open_torchscript(path: Path) -> tuple[Any, str]:
    """A TorchScript archive in evaluation mode, and its signature as JSON ("" if none).

    BadInput when the file is no such archive.
    """
    import torch

    extra = {SIGNATURE: ""}
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, and the only form that can hold int8 weights.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError, OSError) as error:
        raise BadInput(f"{path}: torch cannot load this file ({_first(error)})") from None
    text = extra[SIGNATURE]
    return module.eval(), text.decode() if isinstance(text, bytes) else text


def open_program(path: Path) -> tuple[Any, str]:
    """An exported program's module, and its signature as JSON ("" if none)."""
    import torch

    extra = {SIGNATURE: ""}
    try:
        program = torch.export.load(str(path), extra_files=extra)
    except Exception as error:  # zip, JSON, version and schema errors of many types
        raise BadInput(f"{path}: torch cannot load this file ({_first(error)})") from None
    return program.module(), extra[SIGNATURE]


class TorchRuntime:
    """A PyTorch model with ``threads`` intra-op threads (a process-wide setting).

    It is on the CPU unless ``providers`` names another device; times of a call there include
    the way of the tensors to it and back.
    """

    def __init__(self, path: Path, threads: int, providers: Sequence[str] = ("cpu",)) -> None:
        import torch

        keep_freed_memory()
        torch.set_num_threads(threads)
        self._torch = torch
        module, text = (open_program if path.suffix == ".pt2" else open_torchscript)(path)
        self._device = providers[0]
        if self._device.startswith("cuda") and not torch.cuda.is_available():
            raise BadInput(f"{path}: torch sees no GPU here, so it cannot run on {self._device}")
        self._module = module.to(self._device)
        try:
            signature = json.loads(text)
            self.inputs = tuple(TensorSpec.model_validate(s) for s in signature["inputs"])
            self.outputs = tuple(TensorSpec.model_validate(s) for s in signature["outputs"])
        except (ValueError, KeyError, TypeError):
            raise BadInput(
                f"{path}: holds no signature (tensor names and shapes in {SIGNATURE})"
            ) from None

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call the module with the inputs in the order of its signature."""
        torch = self._torch
        with torch.inference_mode():
            given = [
                torch.from_numpy(_writable(inputs[spec.name])).to(self._device)
                for spec in self.inputs
            ]
            made = self._module(*given)
        several = made if isinstance(made, (tuple, list)) else (made,)
        return {s.name: v.cpu().numpy() for s, v in zip(self.outputs, several, strict=True)}


def _writable(values: np.ndarray) -> np.ndarray:
    """Torch wants memory it might write to; what arrived over the network is read-only."""
    return values if values.flags.writeable else values.copy()


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
