"""BaseModel: cross-entropy on the biased labels, every sample counting the same (the paper's first row)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, final

from torch import Tensor

from mwray.data.loader import Batch
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.settings import BaseModelSettings


@final
class BaseModel(Method):
    """Plain training. It never looks at the meta images, and is not given them: they stay held out, as for all."""

    def __init__(self, settings: BaseModelSettings, setup: Setup) -> None:
        self.classifier = Classifier(setup)

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate."""
        self.classifier.start_epoch(epoch)

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Step along the gradient of the mean cross-entropy of the batch."""
        logits = self.classifier.forward(batch.x)
        losses = cross_entropy(logits, batch.y)
        self.classifier.descend(losses.mean())
        return Step(logits.detach(), losses.detach())

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
