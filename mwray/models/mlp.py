"""A perceptron with one hidden layer and no batch norm: every sample's gradient is its own."""

from __future__ import annotations

import math

from torch import Tensor, nn


class MLP(nn.Module):
    """Flatten, 128 hidden ReLU units, logits."""

    def __init__(self, num_classes: int, shape: tuple[int, int, int], hidden: int = 128) -> None:
        """Build for images of `shape` (channels, height, width)."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(shape), hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        return self.layers(x)
