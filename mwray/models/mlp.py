"""A perceptron with one hidden layer, and none: no batch norm, so every sample's gradient is its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Flatten, 128 hidden ReLU units, logits."""

    def __init__(self, num_classes: int, shape: Sequence[int], hidden: int = 128) -> None:
        """Build for images of `shape` (channels, height, width), or vectors of (features,)."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(shape), hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W] or vectors [B, D]."""
        return self.layers(x)


class LinearProbe(nn.Module):
    """Flatten, logits: multinomial logistic regression, what is put on top of embeddings first."""

    def __init__(self, num_classes: int, shape: Sequence[int]) -> None:
        """Build for images of `shape` (channels, height, width), or vectors of (features,)."""
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W] or vectors [B, D]."""
        return self.linear(x.flatten(1))
