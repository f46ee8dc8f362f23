"""A weight net that also sees the observed class: V(L, y; theta), for biases that treat classes differently."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mwray.models.settings import parse_shape


class ClassWeightNet(nn.Module):
    """Hidden ReLU layers shared by all classes, then one linear and sigmoid output for each class.

    After CMW-Net (Shu et al., TPAMI 2023), whose code has one output for each of three groups of classes of similar
    size, found by k-means; here each class has its own, so that noise which differs by class can be weighed as well.
    "1-100-1" for 10 classes has 1,210 parameters.
    """

    def __init__(self, shape: str, num_classes: int) -> None:
        """Build from `shape` as the paper writes it; its last "1" is one output per class, of which one is used."""
        super().__init__()
        self.shape = shape
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        *hidden, _ = parse_shape(shape)
        for inputs, outputs in pairwise(hidden):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.Sequential(nn.Linear(hidden[-1], num_classes), nn.Sigmoid())

    def forward(self, losses: Tensor, classes: Tensor) -> Tensor:
        """Weights [N] in 0..1 of losses [N] of samples whose observed classes are int64 [N]."""
        return self.all_classes(losses).gather(1, classes.unsqueeze(1)).squeeze(1)

    def all_classes(self, losses: Tensor) -> Tensor:
        """Weights [N, C] of losses [N] under every class."""
        return self.heads(self.trunk(losses.unsqueeze(1)))
