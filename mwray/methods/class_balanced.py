"""Class-Balanced loss: classes weighed by the inverse of their effective number of samples (Cui et al., CVPR 2019)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Setup, Step
from mwray.methods.loss_method import LossMethod
from mwray.methods.losses import prepare_for_sigmoid, sigmoid_focal
from mwray.methods.settings import ClassBalancedSettings


@final
class ClassBalanced(LossMethod):
    """A softmax, sigmoid or focal loss times the weight of the sample's observed class.

    The mean over the batch is not divided by the weights in it, as in the authors' code; PyTorch's weighted
    cross-entropy, used by later ports, does divide. Table 1's row is the best of several variants in each column.

    Raises:
        ConfigError: a class has no training image, so that its weight would be infinite.
    """

    def __init__(self, settings: ClassBalancedSettings, setup: Setup) -> None:
        super().__init__(setup)
        self.settings = settings
        splits = setup.splits
        counts = torch.bincount(splits.train.observed, minlength=splits.num_classes)
        if int(counts.min()) == 0:
            absent = splits.class_names[int(counts.argmin())]
            raise ConfigError(
                f"method.name: 'class-balanced' needs training samples of every class, and none is labelled "
                f"{absent!r}; lower data.bias.imbalance or data.bias.rate, or raise data.num_train"
            )
        self.class_weights = class_weights(counts, settings.beta).float().to(setup.worker.device)
        if settings.loss != "softmax":
            prepare_for_sigmoid(self.classifier, splits.num_classes)

    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """Class weight times loss, [B] (Cui et al., Eq. 10)."""
        return self.class_weights[y] * self._unweighted(logits, y)

    def show(self, logits: Tensor, y: Tensor, objective: Tensor) -> Step:
        """The loss without its weight, and the weight."""
        weights = self.class_weights[y]
        return Step(logits, objective / weights, weights)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The weight of each class [C], and the extremes."""
        low, high = self.class_weights.aminmax()
        return {"weight_lowest": float(low), "weight_highest": float(high)}, {"class_weights": self.class_weights}

    def _unweighted(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.settings.loss == "softmax":
            return cross_entropy(logits, y)
        return sigmoid_focal(logits, y, self.settings.gamma if self.settings.loss == "focal" else 0.0)


def class_weights(counts: Tensor, beta: float) -> Tensor:
    """Weights [C] in float64, proportional to (1 - beta) / (1 - beta^n), that sum to C (Cui et al., Eq. 2 and 10).

    `counts` [C] holds n, the training images of each class, all above 0.
    """
    effective = -torch.expm1(counts.double() * torch.tensor(beta, dtype=torch.float64).log()) / (1 - beta)
    return len(counts) / effective / (1 / effective).sum()
