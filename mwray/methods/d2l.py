"""D2L: when the features' dimension starts to grow, trust the labels less (Ma et al., ICML 2018)."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.data.loader import Batch
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.exchange import total
from mwray.methods.head import features_of, last_linear
from mwray.methods.images import training_batches
from mwray.methods.lid import local_intrinsic_dimension
from mwray.methods.losses import hard_guess
from mwray.methods.settings import D2LSettings
from mwray.seeding import rng


@final
class D2L(Method):
    """Cross-entropy until the turning point, then on alpha * label + (1 - alpha) * likeliest class.

    alpha = exp(-(t / T) LID_t / min_s LID_s) (Ma et al., Eq. 5; the minimum as in their code up to and with t). The
    turning point is the first epoch whose dimension exceeds the mean of the window before it by two standard
    deviations; the network then goes back to where it stood an epoch earlier.

    The dimension is that of the input of the last linear layer, in evaluation mode, over some training images drawn
    anew each epoch. Where we differ: the momentum goes back with the weights (the authors' code keeps the later one),
    and before the turning point the loss is plain cross-entropy, as in the paper (their repository has a symmetric one
    since 2019). A run without a turning point is plain training.

    Raises:
        ConfigError: too few training images for so many neighbours, or a network without a last linear layer.
    """

    def __init__(self, settings: D2LSettings, setup: Setup) -> None:
        self.settings, self.setup = settings, setup
        self.classifier = Classifier(setup)
        self.last = last_linear(self.classifier.network, setup.splits.num_classes)
        self.sampled = min(settings.lid_samples, len(setup.splits.train))
        if min(self.sampled, settings.lid_batch) <= settings.neighbours:
            raise ConfigError(
                f"method.neighbours: {settings.neighbours} neighbours cannot be found among {self.sampled} samples; "
                f"at most {self.sampled - 1} would do, or raise data.num_train or method.lid_samples"
            )
        self.init_epochs = setup.epochs // 10 if settings.init_epochs is None else settings.init_epochs
        self.lids: list[float] = []
        self.turning_epoch = 0  # counted from 1, as records count; 0: not yet
        self.before: dict[str, Any] | None = None
        self.alpha = 1.0
        self.shares = torch.tensor([1.0, 0.0], device=setup.worker.device)  # alpha and 1 - alpha

    def epoch_start(self, epoch: int) -> None:
        """Measure the dimension; look for the turning point; set how far labels are trusted."""
        lid = self._dimension(epoch)
        if not math.isfinite(lid):  # collapsed features: the authors' code repeats the last value too
            lid = self.lids[-1] if self.lids else 1.0
        self.lids.append(lid)
        if self.turning_epoch == 0 and turns(self.lids, self.init_epochs, self.settings.window):
            assert self.before is not None
            self.classifier.restore(self.before)
            self.turning_epoch = epoch + 1
        self.before = copy.deepcopy(self.classifier.state()) if self.turning_epoch == 0 else None
        self.set_trust(trust(self.lids, epoch, self.setup.epochs) if self.turning_epoch > 0 else 1.0)
        self.classifier.start_epoch(epoch)  # last: going back brings the old rate with it

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Step on the blended labels; the guess is a constant."""
        logits = self.classifier.forward(batch.x)
        losses = cross_entropy(logits, batch.y)
        blended = losses if self.alpha == 1 else self.shares[0] * losses + self.shares[1] * hard_guess(logits)
        self.classifier.descend(blended.mean())
        return Step(logits.detach(), losses.detach())

    def set_trust(self, alpha: float) -> None:
        """Let the loss be alpha * label + (1 - alpha) * guess from now on."""
        self.alpha = alpha
        self.shares.copy_(torch.tensor([alpha, 1 - alpha]))

    def capture_key(self) -> Hashable:
        """One step before the turning point, one after it: how far labels are trusted is a tensor."""
        return self.alpha == 1

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        self.classifier.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier.predict(x)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The dimension, its curve over epochs, trust in the labels, and the turning epoch (0 before it)."""
        numbers = {"lid": self.lids[-1], "alpha": self.alpha, "turning_epoch": float(self.turning_epoch)}
        return numbers, {"lid_curve": torch.tensor(self.lids)}

    def state(self) -> dict[str, Any]:
        """Network and optimiser, now and an epoch ago, and the dimensions so far."""
        return {
            "classifier": self.classifier.state(),
            "before": self.before,
            "lids": list(self.lids),
            "turning_epoch": self.turning_epoch,
        }

    def moving(self) -> Any:
        """The network: what is kept of an epoch ago takes no part."""
        return self.classifier.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state["classifier"])
        self.before = state["before"]
        self.lids = list(state["lids"])
        self.turning_epoch = int(state["turning_epoch"])

    @torch.no_grad()
    def _dimension(self, epoch: int) -> float:
        """Mean dimension over batches of training images; each worker measures its part of the batches."""
        worker, size = self.setup.worker, min(self.settings.lid_batch, self.sampled)
        order = torch.randperm(len(self.setup.splits.train), generator=rng(self.setup.seed, "lid", epoch))
        parts = order[: self.sampled // size * size].split(size)
        found = torch.zeros(2, dtype=torch.float64, device=worker.device)  # sum and number
        for part in parts[worker.rank :: worker.size]:
            (batch,) = training_batches(self.setup, part, size)
            with features_of(self.last) as features:
                self.classifier.predict(batch.x)
            lids = local_intrinsic_dimension(features[0].flatten(1).float(), self.settings.neighbours)
            finite = lids.isfinite()
            found += torch.stack([lids.where(finite, 0.0).sum(), finite.sum()]).double()
        summed, number = total(found, worker).tolist()
        return summed / number if number > 0 else math.nan


def turns(lids: list[float], init_epochs: int, window: int) -> bool:
    """Whether the newest of `lids` is the turning point: over mean + 2 sd of the `window` before it (Ma et al., 3.2).

    Looked for once there are more than init_epochs + window values, as in the authors' code.
    """
    if len(lids) <= init_epochs + window:
        return False
    past = np.array(lids[-window - 1 : -1])
    return bool(lids[-1] - past.mean() > 2 * past.std())


def trust(lids: list[float], epoch: int, epochs: int) -> float:
    """Share alpha of the label in `epoch` (counted from 0) of `epochs` (Ma et al., Eq. 5)."""
    return math.exp(-(epoch / epochs) * lids[-1] / min(lids))
