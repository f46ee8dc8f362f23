"""What the methods share that train one network by the same kind of step throughout, and keep nothing beside it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

from mwray.methods.base import Method, Setup
from mwray.methods.classifier import Classifier


class OneNetwork(Method):
    """Everything but `update`. Abstract: a method gives that and overrides nothing."""

    def __init__(self, setup: Setup) -> None:
        self.classifier = Classifier(setup)

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate."""
        self.classifier.start_epoch(epoch)

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
