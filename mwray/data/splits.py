"""Who is trained on what: training, meta, validation and test images, disjoint, from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.data import bias as biases
from mwray.data import sources
from mwray.data.settings import Data
from mwray.data.sources import Source
from mwray.seeding import rng


@dataclass(frozen=True)
class Subset:
    """Some images with both labels, in a fixed order."""

    images: Tensor  # uint8 [N, C, H, W] or features float32 [N, D], on the CPU (may be memory-mapped)
    observed: Tensor  # int64 [N], what training sees
    true: Tensor | None  # int64 [N]; None where nobody knows them: training labels of one's own
    index: Tensor  # int64 [N], position in the source's training images (or test images, or clean ones)

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
    mean: tuple[float, ...]  # per channel, of pixels in 0..1; per feature
    std: tuple[float, ...]
    transition: Tensor  # float64 [C, C]: probability of observed class (column) given the source's (row), as drawn from
    augmentable: bool = False  # whether an image keeps its meaning when cropped and mirrored
    train_files: tuple[str, ...] | None = None  # where each of the source's training images is from

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def noun(self) -> str:
        """What a sample is: "image" or "vector"."""
        return noun(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image, or the number of features of a vector."""
        return tuple(self.test.images.shape[1:])


def noun(shape: Sequence[int]) -> str:
    """What a sample of `shape` is called where people read of it: "image", or "vector" of (D,) features."""
    return "vector" if len(shape) == 1 else "image"


def split(data: Data, seed: int, source: Source | None = None) -> Splits:
    """Divide a data set and put the bias into its training labels.

    Each class of the training images is shuffled once for a seed. Meta images are taken from its front, validation
    images from its end, and a limited training set from just before those. So the meta images do not depend on
    `num_validation`, nor the validation images and a limited training set on `num_meta`: trials of a search over the
    size of the meta set are judged on the same images. A wrong label likewise stays with its image.

    The paper's code draws the split of meta and training images apart from each other, which leaves most meta images
    in the training set for every seed but 1; here they are disjoint.

    Of data of one's own that has clean images, meta and validation images are taken from those in the same way, and
    all other images are trained on.

    Args:
        data: sizes, source and bias.
        seed: of the split, the long tail, the class map and the labels, each with a generator of its own.
        source: the data set; None loads the one that `data` names.

    Raises:
        ConfigError: a size or a bias that the data set cannot give.
        MissingData, BrokenData: the data set cannot be loaded.
    """
    source = source or sources.load(data.source, image_size=data.image_size)
    num_classes = len(source.class_names)
    meta, train, validation = _divide(data, seed, source)
    if data.bias.imbalance > 1:
        tail = rng(seed, "long tail")
        train = train[biases.long_tail(source.train_labels[train], data.bias.imbalance, num_classes, tail)]
    transition = biases.transition(data.bias, num_classes, rng(seed, "class map"), source.superclass)
    # Drawn for all images, used or not: an image's label does not depend on which others are trained on.
    observed = biases.corrupt(source.train_labels, transition, rng(seed, "noise"))
    images, labels = (source.train_images, source.train_labels)
    if source.clean_images is not None and source.clean_labels is not None:
        images, labels = source.clean_images, source.clean_labels
    return Splits(
        train=_subset(source.train_images, observed, source.train_labels if source.labels_right else None, train),
        meta=_subset(images, labels, labels, meta),
        validation=_subset(images, labels, labels, validation),
        test=_test(source, data.num_test),
        class_names=source.class_names,
        mean=source.mean,
        std=source.std,
        transition=transition,
        augmentable=source.augmentable,
        train_files=source.train_files,
    )


def _divide(data: Data, seed: int, source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the meta, training (before any bias) and validation images, each ascending.

    Those of meta and validation images are positions in the clean images, if the source has some.
    """
    names = source.class_names
    if source.clean_labels is None:
        return _cut(data, seed, source.train_labels, names)
    meta, _, validation = _cut(replace(data, num_train=None), seed, source.clean_labels, names, to_the_last=True)
    _, train, _ = _cut(replace(data, num_meta=0, num_validation=0), seed, source.train_labels, names)
    return meta, train, validation


def _cut(
    data: Data, seed: int, labels: Tensor, class_names: tuple[str, ...], *, to_the_last: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of one set of images; `to_the_last` where none of them need be left to train on."""
    num_classes = len(class_names)
    sizes = torch.bincount(labels, minlength=num_classes)
    meta = _held_out("data.num_meta", data.num_meta, sizes, class_names, rng(seed, "meta"))
    validation = _held_out(
        "data.num_validation", data.num_validation, sizes - meta, class_names, rng(seed, "validation")
    )
    left = sizes - meta - validation
    if int(left.min()) == 0 and not to_the_last:
        name = class_names[int(left.argmin())]
        raise ConfigError(
            f"data.num_meta, data.num_validation: {data.num_meta} meta and {data.num_validation} validation samples "
            f"leave none of class {name!r} to train on; hold out fewer than {num_classes * int(sizes.min())} in all"
        )
    train = left
    if data.num_train is not None:
        if data.num_train < num_classes:
            raise ConfigError(
                f"data.num_train: {data.num_train} samples are less than one of each of {num_classes} classes"
            )
        train = balanced(data.num_train, left, rng(seed, "train"))
    shuffled = torch.randperm(len(labels), generator=rng(seed, "split"))
    members = [shuffled[labels[shuffled] == label] for label in range(num_classes)]
    ends = sizes - validation
    return (
        _pick(members, torch.zeros_like(meta), meta),
        _pick(members, ends - train, ends),
        _pick(members, ends, sizes),
    )


def balanced(total: int, available: Tensor, generator: torch.Generator) -> Tensor:
    """How many images of each class [C] make `total` in all, as equal as `available` [C] allows.

    What does not divide evenly goes to classes drawn at random, one image each; all of `available` where that is less
    than `total`.
    """
    if total >= int(available.sum()):
        return available.clone()
    level = 0
    while int(available.clamp(max=level + 1).sum()) <= total:
        level += 1
    counts = available.clamp(max=level)
    order = torch.randperm(len(available), generator=generator)
    lucky = order[available[order] > level][: total - int(counts.sum())]
    counts[lucky] += 1
    return counts


def _held_out(
    field: str, total: int, available: Tensor, class_names: tuple[str, ...], generator: torch.Generator
) -> Tensor:
    """Images of each class [C] in a class-balanced set of exactly `total`."""
    smallest = int(available.min())
    if total > smallest * len(class_names):
        name = class_names[int(available.argmin())]
        raise ConfigError(
            f"{field}: {total} class-balanced samples need {-(-total // len(class_names))} of each class, and class "
            f"{name!r} has {smallest} left; at most {smallest * len(class_names)} can be held out"
        )
    return balanced(total, available, generator)


def _pick(members: list[Tensor], start: Tensor, end: Tensor) -> Tensor:
    """Ascending positions start .. end - 1 of each class's list."""
    parts = [m[a:b] for m, a, b in zip(members, start.tolist(), end.tolist(), strict=True)]
    return torch.cat(parts).sort().values


def _subset(images: Tensor, observed: Tensor, true: Tensor | None, index: Tensor) -> Subset:
    chosen = images if len(index) == len(images) else images[index]  # of all, ascending: no copy, and none of a file
    return Subset(chosen, observed[index], None if true is None else true[index], index)


def _test(source: Source, num_test: int | None) -> Subset:
    """The test images, or a class-balanced part of them that is the same for every seed."""
    labels = source.test_labels
    index = torch.arange(len(labels))
    if num_test is not None and num_test < len(labels):
        shuffled = torch.randperm(len(labels), generator=rng(0, "test"))
        sizes = torch.bincount(labels, minlength=len(source.class_names))
        members = [shuffled[labels[shuffled] == label] for label in range(len(sizes))]
        counts = balanced(num_test, sizes, rng(0, "test", "classes"))
        index = _pick(members, torch.zeros_like(counts), counts)
    return _subset(source.test_images, labels, labels, index)
