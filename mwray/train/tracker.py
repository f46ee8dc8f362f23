"""What one epoch of training showed, gathered on the device without waiting for it."""

from __future__ import annotations

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

    Per-sample losses and weights are those seen in this epoch, at the moment each sample was trained on.
    """

    def __init__(self, train: Subset, worker: Worker) -> None:
        self.worker = worker
        self.observed = train.observed.to(worker.device)
        self.true = train.true.to(worker.device)
        self.clean = (train.observed == train.true).numpy()
        self.reset()

    def reset(self) -> None:
        """Forget the last epoch."""
        device, size = self.worker.device, len(self.observed)
        self.losses = torch.full((size,), torch.nan, device=device)
        self.weights = torch.full((size,), torch.nan, device=device)
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.seen = 0

    def add(self, batch: Batch, step: Step) -> None:
        """Take in one step of this worker."""
        guess = step.logits.argmax(1)
        self._sum("train.loss", step.losses.float().mean())
        self._sum("train.accuracy_observed", (guess == self.observed[batch.index]).float().mean())
        self._sum("train.accuracy_true", (guess == self.true[batch.index]).float().mean())
        for name, value in step.scalars.items():
            self._sum(name if "." in name else f"train.{name}", value.float())
        self.losses[batch.index] = step.losses.float()
        if step.weights is not None:
            self.weights[batch.index] = step.weights.float()
        self.steps += 1
        self.seen += len(batch.index)

    def finite(self) -> bool:
        """Whether every sum is finite on every worker: waits for the device, so ask once in a while."""
        (total,) = self.worker.average([torch.stack(list(self.sums.values()))])
        return bool(torch.isfinite(total).all())

    def read(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The epoch's values, averaged over steps and workers, and its per-sample arrays."""
        self._gather()
        names = list(self.sums)
        means = self.worker.average([torch.stack([self.sums[name] for name in names]) / self.steps])[0].tolist()
        values = dict(zip(names, means, strict=True))
        arrays = {"sample.loss": self.losses.cpu().numpy(), "sample.clean": self.clean}
        weights = self.weights.cpu().numpy()
        if not np.isnan(weights).all():
            arrays["sample.weight"] = weights
            values |= _clean_and_noisy(weights, self.clean)
        return values, arrays

    def _sum(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _gather(self) -> None:
        """Bring the per-sample values of all workers together: each sample was seen by one of them at most."""
        if self.worker.size == 1:
            return
        seen = ~torch.stack([self.losses, self.weights]).isnan()
        values = torch.stack([self.losses, self.weights]).nan_to_num(0.0)
        value, count = self.worker.average([values, seen.float()])
        self.losses, self.weights = torch.where(count > 0, value / count, torch.nan)


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
