"""EfficientViT-B3 (Cai et al., arXiv 2205.14756): convolutions with ReLU linear attention.

Parameter names are those of timm's ``efficientvit_b3``, so its checkpoints load unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 256, 512)
DEPTHS = (1, 4, 6, 6, 9)
HEAD_DIM = 32
HEAD_WIDTHS = (2304, 2560)
CLASSES = 1000
_EXPANSION = 4
_SCALE = 5  # kernel of the convolution that gives attention its second, coarser scale
_EPSILON = 1e-5


class Conv(nn.Module):
    """A convolution, then normalisation and activation where there are any."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.act = nn.Hardswish() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[b, inputs, h, w] to [b, outputs, h / stride, w / stride]."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Separable(nn.Module):
    """A depthwise convolution, then a pointwise one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth_conv = Conv(width, width, 3, groups=width)
        self.point_conv = Conv(width, width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        out: Tensor = self.point_conv(self.depth_conv(x))
        return out


class Inverted(nn.Module):
    """The inverted bottleneck: widen, filter each channel, narrow.

    With ``bare``, the first two convolutions have a bias in the place of normalisation.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, bare: bool = False) -> None:
        super().__init__()
        wide = inputs * _EXPANSION
        self.inverted_conv = Conv(inputs, wide, norm=not bare, bias=bare)
        self.depth_conv = Conv(wide, wide, 3, stride=stride, groups=wide, norm=not bare, bias=bare)
        self.point_conv = Conv(wide, outputs, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, inputs, h, w] to [b, outputs, h / stride, w / stride]."""
        out: Tensor = self.point_conv(self.depth_conv(self.inverted_conv(x)))
        return out


class Attention(nn.Module):
    """Multi-scale linear attention: softmax is replaced by ReLU, so cost is linear in h * w."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = Conv(width, 3 * width, norm=False, act=False)
        self.aggreg = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(
                        3 * width, 3 * width, _SCALE, 1, _SCALE // 2, groups=3 * width, bias=False
                    ),
                    nn.Conv2d(3 * width, 3 * width, 1, groups=3 * width // HEAD_DIM, bias=False),
                )
            ]
        )
        self.proj = Conv(2 * width, width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        batch, _, height, width = x.shape
        fine = self.qkv(x)
        scales = torch.cat([fine, *(coarser(fine) for coarser in self.aggreg)], dim=1)
        tokens = scales.reshape(batch, -1, 3 * HEAD_DIM, height * width).transpose(-1, -2)
        query, key, value = tokens.chunk(3, dim=-1)
        query, key = functional.relu(query), functional.relu(key)
        # A column of ones beside the values sums up the weights in the same product.
        counted = functional.pad(value, (0, 1), value=1.0)
        summed = query @ (key.transpose(-1, -2) @ counted)
        attended = summed[..., :-1] / (summed[..., -1:] + _EPSILON)
        out: Tensor = self.proj(attended.transpose(-1, -2).reshape(batch, -1, height, width))
        return out


class Residual(nn.Module):
    """The input plus what ``main`` makes of it."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        out: Tensor = x + self.main(x)
        return out


class Narrowing(nn.Module):
    """The block without a shortcut that begins a stage and halves the picture."""

    def __init__(self, inputs: int, outputs: int, *, bare: bool) -> None:
        super().__init__()
        self.main = Inverted(inputs, outputs, stride=2, bare=bare)

    def forward(self, x: Tensor) -> Tensor:
        """[b, inputs, h, w] to [b, outputs, h / 2, w / 2]."""
        out: Tensor = self.main(x)
        return out


class AttentionBlock(nn.Module):
    """Attention for the context, an inverted bottleneck for the neighbourhood."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.context_module = Residual(Attention(width))
        self.local_module = Residual(Inverted(width, width, bare=True))

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        out: Tensor = self.local_module(self.context_module(x))
        return out


class Stage(nn.Module):
    """Blocks of one width."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Narrowing(inputs, outputs, bare=attention),
            *(
                AttentionBlock(outputs) if attention else Residual(Inverted(outputs, outputs))
                for _ in range(depth if attention else depth - 1)
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[b, inputs, h, w] to [b, outputs, h / 2, w / 2]."""
        out: Tensor = self.blocks(x)
        return out


class Head(nn.Module):
    """Pools the last stage and classifies."""

    def __init__(self, inputs: int, widths: tuple[int, int], classes: int) -> None:
        super().__init__()
        wide, hidden = widths
        self.in_conv = Conv(inputs, wide)
        self.classifier = nn.Sequential(
            nn.Linear(wide, hidden, bias=False),
            nn.LayerNorm(hidden),
            nn.Hardswish(),
            nn.Dropout(0.0),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[b, inputs, h, w] to scores [b, classes]."""
        out: Tensor = self.classifier(self.in_conv(x).mean((2, 3)))
        return out


class EfficientViT(nn.Module):
    """The whole network: pictures [b, 3, h, w] to scores [b, classes]; h and w in steps of 32.

    The defaults are B3's. Widths of the last two stages are multiples of 32.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = WIDTHS,
        depths: tuple[int, ...] = DEPTHS,
        head: tuple[int, int] = HEAD_WIDTHS,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("in_conv", Conv(3, widths[0], 3, stride=2))
        for number in range(depths[0]):
            self.stem.add_module(f"res{number}", Residual(Separable(widths[0])))
        self.stages = nn.Sequential(
            *(
                Stage(widths[n - 1], widths[n], depths[n], attention=n > 2)
                for n in range(1, len(widths))
            )
        )
        self.head = Head(widths[-1], head, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """[b, 3, h, w] to [b, classes]."""
        out: Tensor = self.head(self.stages(self.stem(pictures)))
        return out
