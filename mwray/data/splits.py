"""Who is trained on what: training, meta, validation and test images, disjoint, from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from mwray.config import config
from mwray.data.bias import Bias


@config
class Data:
    """Which images, how they are divided, and what is done to the training labels."""

    source: Literal["digits", "cifar10", "cifar100", "fashion_mnist"] = "digits"
    bias: Bias = Bias()
    num_meta: Annotated[int, Ge(0)] = 100
    """Clean, class-balanced images held out of the training images to learn the weight net on."""
    num_validation: Annotated[int, Ge(0)] = 0
    """Clean, class-balanced images held out likewise, for selection only."""
    num_train: Annotated[int, Gt(0)] | None = None
    """At most so many training images, class-balanced, before any bias; None: all that are left."""
    num_test: Annotated[int, Gt(0)] | None = None
    """At most so many test images, class-balanced; None: all."""
    augment: bool = True
    """Random crop after reflect-padding 4 pixels, and horizontal flip, on training and meta images (colour images
    only: neither keeps the meaning of a digit, so digits and Fashion-MNIST are never flipped or cropped)."""


@dataclass(frozen=True)
class Subset:
    """Some images with both labels, in a fixed order."""

    images: Tensor  # uint8 [N, C, H, W], on the CPU (may be memory-mapped)
    observed: Tensor  # int64 [N], what training sees
    true: Tensor  # int64 [N]
    index: Tensor  # int64 [N], position in the source's training (or test) images

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Splits:
    """The four disjoint sets of an experiment and what is known of them."""

    train: Subset
    meta: Subset
    validation: Subset
    test: Subset
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, of pixels in 0..1
    std: tuple[float, ...]
    transition: Tensor  # float64 [C, C]: probability of observed class (column) given true class (row), as drawn from

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width
