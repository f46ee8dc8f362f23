"""The noise-adaptation layer of Goldberger and Ben-Reuven (ICLR 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOOR = 1e-8
"""Added to probabilities before their log, as in the authors' code."""


class NoiseLayer(nn.Module):
    """Probability of each observed label (column) given the true class (row): Q = softmax over columns.

    Q_ij = softmax_j(b_ij) is the simple form (their section 2, "simple noise model"), and
    Q_ij(x) = softmax_j(u_ij . h(x) + b_ij) the complex one (their Eq. 2). u starts at 0: the forms start equal.
    """

    def __init__(self, num_classes: int, num_features: int = 0) -> None:
        """Build for C classes; `num_features` d of h(x) make it complex, 0 simple."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes, num_classes))
        self.weight = nn.Parameter(torch.zeros(num_classes, num_classes, num_features)) if num_features else None

    def start_from(self, matrix: Tensor) -> None:
        """Make Q equal `matrix` [C, C], whose rows sum to one, up to 1e-8."""
        with torch.no_grad():
            self.bias.copy_((matrix + FLOOR).log())

    def forward(self, features: Tensor | None) -> Tensor:
        """log Q: [B, C, C] from features [B, d] (complex), [1, C, C] for all images (simple)."""
        if self.weight is None:
            return self.bias.log_softmax(1)[None]
        assert features is not None
        return (torch.einsum("bd,ijd->bij", features.flatten(1), self.weight) + self.bias).log_softmax(2)
