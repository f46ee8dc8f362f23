"""Images of CIFAR-10's size for benchmarks: the real ones where they are, noise of the same shape where not."""

from __future__ import annotations

import torch

from mwray.data.archives import MissingData
from mwray.data.sources import Source, load


def cifar10() -> tuple[Source, str]:
    """The data set, and what it is: "CIFAR-10" or "noise of CIFAR-10's size"."""
    try:
        return load("cifar10", download=False), "CIFAR-10"
    except MissingData:
        return noise(50_000, 10_000), "noise of CIFAR-10's size"


def noise(num_train: int, num_test: int) -> Source:
    """Ten classes of random pixels."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> torch.Tensor:
        return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)

    return Source(
        train_images=images(num_train),
        train_labels=torch.arange(num_train) % 10,
        test_images=images(num_test),
        test_labels=torch.arange(num_test) % 10,
        class_names=tuple("abcdefghij"),
        mean=(0.49, 0.48, 0.45),
        std=(0.25, 0.24, 0.26),
        augmentable=True,
    )
