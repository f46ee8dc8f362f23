"""Settings of the network (no torch here: an experiment is checked before anything heavy loads)."""

from __future__ import annotations

from typing import Annotated, Literal

from mwray.config import ConfigError, config, later


@config
class Model:
    """Which network is trained."""

    name: str = "resnet32"
    """A name of `mwray.models.registry.MODELS`, "torchvision:NAME" for any classifier of `torchvision.models`,
    "timm:NAME" where timm is installed, or "package.module:factory".

    A factory takes (num_classes, shape), shape being (channels, height, width) of images or (features,) of feature
    vectors, and returns an `nn.Module`. Vectors are for "linear", "mlp" and factories that build for them.
    """
    weights: Annotated[str | None, later] = None
    """Initial weights: "pretrained" (those that torchvision or timm publish for the network), a file that holds a state
    dict (.pt, .pth, .safetensors), or the folder of a run. A last layer for another number of classes starts fresh.
    None: all start fresh."""
    batch_norm: Literal["local", "synchronized"] = "local"
    """Over several workers: each normalises its own share of a batch, or all of them the whole batch together, which
    makes them equal one process at the cost of an exchange per layer and pass. One worker knows no difference."""


def parse_shape(text: str) -> tuple[int, ...]:
    """Widths of the layers: "1-100-1" is (1, 100, 1).

    Raises:
        ConfigError: not whole positive numbers joined by "-", fewer than three of them, or ends other than 1.
    """
    parts = text.split("-")
    numeric = all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts)
    if not numeric or len(parts) < 3 or int(parts[0]) != 1 or int(parts[-1]) != 1:
        raise ConfigError(
            f"{text!r} is not the shape of a weight net: write the widths of its layers joined by '-', first and last "
            "1 (a loss in, a weight out), for example '1-100-1' or '1-10-10-1'"
        )
    return tuple(int(part) for part in parts)
