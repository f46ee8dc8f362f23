"""Batches: images stay uint8 on the training device; crop, flip and normalisation run there, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One mini-batch on the training device."""

    x: Tensor  # float32 [B, C, H, W], augmented and normalised
    y: Tensor  # int64 [B], observed labels
    index: Tensor  # int64 [B], positions in the training (or meta) set: 0 .. N-1
