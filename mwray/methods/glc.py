"""Gold loss correction (GLC; Hendrycks, Mazeika, Wilson and Gimpel, NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from mwray.config import ConfigError
from mwray.data.loader import Batch, Loader, at_once
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.forward_loss import corrected_losses, transition_findings
from mwray.methods.phases import Phases
from mwray.methods.settings import GLCSettings
from mwray.methods.steps import both_forward, plain_step, union_mean
from mwray.optim import rate_of

DEFAULT_SHARE = 0.5


@final
class GLC(Method):
    """Phase one: plain training on biased labels. Its mean prediction on the clean images of class i is row i of C_hat.

    Phase two: again from the first weights, on both sets: -log p_y for a clean ("gold") image, -log (C_hat^T p)_y for
    a biased ("silver") one (their Algorithm 1).

    Where we differ from their code: it shuffles both sets together, here each step has a batch of each, weighted to
    the same expectation (`union_mean`); their two phases are as long as a plain training each, here they share the
    run's epochs. C_hat's reading is theirs: evaluation mode, no augmentation.

    Raises:
        ConfigError: a class without a clean image, or a phase without an epoch.
    """

    needs_meta = True

    def __init__(self, settings: GLCSettings, setup: Setup) -> None:
        _check_every_class(setup)
        self.setup = setup
        self.phases = Phases.of(settings.first_epochs, DEFAULT_SHARE, setup.epochs)
        self.classifier = Classifier(setup)
        self.corruption: Tensor | None = None

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate; at the change of phase, estimate the corruption and start again."""
        if epoch == self.phases.first:
            self.corruption = estimate_corruption(self.classifier, self.setup)
            self.classifier = Classifier(self.setup)
        self.classifier.start_epoch(self.phases.schedule_epoch(epoch))

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """BaseModel's step, or one on gold and silver images together."""
        assert meta is not None
        if self.corruption is None:
            return plain_step(self.classifier, batch)
        silver, gold = both_forward(self.classifier, batch, meta)
        losses = corrected_losses(silver, batch.y, self.corruption)
        gold_losses = cross_entropy(gold, meta.y)
        self.classifier.descend(union_mean(self.setup, losses, gold_losses))
        return Step(silver.detach(), losses.detach(), None, {"meta_loss": gold_losses.detach().mean()})

    def capture_key(self) -> Hashable:
        """One step for each phase."""
        return self.corruption is None

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        self.classifier.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C] of the true class."""
        return self.classifier.predict(x)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Phase (1 or 2), the learning rate that it had, and in the second the corruption beside the true one."""
        rate = rate_of(self.classifier.optimizer)
        if self.corruption is None:
            return {"phase": 1.0, "lr": rate}, {}
        numbers, arrays = transition_findings(self.corruption, self.setup.splits)
        return {"phase": 2.0, "lr": rate, **numbers}, arrays

    def state(self) -> dict[str, Any]:
        """Network, optimiser and corruption matrix (None in the first phase)."""
        return {"classifier": self.classifier.state(), "corruption": self.corruption}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state["classifier"])
        self.corruption = state["corruption"]


def estimate_corruption(classifier: Classifier, setup: Setup) -> Tensor:
    """C_hat [C, C]: row i is the mean of p(observed | x) over the clean images of class i."""
    device, num_classes = setup.worker.device, setup.splits.num_classes
    loader = Loader(setup.splits.meta, setup.splits, device, augment=False)
    sums = torch.zeros(num_classes, num_classes, device=device)
    for batch in loader.in_order(at_once(setup.splits.shape)):
        sums += F.one_hot(batch.y, num_classes).float().T @ classifier.predict(batch.x).softmax(1)
    # Every worker has computed the same from the same network; the mean makes it the same to the last bit.
    return setup.worker.average([sums / sums.sum(1, keepdim=True)])[0]


def _check_every_class(setup: Setup) -> None:
    splits = setup.splits
    counts = torch.bincount(splits.meta.observed, minlength=splits.num_classes)
    if int(counts.min()) == 0:
        raise ConfigError(
            f"data.num_meta: GLC needs a clean sample of every class, and {len(splits.meta)} leave class "
            f"{splits.class_names[int(counts.argmin())]!r} without; {splits.num_classes} or more would do"
        )
