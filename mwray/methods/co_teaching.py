"""Co-teaching: each of two networks is trained on the samples that the other finds easy (Han et al., NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from mwray import optim
from mwray.config import ConfigError
from mwray.data.loader import Batch
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.exchange import gather
from mwray.methods.kept import Kept
from mwray.methods.settings import CoTeachingSettings

ADAM_RATE = 1e-3  # Han et al., section 4


@final
class CoTeaching(Method):
    """Algorithm 1 of Han et al.: of each batch, R(T) * B samples of smallest loss are handed to the other network.

    Both networks see the same images; they differ in their initial weights alone. The mean is taken over the samples
    kept: the authors' code divides by their number twice, which Adam undoes and SGD would not. The first network, which
    starts where every method's starts, predicts. Cost: two plain trainings.

    On several workers the samples of smallest loss are those of the whole batch.

    Raises:
        ConfigError: the share to forget is to be that of wrong labels, and nobody knows it.
    """

    def __init__(self, settings: CoTeachingSettings, setup: Setup) -> None:
        self.settings, self.setup = settings, setup
        if settings.optimizer == "adam":
            setup = _published(setup)
        self.networks = Classifier(setup), Classifier(setup, "second")
        self.forget_rate = _share_of_wrong(setup) if settings.forget_rate is None else settings.forget_rate
        self.forgotten = 0.0
        self.kept = Kept(setup)

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate and the share to forget."""
        for network in self.networks:
            network.start_epoch(epoch)
            if self.settings.optimizer == "adam" and epoch >= decay_start(self.setup.epochs):
                for group in network.optimizer.param_groups:
                    group["betas"] = (0.1, 0.999)
        self.forgotten = forget(self.settings, self.forget_rate, epoch)
        self.kept.reset()

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Each network picks for the other, then both step."""
        logits = [network.forward(batch.x) for network in self.networks]
        losses = torch.stack([cross_entropy(each, batch.y) for each in logits], 1)  # [B, 2]
        worker, size = self.setup.worker, self.setup.worker.size
        count = max(int((1 - self.forgotten) * len(batch.y) * size), 1)
        picked = smallest(gather(losses.detach(), worker), count).chunk(size)[worker.rank]  # [B, 2]
        taught = picked.flip(1)  # column k: what network k learns from
        for k, network in enumerate(self.networks):
            # Averaging over workers divides by their number, and `count` is that of the whole batch.
            network.descend((losses[:, k] * taught[:, k]).sum() * (size / count))
        self.kept.add(batch.index, taught[:, 0])
        agreement = (picked[:, 0] & picked[:, 1]).sum() / picked[:, 0].sum().clamp_min(1)
        return Step(logits[0].detach(), losses[:, 0].detach(), taught[:, 0].float(), {"method.same_picks": agreement})

    def capture_key(self) -> Hashable:
        """How many samples are kept, and Adam's betas, are numbers of the host."""
        return self.forgotten, self.networks[0].optimizer.param_groups[0].get("betas")

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        for network in self.networks:
            network.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C] of the first network."""
        return self.networks[0].predict(x)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Share kept and precision of what the first network learned from; with the published Adam, its rate."""
        own = {"lr": optim.rate_of(self.networks[0].optimizer)} if self.settings.optimizer == "adam" else {}
        return {**self.kept.read(), **own}, {}

    def state(self) -> dict[str, Any]:
        """Both networks and optimisers."""
        return {"networks": [network.state() for network in self.networks]}

    @classmethod
    def predicting(cls, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """Those of the first network."""
        return super().predicting(state["networks"][0])

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        for network, saved in zip(self.networks, state["networks"], strict=True):
            network.restore(saved)


def _share_of_wrong(setup: Setup) -> float:
    train = setup.splits.train
    if train.true is None:
        raise ConfigError(
            "method.forget_rate: None takes the share of wrong training labels, which nobody knows of this data set; "
            "give your estimate of it, for example 0.2"
        )
    return float((train.observed != train.true).double().mean())


def forget(settings: CoTeachingSettings, rate: float, epoch: int) -> float:
    """Share forgotten in `epoch` (counted from 0): min(tau (T / T_k)^c, tau) (Han et al., Algorithm 1, step 8)."""
    return rate * min(epoch / settings.ramp_epochs, 1.0) ** settings.exponent


def smallest(losses: Tensor, count: int) -> Tensor:
    """Which `count` entries of each column of `losses` [B, K] are the smallest, bool [B, K]; ties by position."""
    order = losses.argsort(dim=0, stable=True)[:count]
    return torch.zeros_like(losses, dtype=torch.bool).scatter_(0, order, True)


def decay_start(epochs: int) -> int:
    """Epoch from which the published rate falls: 80 of 200, in proportion."""
    return epochs * 2 // 5


def _published(setup: Setup) -> Setup:
    """`setup` with the optimiser and schedule of Han et al., section 4; their code sets no weight decay."""

    def rate(epoch: int) -> float:
        start = decay_start(setup.epochs)
        return ADAM_RATE * min((setup.epochs - epoch) / (setup.epochs - start), 1.0)

    def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return optim.adam(parameters, setup.on_device, lr=ADAM_RATE)

    return replace(setup, make_optimizer=adam, learning_rate=rate)
