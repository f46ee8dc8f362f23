"""The exact meta-gradient from inner products: look-ahead steps and their derivatives.

With eta_i(theta) the weight of sample i, L_i(w) its loss and w_hat = w - step(sum_i eta_i grad L_i), the chain rule
gives (Shu et al. 2019, Eq. 6 and Eq. 9, for any weight map and any step whose Jacobian P in the gradient is known)

    d L_meta(w_hat) / d theta = sum_i u_i d eta_i / d theta,     u_i = <grad L_i(w), P^T grad L_meta(w_hat)>.

The u_i are one directional derivative of the loss vector, so no graph of a graph is ever built.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwray.meta.tangent import Recording
from mwray.worker import Worker

Direction = list[Tensor]
Pair = tuple[Tensor, Tensor]
"""Inputs [B, ...] and targets [B]."""
Criterion = Callable[[Tensor, Tensor], Tensor]
"""Per-sample losses [B] from outputs [B, ...] and targets [B]; loss i depends on output i alone."""


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample cross-entropy [n] of logits [n, C] against classes [n], in float32 at least."""
    wide = outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
    return F.cross_entropy(wide, targets, reduction="none")


def meta_gradient(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    meta: Pair,
    criterion: Criterion,
    worker: Worker,
    constants: Mapping[str, Tensor] | None = None,
    reading: AbstractContextManager[object] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Mean loss [] of the clean batch `meta` at `parameters`, and its gradient there, both averaged over workers.

    Batch norm uses the batch's own statistics, as in training; running statistics stay as they are. Parameters of
    `model` that are in neither `parameters` nor `constants` keep their values; below the first of `parameters` no graph
    is kept. Gradients come in the order of `parameters`; one that the loss does not reach is zero. `reading` is what
    `Recording.set_aside` gives: the model runs in it.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    state = {name: value.detach() for name, value in model.named_parameters()}
    state |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    with reading or nullcontext():
        outputs = torch.func.functional_call(model, {**state, **(constants or {}), **leaves}, (meta[0],))
    loss = criterion(outputs, meta[1]).mean(-1)
    slopes = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    mean_loss, *mean_slopes = worker.average([loss.detach(), *slopes])
    return mean_loss, mean_slopes


def copies(model: nn.Module, recording: Recording, moved: Container[str]) -> dict[str, Tensor]:
    """Copies of the parameters, by name, to which a forward of `model` writes and which are not `moved`.

    For `constants`: the meta pass leaves the model as it is, and a forward may constrain its weights in place.
    """
    held = dict(model.named_parameters()) if recording.written else {}
    return {name: held[name].detach().clone() for name in recording.written if name not in moved}


def inner_products(recording: Recording, losses: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
    """Inner product [n] of each sample's loss gradient with `direction`, from one tangent pass.

    `losses` [n] must hang on `recording.outputs`, loss i on output i alone. With batch norm the derivative is that of
    the whole batch: a sample's loss also moves through the others' statistics.
    """
    (by_output,) = torch.autograd.grad(losses.sum(), recording.outputs, retain_graph=True)
    return (by_output * recording.tangent(direction)).reshape(*losses.shape, -1).sum(-1).to(losses.dtype)


@dataclass(frozen=True)
class LookAhead:
    """The parameters after a virtual step, and the transposed Jacobian of that step by the gradient."""

    parameters: list[Tensor]
    pull_back: Callable[[Sequence[Tensor]], Direction]


def look_ahead(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    kind: Literal["sgd", "optimizer"],
) -> LookAhead:
    """Take the virtual step from `parameters` along `gradients`, leaving both and the optimiser's state untouched.

    "sgd": w - lr * g, with each parameter group's current lr (Eq. 3). "optimizer": what `optimizer.step()` would do
    next, momentum, weight decay and all, for torch.optim.SGD, Adam and AdamW.

    Raises:
        ValueError: "optimizer" with another optimiser, or a setting of it that has no smooth step.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    settings = [groups[id(p)] for p in parameters]
    if kind == "sgd":
        return _plain(parameters, gradients, [group["lr"] for group in settings])
    states = [optimizer.state.get(p, {}) for p in parameters]
    check_known(optimizer, "look_ahead='optimizer'", "look_ahead='sgd'")
    step = _momentum if isinstance(optimizer, torch.optim.SGD) else _adam
    return step(parameters, gradients, settings, states)


def check_known(optimizer: torch.optim.Optimizer, what: str, instead: str) -> None:
    """Refuse, with ValueError, an optimiser whose step `look_ahead` cannot write down: `what` needs it."""
    if not isinstance(optimizer, (torch.optim.SGD, torch.optim.Adam)):  # AdamW is an Adam from torch 2.7 on
        raise ValueError(
            f"{what} knows torch.optim.SGD, Adam and AdamW, not {type(optimizer).__name__}; "
            f"{instead} works with every optimiser"
        )


def _plain(parameters: Sequence[Tensor], gradients: Sequence[Tensor], rates: Sequence[float | Tensor]) -> LookAhead:
    ahead = [p.detach() - lr * g for p, g, lr in zip(parameters, gradients, rates, strict=True)]
    return LookAhead(ahead, lambda meta: [-lr * g for g, lr in zip(meta, rates, strict=True)])


def _momentum(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    settings: Sequence[Mapping],  # type: ignore[type-arg]
    states: Sequence[Mapping],  # type: ignore[type-arg]
) -> LookAhead:
    """torch.optim.SGD's step: its Jacobian in the gradient is a number for each parameter."""
    ahead, factors = [], []
    for p, g, group, state in zip(parameters, gradients, settings, states, strict=True):
        sign = -1.0 if group["maximize"] else 1.0
        step = sign * g + group["weight_decay"] * p.detach()
        factor: float | Tensor = 1.0
        mu, damping = group["momentum"], 1 - group["dampening"]
        if isinstance(mu, Tensor) or mu:
            buffer = state.get("momentum_buffer")
            heavy = step if buffer is None else mu * buffer + damping * step
            slope = 1.0 if buffer is None else damping
            step, factor = (step + mu * heavy, 1 + mu * slope) if group["nesterov"] else (heavy, slope)
        ahead.append(p.detach() - group["lr"] * step)
        factors.append(-group["lr"] * sign * factor)
    return LookAhead(ahead, lambda meta: [factor * g for g, factor in zip(meta, factors, strict=True)])


def _adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    settings: Sequence[Mapping],  # type: ignore[type-arg]
    states: Sequence[Mapping],  # type: ignore[type-arg]
) -> LookAhead:
    """Adam's and AdamW's step is elementwise: autograd of it alone gives the exact diagonal Jacobian.

    Where the second moment is zero the step's slope has no limit; there the derivative is taken as zero.
    """
    leaves = [g.detach().requires_grad_() for g in gradients]
    with torch.enable_grad():
        ahead = [
            _adam_step(p.detach(), g, group, state)
            for p, g, group, state in zip(parameters, leaves, settings, states, strict=True)
        ]

    def pull_back(meta: Sequence[Tensor]) -> Direction:
        return [torch.nan_to_num(d, 0.0, 0.0, 0.0) for d in torch.autograd.grad(ahead, leaves, list(meta))]

    return LookAhead([a.detach() for a in ahead], pull_back)


def _adam_step(p: Tensor, g: Tensor, group: Mapping, state: Mapping) -> Tensor:  # type: ignore[type-arg]
    if group["amsgrad"]:
        raise ValueError("look_ahead='optimizer' does not know Adam with amsgrad=True; use look_ahead='sgd'")
    b1, b2 = group["betas"]
    step = _steps(state["step"], group["capturable"]) + 1 if state else 1.0
    first = state["exp_avg"] if state else torch.zeros_like(p)
    second = state["exp_avg_sq"] if state else torch.zeros_like(p)
    g = -g if group["maximize"] else g
    if group["decoupled_weight_decay"]:  # AdamW
        p = p * (1 - group["lr"] * group["weight_decay"])
    else:
        g = g + group["weight_decay"] * p
    first = b1 * first + (1 - b1) * g
    second = b2 * second + (1 - b2) * g * g
    scale = (second / _gone(b2, step, p)).sqrt() + group["eps"]
    return p - group["lr"] * (first / _gone(b1, step, p)) / scale


def _steps(count: Tensor, capturable: bool) -> Tensor | float:
    """Adam's count of steps; one that is kept on the device stays there, for to ask for it would wait.

    Stacked trials have a count for each element of the parameter.
    """
    on_host = count.device.type == "cpu" and not capturable and count.dim() == 0
    return float(count) if on_host else count.double()


def _gone(beta: float, step: Tensor | float, p: Tensor) -> Tensor | float:
    """1 - beta^step, what a mean that began at zero has taken up: counted in double precision, in the type of `p`."""
    taken = 1 - beta**step
    return taken.to(p.dtype) if isinstance(taken, Tensor) and taken.dim() else taken
