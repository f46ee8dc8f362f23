"""Settings of the data (no torch here: an experiment is checked before anything heavy loads)."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from mwray.config import checked, config, later, nearest

BUILT_IN = ("digits", "cifar10", "cifar100", "fashion_mnist")
FOLDER = "folder:"


def known(source: str) -> None:
    """Let `source` pass if it can be the name of a data set; whether the data are there shows when they are loaded.

    Raises:
        ValueError: it is neither built in nor "folder:/path" nor "package.module:function".
    """
    before, colon, after = source.partition(":")
    if source in BUILT_IN or (before and colon and after):
        return
    path = "/" in source or source.startswith(("~", "."))
    hint = f" Did you mean '{FOLDER}{source}'?" if path else nearest(source, list(BUILT_IN))
    raise ValueError(
        f"there is no data set {source!r}.{hint} Known: {', '.join(BUILT_IN)}; or name your "
        "own as 'folder:/path' or 'package.module:function'."
    )


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

    source: Annotated[str, checked(known)] = "digits"
    """One of `BUILT_IN`; or data of your own, whose training labels are used as they are if `bias` is left alone:
    "folder:/path" (`mwray.data.folder`) or "package.module:function", which returns a `mwray.data.own.OwnData` or,
    of feature vectors, a `mwray.data.own.OwnFeatures`."""
    bias: Bias = Bias()
    num_meta: Annotated[int, Ge(0)] = 100
    """Clean, class-balanced images held out of the training images to learn the weight net on; of data of your own
    that has clean images, out of those."""
    num_validation: Annotated[int, Ge(0)] = 0
    """Clean, class-balanced images held out likewise, for selection only."""
    num_train: Annotated[int, Gt(0)] | None = None
    """At most so many training images, class-balanced, before any bias; None: all that are left."""
    num_test: Annotated[int, Gt(0)] | None = None
    """At most so many test images, class-balanced; None: all."""
    augment: bool = True
    """Random crop after reflect-padding an eighth of the shorter side, at least 4 pixels (4 for 32x32, 28 for 224x224),
    and horizontal flip, on training and meta images (colour images only: neither keeps the meaning of a digit, so
    digits and Fashion-MNIST are never flipped or cropped; a function of your own may say otherwise)."""
    image_size: Annotated[Annotated[int, Gt(0)] | None, later] = None
    """Of pictures in folders: the shorter side is resized to so many pixels, and the middle square is kept, when they
    are decoded. None: as they are, all of one size. Other sources have a size of their own and refuse it."""
    normalization: Annotated[Literal["auto", "data", "imagenet"], later] = "auto"
    """Mean and deviation per channel that images are normalised by: those of the training images ("data"; of CIFAR the
    rounded ones of the paper's code), or ImageNet's. "auto": those that the initial weights were trained with, where
    `model.weights` names some and they are known, else "data"."""

    def __post_init__(self) -> None:
        if self.image_size is not None and not self.source.startswith(FOLDER):
            raise ValueError(
                f"image_size resizes the pictures of folder:/path as they are decoded, and source is {self.source!r}; "
                "leave it out" + ("" if self.source in BUILT_IN else ", and resize in your function")
            )
