"""When to stop a first phase: by the loss on some biased images that it is not trained on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from mwray.data.loader import Batch, at_once
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Setup
from mwray.methods.classifier import Classifier
from mwray.methods.exchange import total
from mwray.methods.images import training_batches
from mwray.seeding import rng

SHARE = 0.1


class HeldOut:
    """A tenth of the training images, chosen at random, with their observed labels: no clean image is needed.

    Its loss falls while the network learns what labels have in common and rises once it learns them by heart. The
    network of the lowest loss is kept.
    """

    def __init__(self, setup: Setup, patience: int) -> None:
        self.setup, self.patience = setup, patience
        size = len(setup.splits.train)
        order = torch.randperm(size, generator=rng(setup.seed, "held out"))
        self.index = order[: max(round(SHARE * size), 1)].sort().values
        self._trained = torch.ones(size, device=setup.worker.device)
        self._trained[self.index.to(setup.worker.device)] = 0
        self.losses: list[float] = []
        self.best: dict[str, Any] | None = None

    def mean_of_others(self, losses: Tensor, batch: Batch) -> Tensor:
        """Mean [] of the losses [B] of those samples of a batch that are not held out, over all workers' parts."""
        trained = self._trained[batch.index]
        worker = self.setup.worker
        return (trained * losses).sum() * worker.size / total(trained.sum(), worker).clamp_min(1)

    def look(self, classifier: Classifier) -> None:
        """Measure the loss after an epoch, and keep the network if it is the lowest so far."""
        worker = self.setup.worker
        summed = torch.zeros((), dtype=torch.float64, device=worker.device)
        mine = self.index[worker.rank :: worker.size]
        for batch in training_batches(self.setup, mine, at_once(self.setup.splits.shape)):
            summed += cross_entropy(classifier.predict(batch.x), batch.y).double().sum()
        self.losses.append(float(total(summed, worker)) / len(self.index))
        if self.losses[-1] == min(self.losses):
            self.best = copy.deepcopy(classifier.state())

    @property
    def over(self) -> bool:
        """Whether the lowest loss is `patience` epochs old."""
        return bool(self.losses) and len(self.losses) - 1 - self.losses.index(min(self.losses)) >= self.patience
