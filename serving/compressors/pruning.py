"""Structured pruning: whole channels and hidden units are taken out of a PyTorch network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from serving.compressors import checks
from serving.compressors.quiet import quiet
from serving.compressors.torch_models import Network, example, open_network, save_network
from serving.steps import Making, Step, StepFailed


@dataclass(frozen=True)
class PruneChannels(Step):
    """Remove the ``share`` of channels with the smallest weights from every layer but the last.

    Follow it with :class:`~serving.compressors.torch_training.FineTune`.
    """

    network: Network
    share: float
    suffix: ClassVar[str] = ".pt"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.share:.0%} of channels pruned"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        """Rank by the L1 norm of each channel's weights, and cut."""
        import torch_pruning

        module = open_network(source, self.network)
        with quiet():
            torch_pruning.pruner.MagnitudePruner(
                module,
                example(making.inputs, 1)[0],
                torch_pruning.importance.MagnitudeImportance(p=1),
                pruning_ratio=self.share,
                ignored_layers=[_layers(module)[-1][1]],
            ).step()
        save_network(module, target, making.inputs, making.outputs)

    def check(self, source: Path, target: Path, making: Making) -> None:
        """Every layer but the last lost its share of channels, and the file is smaller."""
        before = _layers(open_network(source, self.network))
        after = _layers(open_network(target, self.network))
        for (name, old), (_, new) in zip(before[:-1], after[:-1], strict=True):
            had, has = old.weight.shape[0], new.weight.shape[0]
            if has > (1 - self.share) * had + 1:
                raise StepFailed(f"{self.title}: {name} has {has} of {had} channels")
        checks.is_smaller(source, target, self.title, at_most=1 - self.share / 2)


def _layers(module: Any) -> list[tuple[str, Any]]:
    from torch import nn

    kinds = (nn.Conv2d, nn.Linear)
    return [(name, layer) for name, layer in module.named_children() if isinstance(layer, kinds)]
