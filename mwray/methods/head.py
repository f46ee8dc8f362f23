"""The last linear layer of any network: where features become logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from mwray.config import ConfigError


def last_linear(network: nn.Module, num_classes: int) -> nn.Linear:
    """The last `nn.Linear` of `network` in order of registration, which must give `num_classes` outputs.

    Raises:
        ConfigError: there is none, so features and logits cannot be told apart.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].out_features != num_classes:
        raise ConfigError(
            f"model.name: this method needs a network that ends in an nn.Linear with {num_classes} outputs, and "
            f"{type(network).__name__} has no such layer; any network of mwray.models.registry.MODELS would do"
        )
    return layers[-1]


@contextmanager
def features_of(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """While open, every forward appends the input [B, d] of `layer` to the list: the network's last features."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
