"""A comparison as the seed report's script makes it, and step by step as ours is made."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from serving.heap import keep_freed_memory

CALLS = 100  # as many as the report's
_WARM = 10
# The report's file has 2.08 MB and dynamic int8, which packs linear layers fourfold, makes it
# 0.58 MB: the linear layers have 2.0 MB of it, and the convolutions a twentieth of that.
REPORTED_MB, REPORTED_INT8_MB = 2.08, 0.58
_CHANNELS, _HIDDEN = (16, 32, 64), 480


def reported_net() -> Any:
    """A network of the report's size, and of its share of linear weights, never trained."""
    from serving.workloads.cifar_cnn import of_width

    return of_width(_CHANNELS, _HIDDEN)


def export_net(file: str) -> dict[str, float]:
    """Write the report's network to an ONNX file; millions of bytes of weights by kind."""
    from torch import nn

    module = reported_net().eval()
    export(module, file)
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return {
        "all_mb": sum(4 * p.numel() for p in module.parameters()) / 1e6,
        "linear_mb": sum(4 * p.numel() for layer in linear for p in layer.parameters()) / 1e6,
    }


def export(module: Any, file: str) -> None:
    """The module as an ONNX file of any batch."""
    import torch

    from serving.compressors.quiet import quiet

    with quiet():
        torch.onnx.export(
            module,
            (torch.ones(2, 3, 32, 32),),
            dynamo=True,
            input_names=["image"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        ).save(file)


def script(onnx_file: str, torch_file: str, *settings: str) -> dict[str, float]:
    """Milliseconds of a call at batch 1: torch first, then ONNX, then torch with masked weights.

    ``torch_file`` is "" for a network of the report's size. ``settings``: "training" leaves
    the network in that mode, "warm" calls ten times beforehand and takes medians rather than
    means, "inference" switches autograd off, "one thread" does as it says, "kept" keeps freed
    memory, "neighbour" runs a program beside it that keeps a core busy. ``first_ms`` is torch's
    first call; masked weights have the shapes of the originals.
    """
    import onnxruntime
    import torch

    from serving.compressors.torch_models import open_network
    from serving.workloads.cifar_cnn import network

    options = onnxruntime.SessionOptions()
    if "one thread" in settings:
        torch.set_num_threads(1)
        options.intra_op_num_threads = 1
    if "kept" in settings:
        keep_freed_memory()
    module = open_network(Path(torch_file), network) if torch_file else reported_net()
    module.train("training" in settings)
    rows = torch.randn(1, 3, 32, 32)
    given = {"image": np.ones((1, 3, 32, 32), np.float32)}
    with _neighbour("neighbour" in settings), torch.inference_mode("inference" in settings):
        original = _calls(lambda: module(rows), "warm" in settings)
        session = onnxruntime.InferenceSession(
            onnx_file, options, providers=["CPUExecutionProvider"]
        )
        exported = _calls(lambda: session.run(None, given), "warm" in settings)
        pruned = _masked(module)
        masked = _calls(lambda: pruned(rows), "warm" in settings)
    return {
        "first_ms": original[0],
        "torch_ms": original[1],
        "onnx_ms": exported[1],
        "masked_ms": masked[1],
    }


@contextmanager
def _neighbour(wanted: bool) -> Iterator[None]:
    """Another program that computes as long as the block lasts."""
    if not wanted:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def _calls(call: Callable[[], Any], warm: bool) -> tuple[float, float]:
    """Milliseconds of the very first call, and of a call as the script counts it."""
    times = []
    for _ in range(CALLS + (_WARM if warm else 0)):
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    return times[0], median(times[_WARM:]) if warm else mean(times)


def _masked(module: Any) -> Any:
    """A copy with 30 % of each layer's rows set to zero: as many weights, of the same shapes."""
    from torch import nn
    from torch.nn.utils import prune

    pruned = copy.deepcopy(module)
    for layer in pruned.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prune.ln_structured(layer, "weight", amount=0.3, n=2, dim=0)
            prune.remove(layer, "weight")
    return pruned
