"""K networks of one make as one module: parameters and buffers [K, ...], images [K, n, ...], logits [K, n, C].

`torch.func.vmap` over the networks' own forward turns their convolutions into one grouped convolution and their matrix
products into one batched product (the idea of HFTA, Wang et al., MLSys 2021, which rewrites networks by hand). What
runs below it are ordinary operations, so autograd and the tape of `mwray.meta` follow it like any other network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StackedNetwork(nn.Module):
    """K networks that differ in the values of their tensors alone; network k is row k of every tensor.

    Attributes:
        size: K.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Take copies of the state of `networks`.

        Raises:
            ValueError: their tensors differ in name, shape or kind, or one is shared by two names (tied weights).
        """
        super().__init__()
        _check_alike(networks)
        self.size = len(networks)
        self.held = copy.deepcopy(networks[0])
        # Its own parameters are never used; the tuple keeps them out of this module's.
        self._template = (_prepared(copy.deepcopy(networks[0])),)
        rows = [dict(_tensors(network)) for network in networks]
        for prefix, module in self.held.named_modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        full = f"{prefix}.{name}" if prefix else name
                        stacked = torch.stack([row[full].detach() for row in rows])
                        table[name] = nn.Parameter(stacked, tensor.requires_grad) if _trained(tensor) else stacked

    def train(self, mode: bool = True) -> StackedNetwork:
        """Training or evaluation mode, of all of them."""
        self._template[0].train(mode)
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits [K, n, C] of images [K, n, ...], row k those of network k.

        Raises:
            RuntimeError: a network draws random numbers (dropout), or does something that cannot be stacked.
        """
        template = self._template[0]

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
            logits: Tensor = torch.func.functional_call(template, (parameters, buffers), (images,))
            return logits

        held: dict[str, Tensor] = dict(self.held.named_parameters())
        # "error": random numbers of K trials would come from one generator, and no trial would have its own.
        logits: Tensor = torch.func.vmap(one, randomness="error")(held, dict(self.held.named_buffers()), x)
        return logits

    @torch.no_grad()
    def unload(self, row: int, network: nn.Module) -> None:
        """Copy the state of network `row` into `network`."""
        stacked = dict(_tensors(self.held))
        for name, tensor in _tensors(network):
            tensor.copy_(stacked[name][row])


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """[K, n, C, H, W] from K batches of images, laid out in memory as a grouped convolution reads them: [n, K, ...].

    Of K batches of feature vectors [K, n, D], as a batched product reads them.
    """
    if images[0].dim() == 2:
        return torch.stack(list(images))
    return torch.stack(list(images), 1).transpose(0, 1)


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _trained(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _check_alike(networks: Sequence[nn.Module]) -> None:
    kinds = [[(name, tensor.shape, tensor.dtype) for name, tensor in _tensors(network)] for network in networks]
    if any(kind != kinds[0] for kind in kinds) or len({type(network) for network in networks}) > 1:
        raise ValueError("networks of different makes cannot be stacked")
    first = networks[0]
    if len(list(first.named_parameters())) != len(list(first.named_parameters(remove_duplicate=False))):
        raise ValueError(f"{type(first).__name__} shares a parameter between two places, and cannot be stacked")


# Batch norm ----------------------------------------------------------------------------------------------------------


def _prepared(network: nn.Module) -> nn.Module:
    """Give batch norms the forward below: `vmap`'s own rule scales and shifts in two more passes over memory."""
    for module in network.modules():
        plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        if plain and module.affine and module.track_running_stats and module.momentum is not None:
            module.forward = MethodType(_normalise, module)
    return network


def _normalise(module: Any, x: Tensor) -> Tensor:
    module._check_input_dim(x)
    if module.training:
        module.num_batches_tracked.add_(1)
    normalised: Tensor = _BatchNorm.apply(
        x,
        module.running_mean,
        module.running_var,
        module.weight,
        module.bias,
        module.training,
        module.momentum,
        module.eps,
    )
    return normalised


class _BatchNorm(torch.autograd.Function):
    """Batch norm of K networks as batch norm over K times as many channels."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        """Outside of `vmap` there is nothing to stack, and this is never called."""
        raise AssertionError("to be called under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing: under `vmap` autograd sees the operations below, not this function."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, mean: Tensor, var: Tensor, *rest: Any) -> tuple[Tensor, int]:
        """x [n, K, C, ...] or [K, n, C, ...]; all others [K, C], the running statistics moved in place."""
        weight, bias, training, momentum, eps = rest
        x = x.unsqueeze(1).expand(-1, info.batch_size, *x.shape[1:]) if in_dims[0] is None else x.movedim(in_dims[0], 1)
        flat = F.batch_norm(
            x.flatten(1, 2), mean.view(-1), var.view(-1), weight.view(-1), bias.view(-1), training, momentum, eps
        )
        return flat.unflatten(1, x.shape[1:3]), 1
