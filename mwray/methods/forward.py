"""Forward loss correction (Patrini, Rozza, Menon, Nock and Qu, CVPR 2017)."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, final

import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.data.loader import Batch, at_once
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.forward_loss import corrected_losses, transition_findings
from mwray.methods.images import training_batches
from mwray.methods.phases import Phases
from mwray.methods.settings import ForwardSettings
from mwray.methods.steps import plain_step
from mwray.optim import rate_of

DEFAULT_SHARE = 0.5


@final
class Forward(Method):
    """Training on -log (T^T p)_y (their Theorem 2), T the probability of each observed class given the true one.

    With matrix="estimated", T is read from a first phase of plain training (their Theorem 3): row i
    is the prediction for the training image that is most surely of class i, once the surest few per cent are dropped
    as outliers. Training then starts again from the first weights. No clean image is used.

    Where we differ from their code: its two trainings are of full length each, here they share the run's epochs.

    Raises:
        ConfigError: a given matrix of another size than the number of classes, a true one that nobody knows, or a
            phase without an epoch.
    """

    def __init__(self, settings: ForwardSettings, setup: Setup) -> None:
        self.setup = setup
        self.percentile = settings.percentile
        self.classifier = Classifier(setup)
        self.phases = None
        self.transition = _known_transition(settings, setup)
        if self.transition is None:
            self.phases = Phases.of(settings.first_epochs, DEFAULT_SHARE, setup.epochs)

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate; at the change of phase, estimate the transition and start again."""
        if self.phases is None:
            self.classifier.start_epoch(epoch)
            return
        if epoch == self.phases.first:
            self.transition = self._estimate()
            self.classifier = Classifier(self.setup)
        self.classifier.start_epoch(self.phases.schedule_epoch(epoch))

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """BaseModel's step, or one on the corrected loss."""
        if self.transition is None:
            return plain_step(self.classifier, batch)
        logits = self.classifier.forward(batch.x)
        losses = corrected_losses(logits, batch.y, self.transition)
        self.classifier.descend(losses.mean())
        return Step(logits.detach(), losses.detach())

    def capture_key(self) -> Hashable:
        """One step for each phase."""
        return self.transition is None

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        self.classifier.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C] of the true class."""
        return self.classifier.predict(x)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Phase (1 or 2), the learning rate that it had, and the transition beside the true one."""
        rate = rate_of(self.classifier.optimizer)
        if self.transition is None:
            return {"phase": 1.0, "lr": rate}, {}
        numbers, arrays = transition_findings(self.transition, self.setup.splits)
        return {"phase": 2.0, "lr": rate, **numbers}, arrays

    def state(self) -> dict[str, Any]:
        """Network, optimiser and transition (None in the first phase)."""
        return {"classifier": self.classifier.state(), "transition": self.transition}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state["classifier"])
        self.transition = state["transition"]

    def _estimate(self) -> Tensor:
        index = torch.arange(len(self.setup.splits.train))
        batches = training_batches(self.setup, index, at_once(self.setup.splits.shape))
        probabilities = torch.cat([self.classifier.predict(batch.x).softmax(1) for batch in batches])
        # Every worker has computed the same from the same network; the mean makes it the same to the last bit.
        return self.setup.worker.average([anchor_transition(probabilities, self.percentile)])[0]


def anchor_transition(probabilities: Tensor, percentile: float) -> Tensor:
    """T [C, C] from predictions p(observed | x) [N, C]: row i is the prediction for class i's anchor.

    The anchor of class i is the image with the largest p(i | x) below the given percentile of it, as in the authors'
    code (noise.py, percentile 97 with "higher" interpolation); with percentile 1, the image with the largest of all.
    """
    last = len(probabilities) - 1
    rank = last if percentile == 1 else max(math.ceil(percentile * last) - 1, 0)
    anchors = probabilities.argsort(0)[rank]  # [C]
    rows = probabilities[anchors]
    return rows / rows.sum(1, keepdim=True)


def _known_transition(settings: ForwardSettings, setup: Setup) -> Tensor | None:
    if settings.matrix == "true":
        if setup.splits.train.true is None:
            raise ConfigError(
                "method.matrix: 'true' is the transition that labels were drawn from, which nobody knows of this data "
                "set; 'estimated' would do, or 'given'"
            )
        return setup.splits.transition.float().to(setup.worker.device)
    if settings.transition is None:
        return None
    if len(settings.transition) != setup.splits.num_classes:
        raise ConfigError(
            f"method.transition: {len(settings.transition)} rows were given for {setup.splits.num_classes} classes; "
            "one row of probabilities per true class is needed"
        )
    return torch.tensor(settings.transition, device=setup.worker.device)
