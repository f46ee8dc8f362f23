"""From the outputs of a weight net to the weights of a batch, and back: the derivative by each output.

Losses and values are [n], or [K, n] for K trials at once (`mwray.pack`): sums run over the last dimension, and a number
[1] of one batch is [K, 1] for K.

Throughout, the divisor is the same on every worker and is a mean over workers: the mean over workers of the gradients
of `sum(eta * losses)` is then the gradient of the global weighted loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from mwray.worker import Worker

WeightMap = Literal["normalized", "mean", "detached"]


class Weights(Protocol):
    """The weights of one worker's share of a batch, n samples."""

    @property
    def eta(self) -> Tensor:
        """What multiplies each sample's loss gradient, [n], detached."""

    def surrogate(self, alignment: Tensor, worker: Worker) -> Tensor:
        """A number [] whose gradient by theta, averaged over workers, is that of sum_i u_i eta_i, for u [n] given."""


@dataclass(frozen=True)
class Multipliers:
    """Weights that are plain factors: eta = V / divisor, and no gradient flows through the losses V is read from."""

    values: Tensor  # V(L_i) [n], may carry the graph to theta
    divisor: Tensor  # [1]
    kind: WeightMap

    @property
    def eta(self) -> Tensor:
        """The weights themselves, [n], detached."""
        return self.values.detach() / self.divisor

    def surrogate(self, alignment: Tensor, worker: Worker) -> Tensor:
        """Eq. 40's sum lies in the graph, which subtracts the weighted mean of u over the whole (global) batch."""
        baseline = alignment.new_zeros((1,))
        if self.kind == "normalized":
            (baseline,) = worker.average([_sum(alignment * self.eta)])
        return (self.values * (alignment - baseline) / self.divisor).sum()


@dataclass(frozen=True)
class Through:
    """Weights through which the gradient of the losses flows too, as in the authors' long-tail code.

    With F = sum_k V_k L_k / S the weighted loss and S the sum of Eq. 40, what multiplies grad L_i is
    dF / dL_i = (V_i + V'_i (L_i - F)) / S; for "detached" and "mean", whose divisor is constant, F drops out of it.
    It can be negative.
    """

    values: Tensor  # V(L_i) [n], may carry the graph to theta
    slopes: Tensor  # V'(L_i) [n], likewise
    losses: Tensor  # L_i [n], detached
    divisor: Tensor  # [1]
    mean_loss: Tensor  # [1] F for "normalized", zero for the others
    kind: WeightMap

    @property
    def eta(self) -> Tensor:
        """The factors dF / dL_i, [n], detached."""
        return (self.values + self.slopes * (self.losses - self.mean_loss)).detach() / self.divisor

    def surrogate(self, alignment: Tensor, worker: Worker) -> Tensor:
        """Its gradient by theta is that of sum_i u_i dF / dL_i, with S and F in the graph where they depend on V."""
        centred = (self.losses - self.mean_loss) / self.divisor
        by_value = alignment / self.divisor
        if self.kind == "normalized":
            sums = [_sum(alignment * self.eta), _sum(alignment * self.slopes.detach())]
            by_sum, by_mean_loss = worker.average(sums)
            by_value = by_value - (by_sum + by_mean_loss * centred) / self.divisor
        return (self.values * by_value + self.slopes * (alignment * centred)).sum()


def weigh(values: Tensor, kind: WeightMap, tau: float, worker: Worker) -> Multipliers:
    """Form the weights of a batch from the weight net's outputs `values` [n].

    "normalized" is the paper's Eq. 40, "mean" its Eq. 3, "detached" the form of the authors' later code (CMW-Net).
    """
    return Multipliers(values, _divisor(values, kind, tau, worker), kind)


def weigh_through(
    weight_net: Callable[[Tensor], Tensor], losses: Tensor, kind: WeightMap, tau: float, worker: Worker
) -> Through:
    """The same for weights that are a function of the losses [n]; weight i must depend on loss i alone."""
    inputs = losses.detach().requires_grad_()
    values = weight_net(inputs)
    (slopes,) = torch.autograd.grad(values.sum(), inputs, create_graph=True, allow_unused=True, materialize_grads=True)
    divisor = _divisor(values, kind, tau, worker)
    mean_loss = torch.zeros_like(divisor)
    if kind == "normalized":
        (weighted,) = worker.average([_sum((values * inputs).detach())])
        mean_loss = weighted / divisor
    return Through(values, slopes, inputs.detach(), divisor, mean_loss, kind)


def _divisor(values: Tensor, kind: WeightMap, tau: float, worker: Worker) -> Tensor:
    if kind == "mean":
        return values.new_full((1,), values.shape[-1])
    (total,) = worker.average([_sum(values.detach())])
    return torch.where(total == 0, total.new_full((), tau), total)


def _sum(values: Tensor) -> Tensor:
    return values.sum(-1, keepdim=True)
