"""Tangent of any module by two pull-backs: what autograd does backwards, itself differentiated backwards.

The pull-back J'c of a forward is linear in c, so that its own pull-back along a direction v is J v. Reverse mode is
what defines the meta-gradient, and here it is all there is: a custom `autograd.Function` counts by its backward and a
gradient hook by what it returns, neither of which forward-mode AD sees. It costs a graph of the graph, in memory and
in time.

A backward that is not linear (a hook that clips) has no such tangent, and one that cannot be differentiated
(`once_differentiable`, NumPy inside) can come out as zero without a word: `mwray.meta.duality` finds both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mwray.meta.duality import wave
from mwray.meta.forward_mode import Whole, single_tensor


class PullBacks(Whole):
    """A recorded forward of `model` on `x` whose tangent pulls back twice through the graph of the forward.

    Raises:
        ValueError: the model returns something else than one tensor.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        # Neither fused attention nor what torch.compile makes can be differentiated twice.
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            super().__init__(model, lambda: without_hooks(single_tensor(model, model(x.detach()))))

    def tangent(self, direction: Mapping[str, Tensor]) -> Tensor:
        """Derivative of `outputs` by eps at w + eps * direction, eps = 0; same shape as `outputs`, no graph.

        Args:
            direction: by the model's parameter names, each shaped like its parameter; a missing name means zero, and
                so does the name of a parameter without a gradient.

        Raises:
            ValueError: a name that the model does not have, or a wrong shape.
            RuntimeError: the parameters have been changed since the forward, or a part of the model cannot be
                differentiated twice.
        """
        self._check(direction)
        return pulled_back_twice(self.outputs, self._parameters, direction)


def without_hooks(outputs: Tensor) -> Tensor:
    """The same tensor below which its own hooks lie: what pulls back from it runs them once, what ends at it never."""
    return outputs.view_as(outputs) if outputs._backward_hooks else outputs


def pulled_back_twice(outputs: Tensor, parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Tensor:
    """J v for `direction` v, by names of `parameters`, through the graph of `outputs`, which stays as it is.

    Raises:
        RuntimeError: a backward cannot be differentiated.
    """
    moving = {name: v for name, v in direction.items() if parameters[name].requires_grad}
    if not moving or not outputs.requires_grad:
        return torch.zeros_like(outputs)
    with torch.enable_grad(), torch.autocast(outputs.device.type, enabled=False):
        c = wave(outputs).requires_grad_()
        pulled = torch.autograd.grad(
            outputs, [parameters[name] for name in moving], c, create_graph=True, materialize_grads=True
        )
        reached = [(p, v) for p, v in zip(pulled, moving.values(), strict=True) if p.requires_grad]
        tangent = torch.zeros_like(outputs)
        if reached:
            ends, along = zip(*reached, strict=True)
            (tangent,) = torch.autograd.grad(ends, c, along, materialize_grads=True)
    return tangent
