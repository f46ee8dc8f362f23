"""A network computed in bfloat16 on float32 weights: what `precision=bf16` makes of any network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PREFIX = "network."


class Bfloat16(nn.Module):
    """Activations, convolutions and matrix products in bfloat16; weights, statistics and logits in float32.

    Every forward casts the float32 weights, so gradients and optimiser stay float32. Normalisations keep their own
    parameters and running statistics in float32 and sum in float32, as cuDNN does; what a network of your own computes
    in float32 meanwhile (a buffer, a layer norm on a GPU) autocast brings to bfloat16 at the next product.

    The weights are cast here rather than by autocast: its cache hides their history from the tape of the tangent pass,
    and forward-mode AD must see one type per operation (Micikevicius et al., "Mixed precision training", ICLR 2018, for
    master weights; bfloat16 has float32's exponents, so that no loss scale is needed).

    Checkpoints hold the network's own names, as in every other precision.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._wide = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in network.named_modules()
            if isinstance(module, NORMS)
            for name, _ in module.named_parameters(recurse=False)
        }
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)

    def forward(self, x: Tensor) -> Tensor:
        """Logits float32 [B, C] of images float32 [B, C, H, W]."""
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            weights = {
                name: parameter.to(torch.bfloat16)
                for name, parameter in self.network.named_parameters()
                if name not in self._wide
            }
            logits: Tensor = torch.func.functional_call(self.network, weights, (x.to(torch.bfloat16),))
        return logits.float()


def _without_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    _rename(state, prefix + PREFIX, prefix)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    _rename(state, prefix, prefix + PREFIX)


def _rename(state: dict[str, Any], old: str, new: str) -> None:
    for name in [name for name in state if name.startswith(old)]:
        state[new + name.removeprefix(old)] = state.pop(name)
