"""What a tangent pass and a backward pass agree on, <c, J v> = <J'c, v>: a check that needs no second opinion.

A forward shows nothing of what is hung on its graph: a hook of a `grad_fn`, or one that a tensor gets after its last
use. The tape cannot see them, forward-mode AD never hears of any hook, and the meta-gradient (Shu et al. 2019, Eq. 6)
is made of backward passes, where they count. So a tangent is held to one pull-back through the graph of its forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

PERIOD = 500
"""Tangents of a model from one check to the next: a backward pass in 500 steps is a two-thousandth of their time."""
ALLOWED = 1e-3
"""Share of the terms' size. In our tests' networks rounding takes up to 2e-7 of it in float32, 6e-3 in bfloat16."""
ALLOWED_IN_HALF = 0.05
"""The same where a number may have had ten bits or fewer: bfloat16, and TF32 on a GPU."""


def wave(outputs: Tensor) -> Tensor:
    """A cotangent shaped like `outputs`, of norm 1, that has no random numbers in it: those belong to the training."""
    sines = torch.arange(outputs.numel(), device=outputs.device, dtype=torch.float32).add_(1).sin_()
    return (sines / sines.norm()).view(outputs.shape).to(outputs.dtype)


def defect(
    outputs: Tensor, parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor], tangent: Tensor | None
) -> float:
    """|<c, J v> - <J'c, v>| as a share of its terms' size, where `tangent` (None: zero) is said to be J v.

    Takes one pull-back from `outputs` to `parameters`; their graph stays as it is. `direction` v is by name. NaN where
    all terms are zero, as in a first step at a learning rate of zero; not finite where a number is not. The host waits
    for the device.
    """
    given = torch.zeros_like(outputs) if tangent is None else tangent.detach()
    # Along J v, where nothing cancels, and a little beside it, where J v may lack something.
    c = wave(outputs) + given / given.norm().clamp_min(torch.finfo(given.dtype).tiny)
    moving = {name: v for name, v in direction.items() if parameters[name].requires_grad}
    pulled: tuple[Tensor | None, ...] = ()
    if moving and outputs.requires_grad:
        with torch.autocast(outputs.device.type, enabled=False):
            wanted = [parameters[name] for name in moving]
            pulled = torch.autograd.grad(outputs, wanted, c, retain_graph=True, allow_unused=True)
    ours = (c * given).double()
    theirs = [(p * v).double() for p, v in zip(pulled, moving.values(), strict=False) if p is not None]
    total = sum((terms.sum() for terms in theirs), ours.new_zeros(()))
    squares = sum((terms.square().sum() for terms in theirs), ours.new_zeros(()))
    size = torch.stack([ours.norm(), squares.sqrt(), ours.sum().abs(), total.abs()]).amax()
    return float((ours.sum() - total).abs() / size)


class Trust:
    """Models whose tangent a backward pass has borne out: until their hooks change, or for `PERIOD` tangents."""

    def __init__(self) -> None:
        self._given: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()  # hooks, tangents left

    def spend(self, model: nn.Module) -> bool:
        """Whether the next tangent of `model` needs no check."""
        hooks, left = self._given.get(model, (0, 0))
        if not left or hooks != _hooks(model):
            return False
        self._given[model] = hooks, left - 1
        return True

    def give(self, model: nn.Module) -> None:
        """Take note of a tangent that was borne out."""
        self._given[model] = _hooks(model), PERIOD - 1

    def clear(self) -> None:
        """Trust nobody."""
        self._given.clear()


def _hooks(model: nn.Module) -> int:
    """How many hooks of its own a model has; hooks of tensors that a forward makes come and go with them."""
    of_modules = sum(
        len(hooks)
        for module in model.modules()
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )
    return of_modules + sum(len(parameter._backward_hooks or ()) for parameter in model.parameters())
