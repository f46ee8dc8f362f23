"""A network with its optimiser and schedule: what nearly every method owns one of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mwray import optim
from mwray.methods.base import Setup


class Classifier:
    """One network, trained by the experiment's optimiser under its schedule.

    `name` keys its initial weights: "init" is the network that every method starts from, so that methods compared at
    one seed differ in the method alone.
    """

    def __init__(self, setup: Setup, name: str = "init") -> None:
        self.network = setup.make_model(name)
        self.optimizer = setup.make_optimizer(self.network.parameters())
        self._worker = setup.worker
        self._learning_rate = setup.learning_rate

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate of `epoch` (counted from 0)."""
        optim.set_rate(self.optimizer, self._learning_rate(epoch))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] in training mode, with a graph."""
        self.network.train()
        logits: Tensor = self.network(x)
        return logits

    def descend(self, loss: Tensor) -> None:
        """One optimiser step along the gradient of `loss` [], averaged over workers."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        optim.set_gradients(parameters, self._worker.gradients(loss, parameters))
        self.optimizer.step()

    def agree(self) -> None:
        """Average running statistics over workers: each saw its own share of every batch."""
        held = [b for b in self.network.buffers() if b.is_floating_point()]
        for buffer, mean in zip(held, self._worker.average(held), strict=True):
            buffer.copy_(mean)

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C] in evaluation mode, without a graph."""
        self.network.eval()
        with torch.no_grad():
            logits: Tensor = self.network(x)
        return logits

    def state(self) -> dict[str, Any]:
        """Parameters, running statistics, and what the optimiser holds."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.network.load_state_dict(state["network"])
        optim.restore(self.optimizer, state["optimizer"])
