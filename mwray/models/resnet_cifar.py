"""Residual networks for small images (He et al., "Deep residual learning", CVPR 2016, section 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (option A): every second pixel, new channels zero."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, channels, H / stride, W / stride]."""
        shortcut = x
        if self.stride > 1:
            shortcut = shortcut[:, :, :: self.stride, :: self.stride]
        if self.new_channels > 0:
            # Half of the zeros on either side, as in the paper's code (resnet.py); He et al. do not say.
            before = self.new_channels // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.new_channels - before))
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + shortcut)


class ResNet(nn.Module):
    """ResNet of depth 6n + 2: a stem and three stages of n blocks with 16, 32 and 64 channels.

    ResNet-32 has 464,154 parameters for 10 classes of colour images and 470,004 for 100.
    """

    last_stage = ("stage3", "linear")
    """Modules whose gradients are aligned with `meta.layers=top`."""

    def __init__(self, depth: int, num_classes: int, shape: tuple[int, int, int]) -> None:
        """Build for images of `shape` (channels, height, width), any height and width.

        Raises:
            ValueError: `depth` is not 8, 14, 20, 26, 32 ...
        """
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, 26, 32, ...), and {depth} was given")
        self.conv1 = nn.Conv2d(shape[0], 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        blocks = (depth - 2) // 6
        self.stage1 = _stage(blocks, 16, 16, stride=1)
        self.stage2 = _stage(blocks, 16, 32, stride=2)
        self.stage3 = _stage(blocks, 32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)  # fan-in, as in the paper's code

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.linear(torch.flatten(self.pool(x), 1))


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)
