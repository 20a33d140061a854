"""PyTorch networks as files: TorchScript archives that can be served, and opened to train on.

A network is a function that returns a module. An archive holds the weights under the same
names, so the network can be made again from it; an ``nn.Sequential`` of named layers with as
many channels as the weights have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from serving.heap import keep_freed_memory
from serving.records import TensorSpec
from serving.runtimes.torch_runtime import SIGNATURE, open_torchscript, signature_json
from serving.v2 import dtype_of

Network = Callable[[], Any]
_FREE = 8  # torch.export takes a dimension of 0 or 1 for one that never changes


def open_network(path: Path, network: Network) -> Any:
    """The network with the weights of an archive, in evaluation mode."""
    archive, _ = open_torchscript(path)
    return with_weights(network(), archive.state_dict()).eval()


def with_weights(module: Any, state: Mapping[str, Any]) -> Any:
    """Load ``state``; the layers of an ``nn.Sequential`` take on the sizes found there."""
    from torch import nn

    if not isinstance(module, nn.Sequential):
        module.load_state_dict(state)
        return module
    for name, layer in module.named_children():
        weight = state.get(f"{name}.weight")
        if weight is None:
            continue
        if isinstance(layer, nn.Conv2d):
            layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1]
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = weight.shape
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features = weight.shape[0]
        for key, value in layer.named_parameters():
            value.data = state[f"{name}.{key}"].detach().clone()
        for key, _ in layer.named_buffers():
            setattr(layer, key, state[f"{name}.{key}"].detach().clone())
    return module


def save_network(
    module: Any, target: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Trace the module, and store it with its signature; any batch size can be run."""
    import torch

    with warnings.catch_warnings():
        # TorchScript is deprecated, and the only form that can hold int8 weights.
        warnings.simplefilter("ignore", DeprecationWarning)
        with torch.inference_mode(mode=False), torch.no_grad():
            traced = torch.jit.trace(module.eval(), example(inputs, 2))
        torch.jit.save(traced, str(target), {SIGNATURE: signature_json(inputs, outputs)})


def example(inputs: Sequence[TensorSpec], batch: int) -> tuple[Any, ...]:
    """Tensors of ones that fit the signature; free dimensions beside the batch are not 1."""
    import torch

    shapes = [(batch, *(_FREE if d < 0 else d for d in spec.shape[1:])) for spec in inputs]
    kinds = [dtype_of(spec.datatype) for spec in inputs]
    return tuple(
        torch.from_numpy(np.ones(shape, kind)) for shape, kind in zip(shapes, kinds, strict=True)
    )


def count_parameters(module: Any) -> int:
    """Number of weights and biases."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def reproducible(seed: int, threads: int = 1) -> Iterator[None]:
    """Seeded, and on one thread unless more are asked for; others are given back afterwards.

    On one, sums come out the same on every host, whatever its cores. Small networks are also too
    small to share: with a busy neighbour, two threads that wait for each other at every layer
    took four times as long as one.
    """
    import torch

    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before)
