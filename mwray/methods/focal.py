"""Focal loss: samples that are already right count less (Lin et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch import Tensor

from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Setup, Step
from mwray.methods.loss_method import LossMethod
from mwray.methods.losses import focal_weight, prepare_for_sigmoid, sigmoid_focal, softmax_focal
from mwray.methods.settings import FocalSettings


@final
class Focal(LossMethod):
    """Cross-entropy times (1 - p_y)^gamma (Lin et al., Eq. 4); hard samples, wrong labels among them, count more.

    The paper of Meta-Weight-Net names no gamma and no form. Table 1's row equals Cui et al.'s for the sigmoid form
    with gamma 1; the softmax form with gamma 2 is the default here.
    """

    def __init__(self, settings: FocalSettings, setup: Setup) -> None:
        super().__init__(setup)
        self.settings = settings
        if settings.form == "sigmoid":
            prepare_for_sigmoid(self.classifier, setup.splits.num_classes)

    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """The focal loss [B]."""
        form = softmax_focal if self.settings.form == "softmax" else sigmoid_focal
        return form(logits, y, self.settings.gamma)

    def show(self, logits: Tensor, y: Tensor, objective: Tensor) -> Step:
        """Cross-entropy and its factor; the sigmoid form, which has no single factor, shows its own loss."""
        if self.settings.form == "sigmoid":
            return Step(logits, objective)
        losses = cross_entropy(logits, y)
        return Step(logits, losses, focal_weight(losses, self.settings.gamma))

    def curve(self) -> Callable[[Tensor], Tensor] | None:
        """The factor as a function of the loss."""
        if self.settings.form == "sigmoid":
            return None
        return lambda losses: focal_weight(losses, self.settings.gamma)
