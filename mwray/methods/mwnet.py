"""Meta-Weight-Net (Shu et al., NeurIPS 2019): a weight net learned on clean images weighs every training loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor, nn

from mwray.data.loader import Batch
from mwray.meta.settings import WeightNetSettings
from mwray.meta.step import MetaWeightNet
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.settings import MWNetSettings
from mwray.models.weight_net import WeightNet
from mwray.seeding import key


@final
class MWNet(Method):
    """Algorithm 1 of the paper, by `MetaWeightNet`."""

    needs_meta = True

    def __init__(self, settings: MWNetSettings, setup: Setup) -> None:
        self.classifier = Classifier(setup)
        self.meta = MetaWeightNet(
            self.classifier.network,
            self.classifier.optimizer,
            make_weight_net(settings.weight_net, setup),
            weight_optimizer=optimizer_of(settings.weight_net),
            weight_map=settings.meta.weight_map,
            tau=settings.meta.tau,
            look_ahead=settings.meta.look_ahead,
            worker=setup.worker,
        )

    def epoch_start(self, epoch: int) -> None:
        """Set the classifier's learning rate; the weight net's is fixed (paper, section 4)."""
        self.classifier.start_epoch(epoch)

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Virtual step, meta step, actual step."""
        assert meta is not None
        step = self.meta.step((batch.x, batch.y), (meta.x, meta.y))
        weighted = (step.weights * step.losses).sum()
        return Step(step.logits, step.losses, step.values, {"meta_loss": step.meta_loss, "weighted_loss": weighted})

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        self.classifier.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier.predict(x)

    def curve(self) -> Callable[[Tensor], Tensor]:
        """The learned weight function."""
        return self.meta.weights

    def state(self) -> dict[str, Any]:
        """Network, weight net and both optimisers."""
        return {"classifier": self.classifier.state(), "meta": self.meta.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state["classifier"])
        self.meta.load_state_dict(state["meta"])


def make_weight_net(settings: WeightNetSettings, setup: Setup) -> WeightNet:
    """A weight net with its own keyed initial weights, on the training device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(setup.seed, "weight-net"))
        return WeightNet(settings.shape).to(setup.worker.device)


def optimizer_of(settings: WeightNetSettings) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """The builder of the weight net's optimiser."""

    def build(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if settings.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )

    return build
