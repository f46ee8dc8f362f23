"""Settings of the data (no torch here: an experiment is checked before anything heavy loads)."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from mwray.config import config


@config
class Bias:
    """What is wrong with the training labels. A long tail and noise can be combined: the tail is cut first."""

    imbalance: Annotated[float, Ge(1)] = 1.0
    """Images of the largest class over images of the smallest (methods: n_i = int(n_max * imbalance^(-i/(C-1))))."""
    noise: Literal["none", "uniform", "flip", "flip2", "hierarchical"] = "none"
    """Where a wrong label goes: any class, one other class, two other classes, the other classes of its superclass."""
    rate: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a label is drawn anew."""
    exclude_true: bool = False
    """Uniform noise only: never draw the true class (the paper's code may: its true error rate is rate * (C-1)/C)."""

    def __post_init__(self) -> None:
        if self.noise == "none" and self.rate > 0:
            raise ValueError(
                f"rate is {self.rate} but noise is 'none'; choose noise='uniform', 'flip', 'flip2' or 'hierarchical'"
            )
        if self.exclude_true and self.noise != "uniform":
            raise ValueError(f"exclude_true is for uniform noise only, and noise is {self.noise!r}")


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
