"""PyTorch's dynamic int8 quantization of linear layers and embeddings."""

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
    """Weights of linear layers become int8 per channel, activations in every call.

    Rows of embeddings become int8 too; they are widened again when they are looked up.
    """

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
                {
                    nn.Linear: quantization.per_channel_dynamic_qconfig,
                    nn.Embedding: quantization.float_qparams_weight_only_qconfig,
                },
            )
            save_network(quantized, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """What these layers take in the file shrank 3.5 times."""
        from torch import nn

        kinds = (nn.Linear, nn.Embedding)
        module = open_network(source, self.network)
        layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
        before = sum(4 * layer.weight.numel() for layer in layers)
        after = before - (source.stat().st_size - target.stat().st_size)
        if after * _SHRINKS > before:
            raise StepFailed(
                f"{self.title}: their weights take {after:,} bytes of the file, {before:,} "
                f"before; they are claimed to shrink {_SHRINKS:g} times"
            )
