"""Wide residual networks (Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016), without dropout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; a 1x1 convolution as shortcut where widths differ."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        # A block that narrows nothing but keeps the width keeps its input (stride > 1 always widens here).
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if in_channels != channels else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, channels, H / stride, W / stride]."""
        active = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        # The shortcut convolution sees the activated input, as in the authors' and the paper's code (wideresnet.py).
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WRN-depth-width: a stem of 16 channels and three groups of (depth - 4) / 6 blocks of 16, 32, 64 times width.

    WRN-28-10 has 36,479,194 parameters for 10 classes of colour images and 36,536,884 for 100.
    """

    last_stage = ("group3", "bn", "linear")
    """Modules whose gradients are aligned with `meta.layers=top`."""

    def __init__(self, depth: int, width: int, num_classes: int, shape: tuple[int, int, int]) -> None:
        """Build for images of `shape` (channels, height, width), any height and width.

        Raises:
            ValueError: `depth` is not 10, 16, 22, 28 ... or `width` is below 1.
        """
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise ValueError(
                f"a wide ResNet has depth 6n + 4 (10, 16, 22, 28, ...) and width at least 1, and {depth} and {width} "
                "were given"
            )
        blocks = (depth - 4) // 6
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.conv = nn.Conv2d(shape[0], channels[0], 3, 1, 1, bias=False)
        self.group1 = _group(blocks, channels[0], channels[1], stride=1)
        self.group2 = _group(blocks, channels[1], channels[2], stride=2)
        self.group3 = _group(blocks, channels[2], channels[3], stride=2)
        self.bn = nn.BatchNorm2d(channels[3])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels[3], num_classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        x = self.group3(self.group2(self.group1(self.conv(x))))
        x = self.pool(self.relu(self.bn(x)))
        return self.linear(torch.flatten(x, 1))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        nn.init.zeros_(self.linear.bias)


def _group(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    rest = (PreActBlock(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(PreActBlock(in_channels, channels, stride), *rest)
