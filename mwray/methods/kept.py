"""How well a method that leaves samples out chooses: counted over an epoch, against the true labels."""

from __future__ import annotations

import torch
from torch import Tensor

from mwray.methods.base import Setup
from mwray.methods.exchange import total


class Kept:
    """Share kept, and how many of those are rightly labelled. For the reader only: no method learns from it."""

    def __init__(self, setup: Setup) -> None:
        train, self._worker = setup.splits.train, setup.worker
        clean = None if train.true is None else train.observed == train.true
        self._clean = None if clean is None else clean.to(setup.worker.device)
        self._counts = torch.zeros(3, device=setup.worker.device)  # seen, kept, kept and clean; exact below 2^24

    def reset(self) -> None:
        """Start an epoch."""
        self._counts.zero_()

    def add(self, index: Tensor, kept: Tensor) -> None:
        """Take in one step: positions [B] in the training set, and which of them were kept, bool [B]."""
        clean = kept if self._clean is None else kept & self._clean[index]
        self._counts += torch.stack([torch.ones_like(kept).sum(), kept.sum(), clean.sum()])

    def read(self) -> dict[str, float]:
        """ "share_kept" and "precision" (clean among kept; absent where none was kept or nobody knows), over all
        workers."""
        seen, kept, clean = total(self._counts, self._worker).tolist()
        if kept == 0:
            return {"share_kept": 0.0}
        return {"share_kept": kept / seen, **({} if self._clean is None else {"precision": clean / kept})}
