"""Networks: plain `nn.Module`s, named in `MODELS` or by import path."""

from __future__ import annotations

from mwray.config import config


@config
class Model:
    """Which network is trained."""

    name: str = "resnet32"
    """A name of `MODELS`, or "package.module:factory" with factory(num_classes, shape) -> nn.Module."""
