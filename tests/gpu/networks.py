"""Networks of a user's own, by import path."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def with_dropout(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    channels, height, width = shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * width, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, num_classes)
    )


class _Doubled(torch.autograd.Function):
    """A function whose inside the tape cannot see; it has a forward derivative of its own."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone().mul_(2)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return 2 * slope

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        return 2 * tangent


class Untraceable(nn.Module):
    def __init__(self, num_classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.linear = nn.Linear(channels * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return _Doubled.apply(self.linear(x.flatten(1)))


untraceable = Untraceable
