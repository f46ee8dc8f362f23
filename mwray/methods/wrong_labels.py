"""Clean images that are mislabelled on purpose, so that something can learn what wrong labels look like."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mwray.data.splits import Splits
from mwray.seeding import rng


def wrong_labels(splits: Splits, share: float, kind: Literal["same", "uniform"], seed: int) -> Tensor:
    """Labels int64 [M] of the meta set, of which the given share, rounded, are wrong: always at least one, never all.

    "same" draws a wrong label of class i from the entries of row i of the transition that the training labels were
    drawn from, without the diagonal; where that row has no wrong entry, and with "uniform", from all other classes.
    """
    true, num_classes = splits.meta.observed, splits.num_classes
    generator = rng(seed, "wrong labels")
    count = min(max(round(share * len(true)), 1), len(true) - 1)
    chosen = torch.randperm(len(true), generator=generator)[:count]
    others = 1 - torch.eye(num_classes, dtype=torch.float64)
    if kind == "same":
        known = splits.transition.double() * others
        others = torch.where(known.sum(1, keepdim=True) > 0, known, others)
    labels = true.clone()
    labels[chosen] = torch.multinomial(others[true[chosen]], 1, generator=generator)[:, 0]
    return labels
