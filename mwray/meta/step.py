"""Meta-Weight-Net (Shu et al., NeurIPS 2019, Algorithm 1): virtual step, meta step, actual step.

L     = losses(w; x, y)                      one training forward; running statistics move here and only here
g     = grad_w sum_i eta_i(L; theta) L_i     w_hat = w - step(g)                                  (Eq. 3)
g_m   = grad of the mean meta loss at w_hat
u_i   = d/de L_i(w + e P^T g_m) at e = 0     one tangent pass through the forward above
theta follows sum_i u_i d eta_i / d theta                                                         (Eq. 4, 6)
w     follows eta(L; theta+), a second pull-back through the same forward                         (Eq. 5)

Two deviations are offered, each cheaper. `order="lagged"`: w_hat is what the real optimiser makes of g, and w becomes
w_hat; no second pull-back. `layers="top"`: the virtual step moves the last stage's parameters alone, so that g, g_m and
u are short passes; in lagged order, where the real step moves all, the others' move counts as a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mwray.meta import gradient
from mwray.meta import layers as parts
from mwray.meta.gradient import Criterion, LookAhead, Pair, cross_entropy
from mwray.meta.recompute import Recompute
from mwray.meta.tangent import Recording, record
from mwray.meta.weights import Multipliers, WeightMap, Weights, weigh, weigh_through
from mwray.models.weight_net import WeightNet
from mwray.optim import restore, set_gradients
from mwray.worker import LocalWorker, Worker

LENT = 1 / 8
"""Meta images for each training image up to which no memory is lent: the step's peak is then in its tangent pass, 1.14
times plain training's (ResNet-32), and to lend would cost a twentieth of the time for nothing."""


@dataclass(frozen=True)
class MetaStep:
    """What one iteration saw; tensors on the model's device, detached."""

    logits: Tensor  # [n, ...] model outputs of the training batch at w
    losses: Tensor  # [n] L_i(w)
    values: Tensor  # [n] V(L_i; theta+), in (0, 1); with order "lagged" V(L_i; theta)
    weights: Tensor  # [n] eta_i: with "normalized" they sum to 1 over the batch (over all workers: to their number)
    meta_loss: Tensor  # [] mean loss of the meta batch at w_hat, of the newest step that moved the weight net
    alignment: Tensor | None  # [n] -u_i: positive where raising the sample's weight would lower the meta loss; None in
    # a step that did not move the weight net


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
            non-negative weights [n], weight i from loss i alone.
        weight_optimizer: builds the weight net's optimiser from its parameters. Default: SGD, lr 1e-3, Nesterov
            momentum 0.9, weight decay 5e-4, as in the paper's released code.
        weight_map: "normalized" (Eq. 40), "mean" (Eq. 3) or "detached".
        tau: stands in for a weight sum of zero (Eq. 40).
        look_ahead: "sgd" (Eq. 3) or "optimizer" (the real step, with momentum and weight decay).
        input: "detached" (Eq. 3: weights are factors) or "through" (the virtual step's gradient also flows through
            the losses that the weights are read from, as in the authors' long-tail code).
        conditioning: "class" calls `weight_net(losses, targets)`, a module such as
            `mwray.models.class_weight_net.ClassWeightNet`.
        every: steps between two updates of the weight net; those between cost what plain training costs.
        order: "exact" (Algorithm 1) or "lagged": the look-ahead is the real step, taken with the weights from before
            the weight net's move; `look_ahead` then says nothing.
        layers: the parameters that the virtual step moves and Eq. 6 aligns: "all", "top" (see
            `mwray.meta.layers.last_stage`), or the names of modules, for example ["layer4", "fc"].
        recompute: what of the training forward gives its memory to the meta pass and is computed again after it (equal
            to rounding): "nothing" (peak twice that of plain training), "cheap" (1.5 times: normalisation, activations,
            sums), "all" (1.2 times: convolutions and products too, one forward more).
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
        input: Literal["detached", "through"] = "detached",
        conditioning: Literal["none", "class"] = "none",
        every: int = 1,
        order: Literal["exact", "lagged"] = "exact",
        layers: Literal["all", "top"] | Sequence[str] = "all",
        recompute: Recompute = "cheap",
        criterion: Criterion = cross_entropy,
        worker: Worker | None = None,
    ) -> None:
        _check(weight_map=weight_map, look_ahead=look_ahead, input=input, conditioning=conditioning)
        _check(order=order, recompute=recompute)
        _check_together(weight_net, optimizer, conditioning, order, input)
        if every < 1:
            raise ValueError(f"every is {every}; it can be 1 (each step moves the weight net) or more")
        self.model = model
        self.optimizer = optimizer
        self.names, self.parameters = _trained(model, optimizer)
        self.aligned_names = _aligned(model, self.names, layers)
        self.aligned = [p for name, p in zip(self.names, self.parameters, strict=True) if name in self.aligned_names]
        device = self.parameters[0].device
        self.weight_net = (
            weight_net.to(device) if isinstance(weight_net, nn.Module) else _made(weight_net, self.parameters[0])
        )
        self.weight_optimizer = (weight_optimizer or _released_sgd)(self.weight_net.parameters())
        self.weight_map: WeightMap = weight_map
        self.tau = tau
        self.look_ahead: Literal["sgd", "optimizer"] = "optimizer" if order == "lagged" else look_ahead
        self.input: Literal["detached", "through"] = input
        self.conditioning: Literal["none", "class"] = conditioning
        self.every = every
        self.order: Literal["exact", "lagged"] = order
        self.recompute: Recompute = recompute
        self.steps = 0
        self.meta_loss = torch.full((), torch.nan, device=device)
        self.criterion = criterion
        self.worker: Worker = worker or LocalWorker(device)

    def step(self, batch: Pair, meta: Pair | None) -> MetaStep:
        """One iteration of Algorithm 1 on a training batch and a clean meta batch, each (inputs, targets).

        Without a meta batch the weight net stays as it is.
        """
        self.model.train()
        return self._follow(batch) if meta is None or not self.learns else self._learn(batch, meta)

    @property
    def learns(self) -> bool:
        """Whether the next step moves the weight net."""
        return self.steps % self.every == 0

    def weights(self, losses: Tensor, classes: Tensor | None = None) -> Tensor:
        """The weight net's output [n] for losses [n], without a graph and before any normalisation.

        `classes` int64 [n] are needed by a weight net that is conditioned on them.
        """
        with torch.no_grad():
            return self._values(losses, classes)

    def state_dict(self) -> dict[str, Any]:
        """Weight net, its optimiser and the steps so far; the model and its optimiser are yours to save."""
        return {
            "weight_net": self.weight_net.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "steps": self.steps,
            "meta_loss": self.meta_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.weight_net.load_state_dict(state["weight_net"])
        restore(self.weight_optimizer, state["weight_optimizer"])
        self.steps = state["steps"]
        self.meta_loss.copy_(state["meta_loss"])

    def _learn(self, batch: Pair, meta: Pair) -> MetaStep:
        """Algorithm 1, lines 5 to 7."""
        recording = record(self.model, batch[0], self.recompute)
        losses = self.criterion(recording.outputs, batch[1])
        weights = self._learning_weights(losses, batch[1])
        gradients = self._gradient(losses, weights.eta, self.parameters if self.order == "lagged" else self.aligned)
        alignment = self._meta_step(recording, losses, weights, gradients, meta)
        if self.order == "lagged":
            assert isinstance(weights, Multipliers)
            self._move(gradients)
        else:
            weights = self._actual_step(losses, batch[1])
        return self._finish(recording.outputs, losses, weights, -alignment)

    def _follow(self, batch: Pair) -> MetaStep:
        """Line 7 alone, with the weight net as it is."""
        outputs = self.model(batch[0])
        losses = self.criterion(outputs, batch[1])
        return self._finish(outputs, losses, self._actual_step(losses, batch[1]), None)

    def _meta_step(
        self, recording: Recording, losses: Tensor, weights: Weights, gradients: list[Tensor], meta: Pair
    ) -> Tensor:
        """theta+: Eq. 4, its gradient by Eq. 6 with the inner products u [n] of one tangent pass."""
        ahead, still = self._virtual_step(gradients)
        at = dict(zip(self.aligned_names, ahead.parameters, strict=True))
        with recording.set_aside() if len(meta[0]) > LENT * len(losses) else nullcontext():
            meta_loss, slopes = gradient.meta_gradient(self.model, at, meta, self.criterion, self.worker, still)
        self.meta_loss.copy_(meta_loss)
        direction = dict(zip(self.aligned_names, ahead.pull_back(slopes), strict=True))
        inner_products = gradient.inner_products(recording, losses, direction)
        theta = list(self.weight_net.parameters())
        by_theta = torch.autograd.grad(weights.surrogate(inner_products, self.worker), theta)
        set_gradients(theta, self.worker.average(by_theta))
        self.weight_optimizer.step()
        return inner_products

    def _virtual_step(self, gradients: list[Tensor]) -> tuple[LookAhead, dict[str, Tensor]]:
        """w_hat(theta), Eq. 3: the aligned parameters, with their Jacobian; others that move, by name, as constants."""
        if len(gradients) == len(self.aligned):
            return gradient.look_ahead(self.optimizer, self.aligned, gradients, self.look_ahead), {}
        slopes = dict(zip(self.names, gradients, strict=True))
        own = [slopes.pop(name) for name in self.aligned_names]
        others = [p for name, p in zip(self.names, self.parameters, strict=True) if name in slopes]
        rest = gradient.look_ahead(self.optimizer, others, list(slopes.values()), self.look_ahead)
        ahead = gradient.look_ahead(self.optimizer, self.aligned, own, self.look_ahead)
        return ahead, dict(zip(slopes, rest.parameters, strict=True))

    def _actual_step(self, losses: Tensor, targets: Tensor) -> Multipliers:
        """w+: Eq. 5, from the old w with the new weights."""
        weights = weigh(self.weights(losses.detach(), targets), self.weight_map, self.tau, self.worker)
        self._move(self._gradient(losses, weights.eta, self.parameters, last=True))
        return weights

    def _move(self, gradients: list[Tensor]) -> None:
        """The real optimiser's step along `gradients`."""
        set_gradients(self.parameters, gradients)
        self.optimizer.step()
        self.steps += 1

    def _values(self, losses: Tensor, classes: Tensor | None) -> Tensor:
        """V(L; theta) or V(L, y; theta), [n], in float32 at least: weights that are rounded do not sum to 1."""
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        with torch.autocast(losses.device.type, enabled=False):
            given = (losses,) if self.conditioning == "none" else (losses, classes)
            values: Tensor = self.weight_net(*given)
        return values

    def _learning_weights(self, losses: Tensor, classes: Tensor) -> Weights:
        """The weights of Eq. 3, with their graph to theta."""

        def values(of: Tensor) -> Tensor:
            return self._values(of, classes)

        if self.input == "through":
            return weigh_through(values, losses, self.weight_map, self.tau, self.worker)
        return weigh(values(losses.detach()), self.weight_map, self.tau, self.worker)

    def _finish(self, outputs: Tensor, losses: Tensor, weights: Multipliers, alignment: Tensor | None) -> MetaStep:
        return MetaStep(
            outputs.detach(), losses.detach(), weights.values.detach(), weights.eta, self.meta_loss.clone(), alignment
        )

    def _gradient(
        self, losses: Tensor, eta: Tensor, parameters: list[nn.Parameter], last: bool = False
    ) -> list[Tensor]:
        """Gradient of sum_i eta_i L_i, averaged over workers; parameters that the loss does not reach get zeros."""
        return self.worker.gradients(losses, parameters, eta, retain_graph=not last)


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[str], list[nn.Parameter]]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = [(name, p) for name, p in model.named_parameters() if id(p) in held and p.requires_grad]
    if not named:
        raise ValueError("optimizer holds no trainable parameter of model: build it as SGD(model.parameters(), lr=0.1)")
    return [name for name, _ in named], [p for _, p in named]


def _aligned(model: nn.Module, names: list[str], choice: str | Sequence[str]) -> list[str]:
    """Which of the trained parameters `names` the meta-gradient aligns, in their order."""
    if choice == "all":
        return names
    if isinstance(choice, str) and choice != "top":
        raise ValueError(f"layers is {choice!r}; it can be 'all', 'top' or a list of names of modules")
    found = parts.last_stage(model) if choice == "top" else parts.within(model, choice, "layers")
    aligned = [name for name in names if name in found]
    if not aligned:
        raise ValueError(
            f"layers={choice!r}: the optimizer trains none of these parameters, {found[0]!r} for one; it trains "
            f"{names[0]!r} to {names[-1]!r}"
        )
    return aligned


def _released_sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)


CHOICES = {
    "weight_map": ("normalized", "mean", "detached"),
    "look_ahead": ("sgd", "optimizer"),
    "input": ("detached", "through"),
    "conditioning": ("none", "class"),
    "order": ("exact", "lagged"),
    "recompute": ("nothing", "cheap", "all"),
}


def _made(shape: str, parameter: Tensor) -> WeightNet:
    """A weight net where the model is, and as precise; float32 beside a model of half the bits."""
    return WeightNet(shape).to(parameter.device, torch.promote_types(parameter.dtype, torch.float32))


def _check_together(
    weight_net: str | nn.Module, optimizer: torch.optim.Optimizer, conditioning: str, order: str, input: str
) -> None:
    """Refuse choices that exclude each other."""
    if conditioning == "class" and isinstance(weight_net, str):
        raise ValueError(
            "conditioning='class' needs a weight net that takes classes: give weight_net="
            f"ClassWeightNet({weight_net!r}, num_classes) of mwray.models.class_weight_net"
        )
    if order == "lagged" and input == "through":
        raise ValueError(
            "order='lagged' makes the look-ahead the real step, whose weights are factors: input must be 'detached'"
        )
    if order == "lagged":
        gradient.check_known(optimizer, "order='lagged'", "order='exact'")


def _check(**given: str) -> None:
    for name, value in given.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} is {value!r}; it can be {', '.join(map(repr, CHOICES[name]))}")
