"""The weight net V(L; theta): a sample's loss in, its weight out (Shu et al., NeurIPS 2019, section 3.1)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mwray.config import ConfigError


class WeightNet(nn.Module):
    """Perceptron with ReLU hidden layers and a sigmoid output, initialised as `nn.Linear` is.

    "1-100-1", the paper's, has 301 parameters.
    """

    def __init__(self, shape: str = "1-100-1") -> None:
        """Build from `shape` as the paper writes it (Table 5); see `parse_shape`."""
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


def parse_shape(text: str) -> tuple[int, ...]:
    """Widths of the layers: "1-100-1" is (1, 100, 1).

    Raises:
        ConfigError: not whole positive numbers joined by "-", fewer than three of them, or ends other than 1.
    """
    parts = text.split("-")
    numeric = all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts)
    if not numeric or len(parts) < 3 or int(parts[0]) != 1 or int(parts[-1]) != 1:
        raise ConfigError(
            f"{text!r} is not the shape of a weight net: write the widths of its layers joined by '-', first and last "
            "1 (a loss in, a weight out), for example '1-100-1' or '1-10-10-1'"
        )
    return tuple(int(part) for part in parts)
