"""Biases put on purpose into clean labels: long tails and four kinds of label noise, as pure functions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.data.settings import Bias

log = logging.getLogger(__name__)


def tail_counts(largest: int, imbalance: float, num_classes: int) -> list[int]:
    """Images kept of each class: int(largest * imbalance^(-i / (C - 1))) of class i, class 0 the largest.

    The paper writes n = n_i mu^i; its code has the exponent i / (C - 1), which gives the stated imbalance. Cui et al.,
    CVPR 2019, from whom both take it, likewise.
    """
    if num_classes == 1:
        return [largest]
    mu = 1 / imbalance
    # 49 * (1 / 49) is 0.9999999999999999: the small term keeps the whole number that exact arithmetic would give.
    return [int(largest * mu ** (i / (num_classes - 1)) + 1e-9) for i in range(num_classes)]


def long_tail(labels: Tensor, imbalance: float, num_classes: int, generator: torch.Generator) -> Tensor:
    """Positions [n] of the images that a long tail keeps, ascending: a random subset of each class.

    Args:
        labels: int64 [N], true classes.
        imbalance: images of class 0 over images of the last class.
        num_classes: number of classes C.
        generator: on the CPU; draws the subsets.

    Where classes differ in size the smallest one sets the size of class 0, and the log says so.

    Raises:
        ConfigError: a class would keep no image.
    """
    sizes = torch.bincount(labels, minlength=num_classes)
    largest = int(sizes.min())
    if largest < int(sizes.max()):
        log.info("Classes hold %d to %d samples: the long tail starts from %d", largest, int(sizes.max()), largest)
    counts = tail_counts(largest, imbalance, num_classes)
    if min(counts) == 0:
        raise ConfigError(
            f"data.bias.imbalance: {imbalance:g} leaves no sample of class {counts.index(0)}, as the largest class has "
            f"{largest}; at most {largest} would leave one of each"
        )
    shuffled = torch.randperm(len(labels), generator=generator)
    kept = [shuffled[labels[shuffled] == label][:count] for label, count in enumerate(counts)]
    return torch.cat(kept).sort().values


def transition(
    bias: Bias, num_classes: int, generator: torch.Generator, superclass: Sequence[int] | None = None
) -> Tensor:
    """Probability float64 [C, C] of each observed class (column) given the true class (row).

    Args:
        bias: kind and rate of the noise.
        num_classes: number of classes C.
        generator: on the CPU; draws which classes "flip" and "flip2" turn a class into.
        superclass: superclass of each class, for "hierarchical".

    Raises:
        ConfigError: too few classes for this noise, or no superclasses.
    """
    match bias.noise:
        case "uniform":
            return uniform(num_classes, bias.rate, exclude_true=bias.exclude_true)
        case "flip":
            return flip(num_classes, bias.rate, generator, targets=1)
        case "flip2":
            return flip(num_classes, bias.rate, generator, targets=2)
        case "hierarchical":
            return hierarchical(superclass, bias.rate)
    return torch.eye(num_classes, dtype=torch.float64)


def uniform(num_classes: int, rate: float, *, exclude_true: bool = False) -> Tensor:
    """With probability `rate` a label is drawn anew from all classes, or from all but the true one.

    The paper's code draws from all classes, so that rate * (C - 1) / C of the labels are wrong.
    """
    if exclude_true:
        _need_classes(2, num_classes, "uniform")
        off = torch.full((num_classes, num_classes), rate / (num_classes - 1), dtype=torch.float64)
        return off.fill_diagonal_(1 - rate)
    everywhere = torch.full((num_classes, num_classes), rate / num_classes, dtype=torch.float64)
    return everywhere + (1 - rate) * torch.eye(num_classes, dtype=torch.float64)


def flip(num_classes: int, rate: float, generator: torch.Generator, *, targets: int) -> Tensor:
    """With probability `rate` a label turns into one of `targets` other classes, drawn once for each class.

    Two targets at rate / 2 each are the paper's "two similar classes" (section 4.2): random ones in its code, and here.
    Its code draws the same map for every seed; here the generator decides.

    Raises:
        ConfigError: there are not so many other classes.
    """
    _need_classes(targets + 1, num_classes, "flip" if targets == 1 else "flip2")
    matrix = (1 - rate) * torch.eye(num_classes, dtype=torch.float64)
    for label in range(num_classes):
        steps = 1 + torch.randperm(num_classes - 1, generator=generator)[:targets]
        matrix[label, (label + steps) % num_classes] = rate / targets
    return matrix


def hierarchical(superclass: Sequence[int] | None, rate: float) -> Tensor:
    """With probability `rate` a label turns into one of the other classes of its superclass, all equally likely.

    Raises:
        ConfigError: the data set has no superclasses, or one of them has a single class.
    """
    if superclass is None:
        raise ConfigError(
            "data.bias.noise: 'hierarchical' needs superclasses, which this data set has not; use it with "
            "data.source=cifar100, or choose 'uniform', 'flip' or 'flip2'"
        )
    groups = torch.tensor(superclass)
    together = (groups[:, None] == groups[None, :]).double()
    others = together.sum(1, keepdim=True) - 1
    if bool((others == 0).any()):
        alone = int((others[:, 0] == 0).nonzero()[0])
        raise ConfigError(
            f"data.bias.noise: 'hierarchical' cannot be used, as class {alone} is alone in its superclass"
        )
    return (together * rate / others).fill_diagonal_(1 - rate)


def corrupt(labels: Tensor, matrix: Tensor, generator: torch.Generator) -> Tensor:
    """Observed labels int64 [N]: each drawn on its own from the row of `matrix` that its true class names.

    Args:
        labels: int64 [N], true classes.
        matrix: float64 [C, C], rows sum to one.
        generator: on the CPU; one number per label, in order.

    Raises:
        ValueError: `matrix` is not a matrix of probabilities over all classes.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or bool((matrix < 0).any()):
        raise ValueError(
            f"a transition must be a square matrix without negative entries, and its shape is {matrix.shape}"
        )
    if not torch.allclose(matrix.sum(1), torch.ones(len(matrix), dtype=matrix.dtype)):
        raise ValueError(f"every row of a transition must sum to one, and they sum to {matrix.sum(1).tolist()}")
    cumulative = matrix.cumsum(1)
    cumulative = cumulative / cumulative[:, -1:]  # ends in exactly 1: no draw can fall behind the last class
    draws = torch.rand(len(labels), 1, generator=generator, dtype=torch.float64)
    return torch.searchsorted(cumulative[labels], draws, right=True)[:, 0]


def _need_classes(needed: int, given: int, noise: str) -> None:
    if given < needed:
        raise ConfigError(f"data.bias.noise: {noise!r} needs at least {needed} classes, and there are {given}")
