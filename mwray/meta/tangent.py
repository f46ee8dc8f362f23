"""A training forward that can be differentiated along a direction afterwards: the tangent pass of the meta-gradient.

The meta-gradient of Meta-Weight-Net (Shu et al. 2019, Eq. 6) needs, of the per-sample losses, only their derivative
along one direction in the parameters. So no graph of a graph is built: `record` runs the forward once, and
`Recording.tangent` is one pass in forward mode beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from mwray.meta.forward_mode import ForwardMode


class Recording(Protocol):
    """A forward of a model on a batch that has been run once and can be differentiated along directions.

    Attributes:
        outputs: model(x) in the model's present mode, attached to the autograd graph of its own parameters; running
            statistics have moved once.
    """

    outputs: Tensor

    def tangent(self, direction: Mapping[str, Tensor]) -> Tensor:
        """Derivative of `outputs` by eps at parameters w + eps * direction, eps = 0, without an autograd graph.

        Batch statistics and dropout masks are those of the recorded forward; parameters, running statistics and the
        state of the random generators stay as they are. Call it before the parameters are changed.

        Args:
            direction: by `model.named_parameters()` names, each shaped like its parameter; a missing name means zero.

        Raises:
            ValueError: a name that the model does not have, or a wrong shape.
        """


def record(model: nn.Module, x: Tensor) -> Recording:
    """Run `model` on `x` [B, ...] once, keeping what a tangent pass needs.

    Raises:
        ValueError: the model returns something else than one tensor.
    """
    return ForwardMode(model, x)
