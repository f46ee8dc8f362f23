"""The meta-gradient by double backward, as the paper's own code takes it: an oracle for tests, not a code path.

Everything here is written the long way: one graph from the weight net's parameters through the virtual step to the
meta loss, differentiated by autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

CROSS_ENTROPY = partial(F.cross_entropy, reduction="none")


def weights_of(values: Tensor, kind: str) -> Tensor:
    """Eq. 3 and Eq. 40, and the later code's detached sum."""
    if kind == "mean":
        return values / len(values)
    total = values.sum()
    if kind == "detached":
        total = total.detach()
    return values / (total + (total == 0))


def virtual_step(optimizer: torch.optim.Optimizer, w: Tensor, parameter: Tensor, g: Tensor, kind: str) -> Tensor:
    """w_hat as a differentiable function of g."""
    group = optimizer.param_groups[0]
    state = optimizer.state.get(parameter, {})
    if kind == "sgd":
        return w - group["lr"] * g
    if isinstance(optimizer, torch.optim.SGD):
        d = g + group["weight_decay"] * w
        if group["momentum"]:
            if state.get("momentum_buffer") is None:
                b = d
            else:
                b = group["momentum"] * state["momentum_buffer"] + (1 - group["dampening"]) * d
            d = d + group["momentum"] * b if group["nesterov"] else b
        return w - group["lr"] * d
    beta1, beta2 = group["betas"]
    t = state["step"] + 1
    if isinstance(optimizer, torch.optim.AdamW):
        w = w * (1 - group["lr"] * group["weight_decay"])
    else:
        g = g + group["weight_decay"] * w
    m = beta1 * state["exp_avg"] + (1 - beta1) * g
    v = beta2 * state["exp_avg_sq"] + (1 - beta2) * g**2
    return w - group["lr"] * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + group["eps"])


def meta_gradient(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weight_net: nn.Module,
    batch: tuple[Tensor, Tensor],
    meta: tuple[Tensor, Tensor],
    weight_map: str,
    look_ahead: str,
    *,
    through: bool = False,
    by_class: bool = False,
    moved: Callable[[str], bool] = lambda name: True,
    aligned: Callable[[str], bool] = lambda name: True,
    criterion: Callable[[Tensor, Tensor], Tensor] = CROSS_ENTROPY,
) -> tuple[Tensor, list[Tensor]]:
    """Meta loss at w_hat and its gradient by the weight net's parameters; nothing is moved.

    `through`: the virtual step's gradient also flows through the losses that the weights are read from. `by_class`:
    the weight net sees the observed classes too. `moved`, `aligned`: which parameters, by name, the virtual step moves,
    and through whose move the gradient flows. `criterion` gives the losses [n] of outputs and targets.
    """
    model.train()
    named = dict(model.named_parameters())
    w = {name: p.detach().clone().requires_grad_() for name, p in named.items()}

    def losses_at(parameters: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        return criterion(functional_call(model, {**buffers, **parameters}, (pair[0],)), pair[1])

    losses = losses_at(w, batch)
    seen = losses if through else losses.detach()
    eta = weights_of(weight_net(seen, batch[1]) if by_class else weight_net(seen), weight_map)
    gradients = torch.autograd.grad((eta * losses).sum(), list(w.values()), create_graph=True)
    ahead = {
        name: virtual_step(optimizer, w[name].detach(), named[name], g if aligned(name) else g.detach(), look_ahead)
        if moved(name)
        else w[name].detach()
        for name, g in zip(w, gradients, strict=True)
    }
    meta_loss = losses_at(ahead, meta).mean()
    return meta_loss.detach(), list(torch.autograd.grad(meta_loss, list(weight_net.parameters())))
