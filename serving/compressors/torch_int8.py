"""PyTorch's dynamic int8 quantization of linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from serving.compressors.quiet import quiet
from serving.compressors.torch_models import Network, open_network, save_network
from serving.steps import Making, Step, StepFailed

_SHRINKS = 3.5


@dataclass(frozen=True)
class TorchDynamicInt8(Step):
    """Weights of linear layers become int8 per channel, activations in every call."""

    network: Network
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    @property
    def title(self) -> str:
        """In words."""
        return "int8 dynamic"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Quantize, and store as TorchScript, which keeps packed int8 weights."""
        from torch import nn
        from torch.ao import quantization

        with quiet():
            quantized = quantization.quantize_dynamic(
                open_network(source, self.network),
                {nn.Linear: quantization.per_channel_dynamic_qconfig},
            )
            save_network(quantized, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """What the linear layers take in the file shrank 3.5 times."""
        from torch import nn

        module = open_network(source, self.network)
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        before = sum(4 * layer.weight.numel() for layer in layers)
        after = before - (source.stat().st_size - target.stat().st_size)
        if after * _SHRINKS > before:
            raise StepFailed(
                f"{self.title}: linear weights take {after:,} bytes of the file, {before:,} "
                f"before; they are claimed to shrink {_SHRINKS:g} times"
            )
