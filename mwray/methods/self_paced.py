"""Self-paced learning: train on what is easy now, and let more in later (Kumar et al., NeurIPS 2010)."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, final

import torch
from torch import Tensor

from mwray.data.loader import Batch
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.exchange import gather
from mwray.methods.kept import Kept
from mwray.methods.settings import SelfPacedSettings


@final
class SelfPaced(Method):
    """Weights v_i = 1[L_i < lambda] (Kumar et al., Eq. 4), or max(0, 1 - L_i / lambda) (the linear form).

    Kumar et al. raise lambda round by round. Here, as in the self-paced baseline of MentorNet's code, lambda follows
    a percentile of the batch's losses by a moving average, so it fits any scale of the loss; the percentile itself
    may rise over epochs. The loss is the sum of v_i L_i over the whole batch size, kept or not.

    The average starts at the first batch's percentile (that code starts it at 0, which keeps next to nothing in the
    first steps). On several workers the percentile is that of the whole batch.
    """

    def __init__(self, settings: SelfPacedSettings, setup: Setup) -> None:
        self.settings, self.setup = settings, setup
        self.classifier = Classifier(setup)
        self.threshold = torch.tensor(torch.nan, device=setup.worker.device)
        self.percentile = settings.percentile
        self.burn_in = max(setup.epochs // 20, 1) if settings.burn_in is None else settings.burn_in
        self.burning_in = False
        self.kept = Kept(setup)

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate and the pace."""
        self.classifier.start_epoch(epoch)
        self.percentile = pace(self.settings, epoch, self.setup.epochs)
        self.burning_in = epoch < self.burn_in
        self.kept.reset()

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Move the threshold, then step on what lies below it."""
        logits = self.classifier.forward(batch.x)
        losses = cross_entropy(logits, batch.y)
        self._follow(losses.detach())
        weights = self._weights(losses.detach())
        self.classifier.descend((weights * losses).mean())
        self.kept.add(batch.index, weights > 0)
        return Step(logits.detach(), losses.detach(), weights, {"method.threshold": self.threshold.clone()})

    def capture_key(self) -> Hashable:
        """The percentile is part of the computation, and changes between epochs at most."""
        return self.percentile, self.burning_in

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        self.classifier.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier.predict(x)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Share kept, their precision, and the percentile of this epoch."""
        return {"percentile": self.percentile, **self.kept.read()}, {}

    def state(self) -> dict[str, Any]:
        """Network, optimiser and threshold."""
        return {"classifier": self.classifier.state(), "threshold": self.threshold}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state["classifier"])
        self.threshold.copy_(state["threshold"])

    def _follow(self, losses: Tensor) -> None:
        fresh = gather(losses, self.setup.worker).quantile(self.percentile)
        averaged = self.settings.decay * self.threshold + (1 - self.settings.decay) * fresh
        self.threshold.copy_(torch.where(self.threshold.isnan(), fresh, averaged))

    def _weights(self, losses: Tensor) -> Tensor:
        """v [B] of losses [B]."""
        if self.burning_in:
            return torch.ones_like(losses)
        if self.settings.form == "linear":
            # A threshold of 0 (all losses 0) would give 0 / 0.
            return (1 - losses / self.threshold.clamp_min(torch.finfo(losses.dtype).tiny)).clamp_min(0)
        if self.percentile == 1:  # all samples have entered: an average of maxima would leave some out again
            return torch.ones_like(losses)
        return (losses < self.threshold).to(losses.dtype)


def pace(settings: SelfPacedSettings, epoch: int, epochs: int) -> float:
    """The percentile during `epoch` (counted from 0) of `epochs`: constant, or linear up to the end of the ramp."""
    if settings.last_percentile is None:
        return settings.percentile
    length = settings.ramp_epochs or epochs
    done = min(epoch / max(length - 1, 1), 1.0)
    percentile = settings.percentile + done * (settings.last_percentile - settings.percentile)
    return settings.last_percentile if math.isclose(done, 1.0) else percentile
