"""Bootstrapping: the network's own guess gets a share of the label (Reed et al., ICLR 2015 workshop)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Setup, Step
from mwray.methods.loss_method import LossMethod
from mwray.methods.losses import entropy, hard_guess
from mwray.methods.settings import ReedSettings

BETA = {"hard": 0.8, "soft": 0.95}
"""Reed et al., section 4.1."""


@final
class Reed(LossMethod):
    """Cross-entropy against beta * label + (1 - beta) * guess.

    "hard" (the paper's Eq. 7, Reed-Hard in Tables 2 and 3): the guess is the likeliest class, a constant; no gradient
    flows through it. "soft" (Eq. 6): the guess is the predicted distribution and the gradient does flow through it,
    since Reed et al. describe this loss as minimum-entropy regularisation. Held constant, a soft guess would add
    nothing: the gradient of -sum_k z_k log p_k at z = p is zero.
    """

    def __init__(self, settings: ReedSettings, setup: Setup) -> None:
        super().__init__(setup)
        self.form = settings.form
        self.beta = BETA[settings.form] if settings.beta is None else settings.beta

    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """The bootstrapping loss [B]."""
        guess = hard_guess(logits) if self.form == "hard" else entropy(logits)
        return self.beta * cross_entropy(logits, y) + (1 - self.beta) * guess

    def show(self, logits: Tensor, y: Tensor, objective: Tensor) -> Step:
        """The loss, and how often the guess is another class than the label."""
        return Step(logits, objective, None, {"method.disagreement": (logits.argmax(1) != y).float().mean()})
