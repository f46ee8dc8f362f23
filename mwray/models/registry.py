"""Which network carries which name: a written-out table, and networks of your own by import path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from mwray.config import ConfigError, nearest
from mwray.imported import imported
from mwray.models.cnn9 import CNN9
from mwray.models.mlp import MLP
from mwray.models.resnet_cifar import ResNet
from mwray.models.settings import Model
from mwray.models.small import SmallConvNet
from mwray.models.wide_resnet import WideResNet

Shape = tuple[int, int, int]
Factory = Callable[[int, Shape], nn.Module]
"""A function of the number of classes and of an image's channels, height and width."""

MODELS: dict[str, Factory] = {
    "small": SmallConvNet,
    "mlp": MLP,
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
        shape: channels, height and width of an image.

    Raises:
        ConfigError: no such name, a module that cannot be imported, or a factory that does not give an `nn.Module`.
    """
    factory = find(model.name)
    try:
        network = factory(num_classes, shape)
    except TypeError as error:
        raise ConfigError(
            f"model.name: {model.name!r} cannot be called as factory(num_classes, shape): {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"model.name: {model.name!r} must return a torch.nn.Module, and returned {type(network).__name__}"
        )
    return network


def find(name: str) -> Factory:
    """The factory that `name` stands for.

    Raises:
        ConfigError: as `build`.
    """
    if name in MODELS:
        return MODELS[name]
    if ":" not in name:
        raise ConfigError(
            f"model.name: there is no network {name!r}.{nearest(name, list(MODELS))} Known: {', '.join(MODELS)}; or "
            "name your own as 'package.module:factory'."
        )
    return imported("model.name", name)
