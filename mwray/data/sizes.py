"""How large the data sets are, for whoever has to know before any of them is loaded. No torch here."""

from __future__ import annotations

from mwray.data.settings import Data

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "fashion_mnist": 10}
"""Classes of each data set."""

SHAPES = {
    "digits": (1, 8, 8),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "fashion_mnist": (1, 28, 28),
}
"""Channels, height and width of an image."""

TRAIN_IMAGES = {"digits": 1297, "cifar10": 50_000, "cifar100": 50_000, "fashion_mnist": 60_000}
"""Training images of each data set, before anything is held out."""

TEST_IMAGES = {"digits": 500, "cifar10": 10_000, "cifar100": 10_000, "fashion_mnist": 10_000}


def epoch_images(data: Data) -> int:
    """About how many images an epoch of `data` has: classes are taken to be of equal size."""
    classes = CLASSES[data.source]
    left = TRAIN_IMAGES[data.source] - data.num_meta - data.num_validation
    largest = min(left, data.num_train or left) / classes
    if data.bias.imbalance == 1:
        return int(largest * classes)
    return int(sum(largest * data.bias.imbalance ** (-i / (classes - 1)) for i in range(classes)))


def evaluated_images(data: Data) -> int:
    """How many images a test of `data` has."""
    there = TEST_IMAGES[data.source]
    return min(there, data.num_test or there)
