"""Transition matrices as methods estimate them: rows are true classes, columns observed ones, rows sum to one."""

from __future__ import annotations

import torch
from torch import Tensor

from mwray.data.splits import Subset


def empirical(train: Subset, num_classes: int) -> Tensor | None:
    """The transition [C, C] that the training labels really show: counts of observed given true class, float64.

    For judging an estimate only: no method may learn from it. A class without images keeps its label. None where
    nobody knows the true classes.
    """
    if train.true is None:
        return None
    cells = torch.bincount(train.true * num_classes + train.observed, minlength=num_classes * num_classes)
    return normalised(cells.double().unflatten(0, (num_classes, num_classes)))


def normalised(counts: Tensor) -> Tensor:
    """Rows of `counts` [C, C] divided by their sums; a row of zeros becomes that of the identity."""
    sums = counts.sum(1, keepdim=True)
    identity = torch.eye(len(counts), dtype=counts.dtype, device=counts.device)
    return torch.where(sums > 0, counts / sums.where(sums > 0, torch.ones_like(sums)), identity)


def error(estimated: Tensor, true: Tensor) -> float:
    """Mean over classes of the total variation between rows: 0 is exact, 1 is disjoint."""
    difference = estimated.double().cpu() - true.double().cpu()
    return float(difference.abs().sum(1).mean() / 2)
