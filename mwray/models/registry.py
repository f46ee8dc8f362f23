"""Which network carries which name: a written-out table, those of torchvision and timm, and your own by import path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from mwray.config import ConfigError, nearest
from mwray.imported import imported
from mwray.models import libraries
from mwray.models.cnn9 import CNN9
from mwray.models.mlp import MLP, LinearProbe
from mwray.models.resnet_cifar import ResNet
from mwray.models.settings import Model
from mwray.models.small import SmallConvNet
from mwray.models.wide_resnet import WideResNet

Shape = tuple[int, ...]
"""(channels, height, width) of an image, or (features,) of a feature vector."""
Factory = Callable[[int, Any], nn.Module]
"""A function of the number of classes and of a `Shape`."""

MODELS: dict[str, Factory] = {
    "small": SmallConvNet,
    "mlp": MLP,
    "linear": LinearProbe,
    "cnn9": CNN9,
    "resnet8": partial(ResNet, 8),
    "resnet20": partial(ResNet, 20),
    "resnet32": partial(ResNet, 32),
    "resnet56": partial(ResNet, 56),
    "wrn10-1": partial(WideResNet, 10, 1),
    "wrn16-4": partial(WideResNet, 16, 4),
    "wrn28-10": partial(WideResNet, 28, 10),
}
"""Every network by name. The paper uses resnet32 and wrn28-10; Co-teaching's uses cnn9."""


def build(model: Model, num_classes: int, shape: Shape) -> nn.Module:
    """Return a fresh network, initialised from torch's global generator.

    Args:
        model: its name.
        num_classes: number of logits.
        shape: channels, height and width of an image, or the number of features of a vector.

    Raises:
        ConfigError: no such name, a module that cannot be imported, a factory that does not give an `nn.Module`, a
            network of images for vectors, or one of a library that cannot take images of `shape`.
    """
    if model.name.startswith(libraries.PREFIXES):
        if len(shape) == 1:
            raise _no_vectors(model.name, shape[0])
        channels, height, width = shape
        return libraries.build(model.name, num_classes, (channels, height, width))
    factory = find(model.name)
    try:
        network = factory(num_classes, shape)
        if len(shape) == 1 and isinstance(network, nn.Module):
            _try(network, num_classes, shape[0])
    except Exception as error:
        if len(shape) == 1:  # whatever a network of images makes of them
            raise _no_vectors(model.name, shape[0], None if model.name in MODELS else error) from error
        if not isinstance(error, TypeError):
            raise
        raise ConfigError(
            f"model.name: {model.name!r} cannot be called as factory(num_classes, shape): {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"model.name: {model.name!r} must return a torch.nn.Module, and returned {type(network).__name__}"
        )
    return network


@torch.no_grad()
def _try(network: nn.Module, num_classes: int, features: int) -> None:
    """Give the network two vectors, in evaluation mode: nothing is drawn and nothing kept."""
    logits = network.eval()(torch.zeros(2, features))
    network.train()
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"of 2 vectors it gave {found}, not [2, {num_classes}]")


def _no_vectors(name: str, features: int, error: Exception | None = None) -> ConfigError:
    """The error of a network of images for vectors; `error` is what one of the user's own raised."""
    why = "it is a network of images"
    if error is not None:
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    return ConfigError(
        f"model.name: {name!r} does not take the data's feature vectors [N, {features}]: {why}; 'linear', 'mlp', or "
        f"a factory of your own that builds for shape ({features},) would do"
    )


def find(name: str) -> Factory:
    """The factory that `name` stands for.

    Raises:
        ConfigError: as `build`.
    """
    if name in MODELS:
        return MODELS[name]
    if ":" not in name:
        hint = libraries.hint(name) or nearest(name, list(MODELS))
        raise ConfigError(
            f"model.name: there is no network {name!r}.{hint} Known: {', '.join(MODELS)}; "
            "'torchvision:NAME' and 'timm:NAME'; or name your own as 'package.module:factory'."
        )
    try:
        return imported("model.name", name)
    except ConfigError as error:
        library, _, network = name.partition(":")
        meant = nearest(f"{library}:", list(libraries.PREFIXES)).replace(":'", f":{network}'")
        raise ConfigError(f"{error}{meant}") from error
