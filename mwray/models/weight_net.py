"""The weight net V(L; theta): a sample's loss in, its weight out (Shu et al., NeurIPS 2019, section 3.1)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mwray.models.settings import parse_shape


class WeightNet(nn.Module):
    """Perceptron with ReLU hidden layers and a sigmoid output, initialised as `nn.Linear` is.

    "1-100-1", the paper's, has 301 parameters.
    """

    def __init__(self, shape: str = "1-100-1") -> None:
        """Build from `shape` as the paper writes it (Table 5); see `mwray.models.settings.parse_shape`."""
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(parse_shape(shape)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        layers[-1] = nn.Sigmoid()
        self.layers = nn.Sequential(*layers)

    def forward(self, losses: Tensor) -> Tensor:
        """Weights [N] in 0..1 of losses [N]."""
        return self.layers(losses.unsqueeze(1)).squeeze(1)
