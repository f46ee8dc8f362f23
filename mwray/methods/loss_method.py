"""What the methods share that change the loss and nothing else: one network, one loss per sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any

from torch import Tensor

from mwray.data.loader import Batch
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier


class LossMethod(Method):
    """Plain training along the mean of `objective`. Abstract: a method gives its loss and overrides nothing."""

    def __init__(self, setup: Setup) -> None:
        self.classifier = Classifier(setup)

    @abstractmethod
    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss [B] of each sample, from logits [B, C] and observed labels [B]; its mean is descended."""

    @abstractmethod
    def show(self, logits: Tensor, y: Tensor, objective: Tensor) -> Step:
        """What the step shows; all three are detached."""

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate."""
        self.classifier.start_epoch(epoch)

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Step along the gradient of the mean objective of the batch."""
        logits = self.classifier.forward(batch.x)
        objective = self.objective(logits, batch.y)
        self.classifier.descend(objective.mean())
        return self.show(logits.detach(), batch.y, objective.detach())

    def capture_key(self) -> Hashable:
        """Always the same step."""
        return "step"

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        self.classifier.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier.predict(x)

    def state(self) -> dict[str, Any]:
        """Network and optimiser."""
        return self.classifier.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state)
