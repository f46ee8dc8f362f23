"""What one epoch of training showed, gathered on the device without waiting for it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mwray.data.loader import Batch
from mwray.data.splits import Subset
from mwray.methods.base import Step
from mwray.train.evaluate import weight_auc
from mwray.worker import Worker


class Tracker:
    """Sums and per-sample values of an epoch; one transfer to the host at its end.

    Per-sample losses and weights are those seen in this epoch, at the moment each sample was trained on. What
    compares with true labels is left out where nobody knows them.
    """

    def __init__(self, train: Subset, worker: Worker) -> None:
        self.worker = worker
        self.observed = train.observed.to(worker.device)
        self.true = None if train.true is None else train.true.to(worker.device)
        self.clean = None if train.true is None else (train.observed == train.true).numpy()
        self.losses = torch.empty(len(train.observed), dtype=torch.float32, device=worker.device)
        self.weights = torch.empty_like(self.losses)
        self.sums: dict[str, Tensor] = {}  # of all names ever shown: they stay where they are
        self.reset()

    def reset(self) -> None:
        """Forget the last epoch."""
        for values in (self.losses, self.weights):
            values.fill_(torch.nan)
        for value in self.sums.values():
            value.zero_()
        self.shown: dict[str, None] = {}  # names of this epoch, in order
        self.steps = 0
        self.seen = 0

    def count(self, images: int, names: Iterable[str]) -> None:
        """Count a step on the host: its images, and the names that it showed. A graph takes in the rest by itself."""
        self.shown.update(dict.fromkeys(names))
        self.steps += 1
        self.seen += images

    def add(self, batch: Batch, step: Step) -> list[str]:
        """Take in one step of this worker; returns the names that it showed."""
        guess = step.logits.argmax(1)
        self._sum("train.loss", step.losses.float().mean())
        self._sum("train.accuracy_observed", (guess == self.observed[batch.index]).float().mean())
        names = ["train.loss", "train.accuracy_observed"]
        if self.true is not None:
            names.append("train.accuracy_true")
            self._sum("train.accuracy_true", (guess == self.true[batch.index]).float().mean())
        for name, value in step.scalars.items():
            names.append(name if "." in name else f"train.{name}")
            self._sum(names[-1], value.float())
        self.losses[batch.index] = step.losses.float()
        if step.weights is not None:
            self.weights[batch.index] = step.weights.float()
        self.count(len(batch.index), names)
        return names

    def finite(self) -> bool:
        """Whether every sum is finite on every worker: waits for the device, so ask once in a while."""
        (total,) = self.worker.average([torch.stack([self.sums[name] for name in self.shown])])
        return bool(torch.isfinite(total).all())

    def read(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The epoch's values, averaged over steps and workers, and its per-sample arrays."""
        losses, weights = (values.cpu().numpy().copy() for values in self._gathered())
        names = list(self.shown)
        means = self.worker.average([torch.stack([self.sums[name] for name in names]) / self.steps])[0].tolist()
        values = dict(zip(names, means, strict=True))
        arrays = {"sample.loss": losses}
        if self.clean is not None:
            arrays["sample.clean"] = self.clean
        if not np.isnan(weights).all():
            arrays["sample.weight"] = weights
            values |= {} if self.clean is None else _clean_and_noisy(weights, self.clean)
        return values, arrays

    def _sum(self, name: str, value: Tensor) -> None:
        if name not in self.sums:
            self.sums[name] = torch.zeros_like(value)
        self.sums[name].add_(value)

    def _gathered(self) -> tuple[Tensor, Tensor]:
        """Losses and weights of the samples of all workers: each sample was seen by one of them at most."""
        if self.worker.size == 1:
            return self.losses, self.weights
        seen = ~torch.stack([self.losses, self.weights]).isnan()
        values = torch.stack([self.losses, self.weights]).nan_to_num(0.0)
        value, count = self.worker.average([values, seen.float()])
        losses, weights = torch.where(count > 0, value / count, torch.nan)
        return losses, weights


def _clean_and_noisy(weights: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    visited = ~np.isnan(weights)
    values = {}
    for name, chosen in (("train.weight_clean", visited & clean), ("train.weight_noisy", visited & ~clean)):
        if chosen.any():
            values[name] = float(weights[chosen].mean())
    auc = weight_auc(weights, clean)
    if auc is not None:
        values["train.weight_auc"] = auc
    return values
