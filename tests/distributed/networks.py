"""Networks whose batch norm does in one process what W workers do: each share of a batch by its own statistics."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]


class ShardedBatchNorm(nn.BatchNorm2d):
    """Batch norm of `shards` equal parts of a batch, each by itself; running statistics are the mean of the parts'."""

    shards = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        means = [self.running_mean.clone() for _ in range(self.shards)]
        variances = [self.running_var.clone() for _ in range(self.shards)]
        parts = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
            for part, mean, variance in zip(x.chunk(self.shards), means, variances, strict=True)
        ]
        self.running_mean.copy_(torch.stack(means).mean(0))
        self.running_var.copy_(torch.stack(variances).mean(0))
        self.num_batches_tracked += 1
        return torch.cat(parts)


def smooth(num_classes: int, shape: Shape) -> nn.Module:
    """Two convolutions with batch norm and tanh.

    With ReLU, two ways of rounding now and then put one activation on different sides of zero, and from there on the
    two trainings differ by more than rounding.
    """
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Tanh()),
        *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Tanh()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes)),
    )


def sharded(shards: int, num_classes: int, shape: Shape) -> nn.Module:
    """The same with such batch norms, at the same weights."""
    network = smooth(num_classes, shape)
    for place, layer in enumerate(network):
        if isinstance(layer, nn.BatchNorm2d):
            network[place] = ShardedBatchNorm(layer.num_features)
            network[place].shards = shards
    return network


sharded1, sharded2, sharded4 = partial(sharded, 1), partial(sharded, 2), partial(sharded, 4)
