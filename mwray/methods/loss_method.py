"""What the methods share that change the loss and nothing else: one network, one loss per sample."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mwray.data.loader import Batch
from mwray.methods.base import Step
from mwray.methods.one_network import OneNetwork


class LossMethod(OneNetwork):
    """Plain training along the mean of `objective`. Abstract: a method gives its loss and overrides nothing."""

    @abstractmethod
    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss [B] of each sample, from logits [B, C] and observed labels [B]; its mean is descended."""

    @abstractmethod
    def show(self, logits: Tensor, y: Tensor, objective: Tensor) -> Step:
        """What the step shows; all three are detached."""

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Step along the gradient of the mean objective of the batch."""
        logits = self.classifier.forward(batch.x)
        objective = self.objective(logits, batch.y)
        self.classifier.descend(objective.mean())
        return self.show(logits.detach(), batch.y, objective.detach())
