"""A small convolutional network for images of 8x8 to 32x32 pixels: trains in seconds on a laptop."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """Three 3x3 convolutions of 16, 32 and 64 channels with batch norm, the latter two with stride 2.

    24,058 parameters for 10 classes of one-channel images. Not from any paper.
    """

    def __init__(self, num_classes: int, shape: tuple[int, int, int]) -> None:
        """Build for images of `shape` (channels, height, width)."""
        super().__init__()
        self.features = nn.Sequential(
            *_layer(shape[0], 16, stride=1),
            *_layer(16, 32, stride=2),
            *_layer(32, 64, stride=2),
            nn.AdaptiveAvgPool2d(1),
        )
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        return self.linear(torch.flatten(self.features(x), 1))


def _layer(in_channels: int, channels: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
    return conv, nn.BatchNorm2d(channels), nn.ReLU()
