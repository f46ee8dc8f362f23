"""Settings of the network (no torch here: an experiment is checked before anything heavy loads)."""

from __future__ import annotations

from mwray.config import config


@config
class Model:
    """Which network is trained."""

    name: str = "resnet32"
    """A name of `mwray.models.MODELS`, or "package.module:factory" with factory(num_classes, shape) -> nn.Module."""
