"""Fine-tuning: BaseModel, then plain training on the clean meta images (Shu et al. 2019, section 4.1)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, final

from torch import Tensor

from mwray.data.loader import Batch
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.phases import Phases
from mwray.methods.settings import FineTuningSettings
from mwray.methods.steps import clean_step, plain_step
from mwray.optim import rate_of, set_rate

DEFAULT_SHARE = 0.9
"""Of the run that BaseModel gets: L2RW's code fine-tunes for 5,000 steps after 60,000."""


@final
class FineTuning(Method):
    """Two phases of one network and one optimiser; the second has meta batches and a small constant learning rate.

    The paper says no more than "fine-tuning the result of BaseModel on the meta-data". The first phase runs through
    the whole schedule in its epochs, so that what is fine-tuned is a finished BaseModel.

    Raises:
        ConfigError: the first phase is as long as the run or longer.
    """

    needs_meta = True

    def __init__(self, settings: FineTuningSettings, setup: Setup) -> None:
        self.lr = settings.lr
        self.phases = Phases.of(settings.first_epochs, DEFAULT_SHARE, setup.epochs)
        self.classifier = Classifier(setup)
        self.tuning = False

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate of the phase."""
        self.tuning = self.phases.second(epoch)
        self.classifier.start_epoch(self.phases.schedule_epoch(epoch))
        if self.tuning:
            set_rate(self.classifier.optimizer, self.lr)

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """BaseModel's step, or one on the meta batch."""
        assert meta is not None
        return clean_step(self.classifier, batch, meta) if self.tuning else plain_step(self.classifier, batch)

    def capture_key(self) -> Hashable:
        """One step for each phase."""
        return self.tuning

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        self.classifier.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier.predict(x)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Phase (1 or 2) and the learning rate that it really had."""
        return {"phase": 1.0 + self.tuning, "lr": rate_of(self.classifier.optimizer)}, {}

    def state(self) -> dict[str, Any]:
        """Network and optimiser."""
        return self.classifier.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state)
