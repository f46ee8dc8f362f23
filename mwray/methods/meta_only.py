"""Meta-only: plain training on the clean meta images alone (Shu et al. 2019, section 4.2: "evidently worse")."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, final

from torch import Tensor

from mwray.data.loader import Batch
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.settings import MetaOnlySettings
from mwray.methods.steps import clean_step


@final
class MetaOnly(Method):
    """As many steps as BaseModel takes, each on a meta batch: what the clean images are worth without the others.

    The paper gives no number and no schedule; here it is the experiment's. The training batch is only looked at, for
    the losses that are reported.
    """

    needs_meta = True

    def __init__(self, settings: MetaOnlySettings, setup: Setup) -> None:
        self.classifier = Classifier(setup)

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate."""
        self.classifier.start_epoch(epoch)

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Step along the gradient of the mean cross-entropy of the meta batch."""
        assert meta is not None
        return clean_step(self.classifier, batch, meta)

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
