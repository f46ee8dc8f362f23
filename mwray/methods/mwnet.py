"""Meta-Weight-Net (Shu et al., NeurIPS 2019): a weight net learned on clean images weighs every training loss."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from mwray import optim
from mwray.config import ConfigError
from mwray.data.loader import Batch
from mwray.meta import recompute
from mwray.meta.algorithm import MetaStep
from mwray.meta.gradient import cross_entropy
from mwray.meta.settings import WeightNetSettings
from mwray.meta.step import MetaWeightNet
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.exchange import gather
from mwray.methods.settings import MWNetSettings
from mwray.models.class_weight_net import ClassWeightNet
from mwray.models.weight_net import WeightNet
from mwray.seeding import key


@final
class MWNet(Method):
    """Algorithm 1 of the paper, by `MetaWeightNet`, after a warm-up on plain cross-entropy where one is asked for.

    It keeps what a transfer needs: the weight net after every epoch and the range of losses that it has seen.

    Raises:
        ConfigError: the warm-up leaves no epoch for the weight net.
    """

    needs_meta = True

    def __init__(self, settings: MWNetSettings, setup: Setup) -> None:
        if settings.meta.warm_up >= setup.epochs:
            raise ConfigError(
                f"method.meta.warm_up: {settings.meta.warm_up} epochs on plain loss leave none of epochs="
                f"{setup.epochs} for the weight net; at most {setup.epochs - 1} would do"
            )
        self.worker = setup.worker
        self.warm_up = settings.meta.warm_up
        self.warming = self.warm_up > 0
        self.classifier = Classifier(setup)
        self.meta = _meta_weight_net(settings, setup, self.classifier)
        self.loss_range = torch.tensor([torch.inf, -torch.inf], device=setup.worker.device)
        self.trajectory: list[Tensor] = []

    def epoch_start(self, epoch: int) -> None:
        """Set the classifier's learning rate; the weight net's is fixed (paper, section 4)."""
        self.classifier.start_epoch(epoch)
        self.warming = epoch < self.warm_up

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Virtual step, meta step, actual step; in the warm-up, BaseModel's step."""
        assert meta is not None
        if self.warming:
            return self._plain_step(batch)
        return self.show(self.meta.step((batch.x, batch.y), (meta.x, meta.y)))

    def show(self, step: MetaStep) -> Step:
        """What an iteration shows, whoever took it; widens the range of losses seen."""
        self._widen(step)
        weighted = (step.weights * step.losses).sum()
        return Step(step.logits, step.losses, step.values, {"meta_loss": step.meta_loss, "weighted_loss": weighted})

    def capture_key(self) -> Hashable:
        """The warm-up's step, one that moves the weight net, and one between two of those."""
        return self.warming, self.meta.learns

    def replayed(self) -> None:
        """Count the step."""
        self.meta.steps += not self.warming

    def moving(self) -> Any:
        """All but the trajectory, which lies on the host."""
        return [self.classifier.state(), self.meta.state_dict(), self.loss_range]

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics and on the range of losses; keep the weight net of this epoch."""
        self.classifier.agree()
        low, high = gather(self.loss_range, self.worker).unflatten(0, (-1, 2)).unbind(1)
        self.loss_range.copy_(torch.stack([low.min(), high.max()]))
        if not self.warming:
            self.trajectory.append(parameters_to_vector(self.meta.weight_net.parameters()).detach().cpu())

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier.predict(x)

    def curve(self) -> Callable[[Tensor], Tensor] | None:
        """The learned weight function, a mean over classes where they have one each; none during the warm-up."""
        if self.warming:
            return None
        net = self.meta.weight_net
        if isinstance(net, ClassWeightNet):
            return lambda losses: net.all_classes(losses).mean(1).detach()
        return self.meta.weights

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """With a weight net for each class: their curves "class_weight" [C, 100] at the losses "class_loss" [100]."""
        net = self.meta.weight_net
        if self.warming or not isinstance(net, ClassWeightNet):
            return {}, {}
        losses = torch.linspace(0, float(self.loss_range[1]), 100, device=self.loss_range.device)
        return {}, {"class_loss": losses, "class_weight": net.all_classes(losses).detach().T}

    def state(self) -> dict[str, Any]:
        """Network, weight net and both optimisers; loss range and trajectory."""
        return {
            "classifier": self.classifier.state(),
            "meta": self.meta.state_dict(),
            "loss_range": self.loss_range,
            "trajectory": self.trajectory,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state["classifier"])
        self.meta.load_state_dict(state["meta"])
        self.loss_range.copy_(state["loss_range"])
        self.trajectory = [vector.cpu() for vector in state["trajectory"]]

    def _plain_step(self, batch: Batch) -> Step:
        logits = self.classifier.forward(batch.x)
        losses = cross_entropy(logits, batch.y)
        self.classifier.descend(losses.mean())
        return Step(logits.detach(), losses.detach())

    def _widen(self, step: MetaStep) -> None:
        low, high = step.losses.float().aminmax()
        self.loss_range[0].clamp_(max=low)
        self.loss_range[1].clamp_(min=high)


def make_weight_net(settings: WeightNetSettings, setup: Setup) -> WeightNet | ClassWeightNet:
    """A weight net with its own keyed initial weights, on the training device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(setup.seed, "weight-net"))
        if settings.conditioning == "class":
            return ClassWeightNet(settings.shape, setup.splits.num_classes).to(setup.worker.device)
        return WeightNet(settings.shape).to(setup.worker.device)


def optimizer_of(
    settings: WeightNetSettings, on_device: bool | None = None
) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """The builder of the weight net's optimiser."""

    def build(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if settings.optimizer == "adam":
            return optim.adam(parameters, on_device, lr=settings.lr, weight_decay=settings.weight_decay)
        return optim.sgd(
            parameters,
            on_device,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )

    return build


def _meta_weight_net(settings: MWNetSettings, setup: Setup, classifier: Classifier) -> MetaWeightNet:
    return MetaWeightNet(
        classifier.network,
        classifier.optimizer,
        make_weight_net(settings.weight_net, setup),
        weight_optimizer=optimizer_of(settings.weight_net, setup.on_device),
        weight_map=settings.meta.weight_map,
        tau=settings.meta.tau,
        look_ahead=settings.meta.look_ahead,
        input=settings.meta.input,
        conditioning=settings.weight_net.conditioning,
        every=settings.meta.every,
        order=settings.meta.order,
        layers=settings.meta.layers,
        recompute=recompute.chosen(),
        worker=setup.worker,
    )
