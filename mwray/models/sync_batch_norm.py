"""Batch norm over the batches of all workers: statistics of the whole batch, whoever holds which part of it.

PyTorch's own `SyncBatchNorm` needs CUDA and knows neither a derivative of its derivative nor a forward derivative
(PyTorch issue 61222). Here it is one operation with a backward of its own, and a tangent rule in
`mwray.meta.rules_exchange`. Both need the same two sums per channel, exchanged once per layer and pass: 2 C numbers.

The worker is not part of an operation's arguments, so operations name it by a number.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mwray.worker import Worker

ONCE = (
    "model.batch_norm is 'synchronized', and this network needs dual numbers or a second derivative for its tangent "
    "pass, which cannot cross workers; 'local' would do"
)

_teams: WeakValueDictionary[int, Worker] = WeakValueDictionary()


def synchronized(network: nn.Module, worker: Worker) -> nn.Module:
    """`network` with every batch norm replaced by one over all workers; parameters and buffers stay the same tensors.

    With one worker the network is returned as it is.
    """
    if worker.size == 1:
        return network
    _teams[id(worker)] = worker
    if isinstance(network, nn.modules.batchnorm._BatchNorm):
        return SyncBatchNorm(network, id(worker))
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
                setattr(parent, name, SyncBatchNorm(child, id(worker)))
    return network


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose training statistics are those of all workers' batches, which must be equally large.

    Every worker has to run the same layers in the same order, in every forward, backward and tangent pass.

    Raises:
        ValueError: it is to be differentiated by dual numbers, or twice: the exchange has no such form.
    """

    def __init__(self, local: _BatchNorm, team: int) -> None:
        """Take over parameters, buffers and settings of `local`; `team` is the id of a worker."""
        super().__init__(0, local.eps, local.momentum, affine=False, track_running_stats=False)
        self.num_features, self.affine, self.team = local.num_features, local.affine, team
        self.track_running_stats = local.track_running_stats
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(local, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(local, name))

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"batch norm needs inputs [B, C, ...] and was given {list(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, ...] by the statistics of all workers, or in evaluation by the running ones."""
        if not self.training and self.running_mean is not None:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if forward_ad.unpack_dual(x).tangent is not None:
            raise ValueError(ONCE)
        weight = x.new_ones(self.num_features) if self.weight is None else self.weight
        bias = x.new_zeros(self.num_features) if self.bias is None else self.bias
        y, mean, rstd = torch.ops.mwray.sync_batch_norm(x, weight, bias, self.eps, self.team)
        if self.running_mean is not None and self.running_var is not None:
            self._move(mean.detach(), rstd.detach(), x.numel() // x.shape[1])
        return y

    @torch.no_grad()
    def _move(self, mean: Tensor, rstd: Tensor, count: int) -> None:
        """Running statistics follow those of the whole batch, with the variance made unbiased as in PyTorch."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        count = count * _teams[self.team].size
        variance = (rstd**-2 - self.eps) * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(variance.to(self.running_var.dtype), rate)


@torch.library.custom_op("mwray::sync_batch_norm", mutates_args=())
def sync_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, team: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised x [B, C, ...], and mean and inverse deviation [C] of the batches of all workers.

    Means of x and x^2 are exchanged in float64, where their difference loses nothing that float32 has.
    """
    wide = _wide(x)
    variance, mean = torch.var_mean(wide, _all_but_channels(x), correction=0)
    mean, variance = mean.double(), variance.double()
    mean, square = _exchange(torch.stack([mean, variance + mean * mean]), team)
    rstd = (square - mean * mean).clamp_min(0).add(eps).rsqrt()
    scale = rstd * weight
    y = torch.addcmul(_across(bias - mean * scale, wide), wide, _across(scale, wide))
    return y.to(x.dtype), mean.to(wide.dtype), rstd.to(wide.dtype)


@sync_batch_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, team: int) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, _, team = inputs
    ctx.save_for_backward(x, weight, output[1], output[2])
    ctx.team = team


def _backward(ctx: Any, dy: Tensor, dmean: Tensor | None, drstd: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of the loss over all workers by this worker's x, and of its own loss by weight and bias (averaged later)."""
    x, weight, mean, rstd = ctx.saved_tensors
    if torch.is_grad_enabled():
        raise ValueError(ONCE)  # the exchange would count as a constant
    dx, dweight, dbias = centred(dy, x, mean, rstd, ctx.team)
    dx = (dx * _across(weight * rstd, dx)).to(x.dtype)
    return dx, dweight.to(weight.dtype), dbias.to(weight.dtype), None, None


sync_batch_norm.register_autograd(_backward, setup_context=_setup_context)


def centred(v: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, team: int) -> tuple[Tensor, Tensor, Tensor]:
    """v - mean(v) - xh mean(xh v) over all workers' batches, xh the normalised x: the Jacobian's symmetric part.

    It serves the backward pass (v the gradient of y) and the tangent pass (v the tangent of x) alike.

    Args:
        v, x: [B, C, ...].
        mean, rstd: [C], of all workers' batches.
        team: the worker's number.

    Returns:
        The projection, in the statistics' precision, and this worker's own sums over v xh and v, both [C].
    """
    normal = (_wide(x) - _across(mean, x)) * _across(rstd, x)
    v = _wide(v)
    dims = _all_but_channels(x)
    by_normal, plain = (v * normal).sum(dims), v.sum(dims)
    count = x.numel() // x.shape[1]
    mean_normal, mean_plain = _exchange(torch.stack([by_normal, plain]) / count, team)
    result = torch.addcmul(v - _across(mean_plain, v), normal, _across(mean_normal, v), value=-1)
    return result, by_normal, plain


def _exchange(sums: Tensor, team: int) -> tuple[Tensor, Tensor]:
    (means,) = _teams[team].average([sums])
    return means[0], means[1]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _across(channels: Tensor, like: Tensor) -> Tensor:
    return channels.to(torch.promote_types(like.dtype, torch.float32)).view(1, -1, *[1] * (like.dim() - 2))


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]
