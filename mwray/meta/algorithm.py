"""Meta-Weight-Net (Shu et al., NeurIPS 2019, Algorithm 1) as a function of explicit state: `iterate`.

L     = losses(w; x, y)                      one training forward; running statistics move here and only here
g     = grad_w sum_i eta_i(L; theta) L_i     w_hat = w - step(g)                                  (Eq. 3)
g_m   = grad of the mean meta loss at w_hat
u_i   = d/de L_i(w + e P^T g_m) at e = 0     one tangent pass through the forward above
theta follows sum_i u_i d eta_i / d theta                                                         (Eq. 4, 6)
w     follows eta(L; theta+), a second pull-back through the same forward                         (Eq. 5)

Two deviations are offered, each cheaper. `order="lagged"`: w_hat is what the real optimiser makes of g, and w becomes
w_hat; no second pull-back. `layers="top"`: the virtual step moves the last stage's parameters alone, so that g, g_m and
u are short passes; in lagged order, where the real step moves all, the others' move counts as a constant.

What runs it is another matter: `mwray.meta.step.MetaWeightNet` for one network, `mwray.pack.stack` for K stacked ones,
eagerly or into a CUDA graph (`mwray.train.graphs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mwray.meta import gradient
from mwray.meta.gradient import Criterion, LookAhead, Pair, cross_entropy
from mwray.meta.recompute import Recompute
from mwray.meta.tangent import Recording, record
from mwray.meta.weights import Multipliers, WeightMap, Weights, weigh, weigh_through
from mwray.optim import set_gradients
from mwray.worker import Worker

LENT = 1 / 8
"""Meta images for each training image up to which no memory is lent: the step's peak is then in its tangent pass, 1.11
times plain training's (ResNet-32), and to lend would cost a twentieth of the time for nothing."""


@dataclass(frozen=True)
class Rule:
    """Which form of the algorithm; `MetaWeightNet` says what each field means."""

    weight_map: WeightMap = "normalized"
    tau: float = 1.0
    look_ahead: Literal["sgd", "optimizer"] = "sgd"
    input: Literal["detached", "through"] = "detached"
    conditioning: Literal["none", "class"] = "none"
    order: Literal["exact", "lagged"] = "exact"
    recompute: Recompute = "cheap"
    criterion: Criterion = cross_entropy


@dataclass(frozen=True)
class State:
    """All that an iteration reads beside its batches, and all that it moves, where it lies.

    Of one network, or of K stacked ones: then losses are [K, n] and `meta_loss` is [K].
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    weight_net: nn.Module
    weight_optimizer: torch.optim.Optimizer
    trained: Mapping[str, nn.Parameter]  # those of the model's parameters that the optimiser moves, by name
    aligned: tuple[str, ...]  # which of them the virtual step moves and Eq. 6 aligns, in the same order
    meta_loss: Tensor  # [] of the newest iteration that moved the weight net


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


def iterate(state: State, rule: Rule, batch: Pair, meta: Pair | None, worker: Worker) -> MetaStep:
    """Algorithm 1, lines 5 to 7, on a training batch and a clean meta batch; without one, line 7 alone.

    Moves what `state` holds - model, weight net, both optimisers' state, `meta_loss` - and nothing else.
    """
    state.model.train()
    for parameter in state.trained.values():
        parameter.grad = None  # the last step's, as large as the model
    return _follow(state, rule, batch, worker) if meta is None else _learn(state, rule, batch, meta, worker)


def values_of(weight_net: nn.Module, rule: Rule, losses: Tensor, classes: Tensor | None) -> Tensor:
    """V(L; theta) or V(L, y; theta), [n], in float32 at least: weights that are rounded do not sum to 1.

    Raises:
        ValueError: the weight net gives not one weight for each loss.
    """
    losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
    with torch.autocast(losses.device.type, enabled=False):
        given = (losses,) if rule.conditioning == "none" else (losses, classes)
        values: Tensor = weight_net(*given)
    if values.shape != losses.shape:  # [n, 1] would be spread to [n, n] further on
        shape = list(losses.shape)
        raise ValueError(f"weight_net gave {list(values.shape)} for losses {shape}; it must give {shape}")
    return values


@dataclass(frozen=True)
class _Forward:
    """The training forward at w: what can be differentiated along a direction, its losses, and their weights."""

    recording: Recording
    losses: Tensor
    weights: Weights


def _learn(state: State, rule: Rule, batch: Pair, meta: Pair, worker: Worker) -> MetaStep:
    recording = record(state.model, batch[0], rule.recompute)
    losses = rule.criterion(recording.outputs, batch[1])
    weights = _learning_weights(state, rule, losses, batch[1], worker)
    moving = state.trained if rule.order == "lagged" else {name: state.trained[name] for name in state.aligned}
    gradients = worker.gradients(losses, list(moving.values()), weights.eta, retain_graph=True)
    slopes = dict(zip(moving, gradients, strict=True))
    if rule.order == "exact":
        gradients.clear()
    alignment = _meta_step(state, rule, _Forward(recording, losses, weights), slopes, meta, worker)
    if rule.order == "lagged":
        assert isinstance(weights, Multipliers)
        _move(state, gradients)
    else:
        weights = _actual_step(state, rule, losses, batch[1], worker)
    return _seen(state, recording.outputs, losses, weights, -alignment)


def _follow(state: State, rule: Rule, batch: Pair, worker: Worker) -> MetaStep:
    outputs = state.model(batch[0])
    losses = rule.criterion(outputs, batch[1])
    return _seen(state, outputs, losses, _actual_step(state, rule, losses, batch[1], worker), None)


def _learning_weights(state: State, rule: Rule, losses: Tensor, classes: Tensor, worker: Worker) -> Weights:
    """The weights of Eq. 3, with their graph to theta."""

    def values(of: Tensor) -> Tensor:
        return values_of(state.weight_net, rule, of, classes)

    if rule.input == "through":
        return weigh_through(values, losses, rule.weight_map, rule.tau, worker)
    return weigh(values(losses.detach()), rule.weight_map, rule.tau, worker)


def _meta_step(
    state: State, rule: Rule, forward: _Forward, gradients: dict[str, Tensor], meta: Pair, worker: Worker
) -> Tensor:
    """theta+: Eq. 4, its gradient by Eq. 6 with the inner products u [n] of one tangent pass, which are returned.

    Empties `gradients`: each of g, w_hat and g_m is as large as the model, and gone when the next one has been made.
    """
    ahead, still = _virtual_step(state, rule, gradients)
    gradients.clear()
    at = dict(zip(state.aligned, ahead.parameters, strict=True))
    still |= gradient.copies(state.model, forward.recording, {**at, **still})
    lends = meta[0].shape[: forward.losses.dim()].numel() > LENT * forward.losses.numel()
    with forward.recording.set_aside() if lends else nullcontext(nullcontext()) as reading:
        meta_loss, slopes = gradient.meta_gradient(state.model, at, meta, rule.criterion, worker, still, reading)
    for made in (ahead.parameters, at, still):
        made.clear()
    state.meta_loss.copy_(meta_loss)
    direction = dict(zip(state.aligned, ahead.pull_back(slopes), strict=True))
    slopes.clear()
    inner_products = gradient.inner_products(forward.recording, forward.losses, direction)
    theta = list(state.weight_net.parameters())
    by_theta = torch.autograd.grad(forward.weights.surrogate(inner_products, worker), theta)
    set_gradients(theta, worker.average(by_theta))
    state.weight_optimizer.step()
    return inner_products


def _virtual_step(state: State, rule: Rule, gradients: dict[str, Tensor]) -> tuple[LookAhead, dict[str, Tensor]]:
    """w_hat(theta), Eq. 3: the aligned parameters, with their Jacobian; others that move, by name, as constants."""

    def ahead(names: Sequence[str]) -> LookAhead:
        parameters = [state.trained[name] for name in names]
        return gradient.look_ahead(state.optimizer, parameters, [gradients[name] for name in names], rule.look_ahead)

    own = set(state.aligned)
    rest = [name for name in gradients if name not in own]
    return ahead(state.aligned), dict(zip(rest, ahead(rest).parameters, strict=True))


def _actual_step(state: State, rule: Rule, losses: Tensor, classes: Tensor, worker: Worker) -> Multipliers:
    """w+: Eq. 5, from the old w with the new weights."""
    with torch.no_grad():
        values = values_of(state.weight_net, rule, losses.detach(), classes)
    weights = weigh(values, rule.weight_map, rule.tau, worker)
    _move(state, worker.gradients(losses, list(state.trained.values()), weights.eta, retain_graph=False))
    return weights


def _move(state: State, gradients: list[Tensor]) -> None:
    """The real optimiser's step along `gradients`, those of all trained parameters."""
    set_gradients(list(state.trained.values()), gradients)
    state.optimizer.step()


def _seen(state: State, outputs: Tensor, losses: Tensor, weights: Multipliers, alignment: Tensor | None) -> MetaStep:
    return MetaStep(
        outputs.detach(), losses.detach(), weights.values.detach(), weights.eta, state.meta_loss.clone(), alignment
    )
