"""Meta-Weight-Net (Shu et al., NeurIPS 2019, Algorithm 1): virtual step, meta step, actual step.

L     = losses(w; x, y)                      one training forward; running statistics move here and only here
g     = grad_w sum_i eta_i(L; theta) L_i     w_hat = w - step(g)                                  (Eq. 3)
g_m   = grad of the mean meta loss at w_hat
u_i   = d/de L_i(w + e P^T g_m) at e = 0     one tangent pass through the forward above
theta follows sum_i u_i d eta_i / d theta                                                         (Eq. 4, 6)
w     follows eta(L; theta+), a second pull-back through the same forward                         (Eq. 5)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mwray.meta import gradient
from mwray.meta.gradient import Criterion, LookAhead, Pair, WeightMap, Weights, cross_entropy, weigh
from mwray.meta.tangent import Recording, record
from mwray.models.weight_net import WeightNet
from mwray.worker import LocalWorker, Worker


@dataclass(frozen=True)
class MetaStep:
    """What one iteration saw; tensors on the model's device, detached."""

    logits: Tensor  # [n, ...] model outputs of the training batch at w
    losses: Tensor  # [n] L_i(w)
    values: Tensor  # [n] V(L_i; theta+), in (0, 1)
    weights: Tensor  # [n] eta_i: with "normalized" they sum to 1 over the batch (over all workers: to their number)
    meta_loss: Tensor  # [] mean loss of the meta batch at w_hat
    alignment: Tensor  # [n] -u_i: positive where raising the sample's weight would lower the meta loss


class MetaWeightNet:
    """Learns, while your model trains, how much each training sample should count.

    Example:
        mwn = MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for (x, y), (x_clean, y_clean) in zip(noisy_loader, itertools.cycle(clean_loader)):
            step = mwn.step((x, y), (x_clean, y_clean))   # moves the weight net, then the model
        mwn.weights(torch.linspace(0, 5, 100))            # the learned weight of each loss

    The model is any `nn.Module`; its optimiser is any `torch.optim.Optimizer` and is stepped here, so call neither
    `backward` nor `optimizer.step`. Change the learning rate between steps as you always do.

    Args:
        model: the classifier; put in training mode by `step`.
        optimizer: over (some of) the model's parameters; the rest stays as it is.
        weight_net: shape as the paper writes it ("1-100-1"), or a module of your own mapping losses [n] to
            non-negative weights [n].
        weight_optimizer: builds the weight net's optimiser from its parameters. Default: SGD, lr 1e-3, Nesterov
            momentum 0.9, weight decay 5e-4, as in the paper's released code.
        weight_map: "normalized" (Eq. 40), "mean" (Eq. 3) or "detached".
        tau: stands in for a weight sum of zero (Eq. 40).
        look_ahead: "sgd" (Eq. 3) or "optimizer" (the real step, with momentum and weight decay).
        criterion: per-sample losses [n] from outputs and targets; loss i must depend on output i alone.
        worker: averages over several processes; default: this one alone.

    Raises:
        ValueError: the optimiser holds no trainable parameter of the model, or a choice above is not one of those.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        weight_net: str | nn.Module = "1-100-1",
        *,
        weight_optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        weight_map: WeightMap = "normalized",
        tau: float = 1.0,
        look_ahead: Literal["sgd", "optimizer"] = "sgd",
        criterion: Criterion = cross_entropy,
        worker: Worker | None = None,
    ) -> None:
        _check_choice("weight_map", weight_map, ("normalized", "mean", "detached"))
        _check_choice("look_ahead", look_ahead, ("sgd", "optimizer"))
        self.model = model
        self.optimizer = optimizer
        self.names, self.parameters = _trained(model, optimizer)
        device = self.parameters[0].device
        self.weight_net = WeightNet(weight_net) if isinstance(weight_net, str) else weight_net
        self.weight_net.to(device)
        self.weight_optimizer = (weight_optimizer or _released_sgd)(self.weight_net.parameters())
        self.weight_map: WeightMap = weight_map
        self.tau = tau
        self.look_ahead: Literal["sgd", "optimizer"] = look_ahead
        self.criterion = criterion
        self.worker: Worker = worker or LocalWorker(device)

    def step(self, batch: Pair, meta: Pair) -> MetaStep:
        """One iteration of Algorithm 1 on a training batch and a clean meta batch, each (inputs, targets)."""
        self.model.train()
        recording = record(self.model, batch[0])
        losses = self.criterion(recording.outputs, batch[1])
        ahead = self._virtual_step(losses)
        meta_loss, alignment = self._meta_step(recording, losses, ahead, meta)
        weights = self._actual_step(losses)
        return MetaStep(
            recording.outputs.detach(), losses.detach(), weights.values.detach(), weights.eta, meta_loss, alignment
        )

    def weights(self, losses: Tensor) -> Tensor:
        """The weight net's output [n] for losses [n], without a graph and before any normalisation."""
        with torch.no_grad():
            values: Tensor = self.weight_net(losses)
        return values

    def state_dict(self) -> dict[str, Any]:
        """Weight net and its optimiser; the model and its optimiser are yours to save."""
        return {"weight_net": self.weight_net.state_dict(), "weight_optimizer": self.weight_optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.weight_net.load_state_dict(state["weight_net"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])

    def _virtual_step(self, losses: Tensor) -> LookAhead:
        """w_hat(theta): Eq. 3. The weights are multipliers: no gradient flows through the losses they are read from."""
        weights = weigh(self.weights(losses.detach()), self.weight_map, self.tau, self.worker)
        gradients = self._gradient(losses, weights.eta)
        return gradient.look_ahead(self.optimizer, self.parameters, gradients, self.look_ahead)

    def _meta_step(self, recording: Recording, losses: Tensor, ahead: LookAhead, meta: Pair) -> tuple[Tensor, Tensor]:
        """theta+: Eq. 4, its gradient by Eq. 6 with the inner products of one tangent pass."""
        at = dict(zip(self.names, ahead.parameters, strict=True))
        meta_loss, slopes = gradient.meta_gradient(self.model, at, meta, self.criterion, self.worker)
        direction = dict(zip(self.names, ahead.pull_back(slopes), strict=True))
        alignment = gradient.inner_products(recording, losses, direction)
        values = self.weight_net(losses.detach())
        weights = weigh(values, self.weight_map, self.tau, self.worker)
        theta = list(self.weight_net.parameters())
        gradients = torch.autograd.grad(values, theta, weights.cotangent(alignment, self.worker))
        for parameter, slope in zip(theta, self.worker.average(gradients), strict=True):
            parameter.grad = slope
        self.weight_optimizer.step()
        return meta_loss, -alignment

    def _actual_step(self, losses: Tensor) -> Weights:
        """w+: Eq. 5, from the old w with the new weights."""
        weights = weigh(self.weights(losses.detach()), self.weight_map, self.tau, self.worker)
        for parameter, slope in zip(self.parameters, self._gradient(losses, weights.eta, last=True), strict=True):
            parameter.grad = slope
        self.optimizer.step()
        return weights

    def _gradient(self, losses: Tensor, eta: Tensor, last: bool = False) -> list[Tensor]:
        """Gradient of sum_i eta_i L_i, averaged over workers; parameters that the loss does not reach get zeros."""
        gradients = torch.autograd.grad(
            losses, self.parameters, eta, retain_graph=not last, allow_unused=True, materialize_grads=True
        )
        return self.worker.average(gradients)


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[str], list[nn.Parameter]]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = [(name, p) for name, p in model.named_parameters() if id(p) in held and p.requires_grad]
    if not named:
        raise ValueError("optimizer holds no trainable parameter of model: build it as SGD(model.parameters(), lr=0.1)")
    return [name for name, _ in named], [p for _, p in named]


def _released_sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)


def _check_choice(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"{name} is {given!r}; it can be {', '.join(map(repr, known))}")
