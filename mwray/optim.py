"""The classifier's optimiser and its schedule: one `learning_rate(epoch)` feeds the real and the virtual step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt

from mwray.config import config

if TYPE_CHECKING:  # settings are checked before anything heavy loads
    import torch
    from torch import nn


@config
class Optimizer:
    """SGD with a step schedule by epoch (paper, section 4: 0.1, momentum 0.9, weight decay 5e-4, divided by 10)."""

    lr: Annotated[float, Gt(0)] = 0.1
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    nesterov: bool = False
    """Released code of the paper switches it on; the paper says "momentum 0.9" only."""
    milestones: tuple[Annotated[int, Gt(0)], ...] = ()
    """Epochs (counted from 0) from whose start on the rate is multiplied by `factor` once more."""
    factor: Annotated[float, Gt(0)] = 0.1

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"milestones must rise, and {list(self.milestones)} do not")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")

    def learning_rate(self, epoch: int) -> float:
        """Learning rate during `epoch` (counted from 0)."""
        return float(self.lr * self.factor ** sum(epoch >= milestone for milestone in self.milestones))

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """Return a fresh optimiser over `parameters`: weight decay on all of them, as in the paper's code."""
        from torch.optim import SGD

        return SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
