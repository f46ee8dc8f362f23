"""Data sets by name: `load("cifar10")` gives all images as uint8, with labels and what is known of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mwray.config import ConfigError
from mwray.data import archives, classes, features, folder, given, own, sizes
from mwray.data.settings import FOLDER, known


@dataclass(frozen=True)
class Source:
    """A data set as published or given, before anything is held out of it or done to its labels.

    Feature vectors take the place of images: float32 [N, D], with a mean and a deviation for each of D features.
    """

    train_images: Tensor  # uint8 [N, C, H, W], on the CPU, perhaps memory-mapped: never written to
    train_labels: Tensor  # int64 [N]
    test_images: Tensor  # uint8 [M, C, H, W]
    test_labels: Tensor  # int64 [M]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, of pixels in 0..1; per feature
    std: tuple[float, ...]
    superclass: tuple[int, ...] | None = None
    """Superclass of each class, where the data set has superclasses."""
    augmentable: bool = False
    """Whether an image keeps its meaning when it is cropped and mirrored: photographs do, digits do not."""
    labels_right: bool = True
    """Whether the training labels are known to be right."""
    clean_images: Tensor | None = None  # uint8 [K, C, H, W]: meta and validation images are held out of these
    clean_labels: Tensor | None = None  # int64 [K]
    train_files: tuple[str, ...] | None = None
    """Where each training image is from, if that has a name."""


def load(
    name: str, folders: Sequence[Path] | None = None, *, download: bool | None = None, image_size: int | None = None
) -> Source:
    """Load a data set.

    Args:
        name: one of `SOURCES`, "folder:/path", or "package.module:function".
        folders: searched first, before the environment variable MWRAY_DATA, ./data and ~/.cache/mwray/data.
        download: whether torchvision may download a set that is in no folder, into the first of them; None asks the
            environment variable MWRAY_DOWNLOAD (1 for yes).
        image_size: of pictures in folders: as `data.image_size`.

    Raises:
        ConfigError: there is no such data set, or one of your own gives what cannot be used.
        MissingData: it is in none of the folders (a FileNotFoundError).
        BrokenData: it is there but damaged (a ValueError).
    """
    if name not in SOURCES:
        return _own(name, image_size)
    if download is None:
        download = os.environ.get("MWRAY_DOWNLOAD", "") == "1"
    return SOURCES[name](folders, download)


def fetch(name: str, folder: Path | None = None) -> Source:
    """Download a data set into `folder` unless that folder holds it, and load it.

    Without a folder it is downloaded only where it is in none of those searched, into the first of them. The data
    sets that come with a package need no download.

    Raises:
        As `load`; MissingData where the download fails.
    """
    if folder is not None and name in archives.ARCHIVES:
        archives.fetch(archives.ARCHIVES[name], folder)
    return load(name, None if folder is None else [folder], download=True)


def num_classes(name: str) -> int:
    """How many classes a data set has; what a function of your own returns is loaded for it.

    Raises:
        As `load`.
    """
    if name.startswith(FOLDER):
        return len(folder.class_names(name))
    return sizes.CLASSES.get(name) or len(load(name).class_names)


def _own(name: str, image_size: int | None) -> Source:
    try:
        known(name)
    except ValueError as error:
        raise ConfigError(f"data.source: {error}") from None
    if name.startswith(given.GIVEN):
        return of_own(given.read(name))
    return of_own(folder.read(name, image_size) if name.startswith(FOLDER) else own.called(name))


def of_own(data: own.OwnData | own.OwnFeatures) -> Source:
    """Data of one's own, `mwray.data.own.checked`, as a source."""
    train: NDArray[Any]
    test: NDArray[Any] | None
    clean: NDArray[Any] | None
    if isinstance(data, own.OwnFeatures):
        mean, std = features.statistics(data.train_features)
        train, test, clean = data.train_features, data.test_features, data.clean_features
        augmentable = False
    else:
        mean, std = own.statistics(data.train_images)
        train, test, clean = data.train_images, data.test_images, data.clean_images
        augmentable = bool(data.augmentable)
    return Source(
        train_images=_tensor(train),
        train_labels=_tensor(data.train_labels),
        test_images=_tensor(test),
        test_labels=_tensor(data.test_labels),
        class_names=tuple(data.class_names or ()),
        mean=mean,
        std=std,
        augmentable=augmentable,
        labels_right=False,
        clean_images=None if clean is None else _tensor(clean),
        clean_labels=None if data.clean_labels is None else _tensor(data.clean_labels),
        train_files=None if data.train_files is None else tuple(data.train_files),
    )


def _tensor(array: NDArray[Any] | None) -> Tensor:
    """`array` as a tensor on the same memory, which may be a read-only file: nothing writes to a source."""
    assert array is not None  # `own.checked` has put an empty one
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)


def _digits(folders: Sequence[Path] | None, download: bool) -> Source:
    """scikit-learn's digits: 1,797 images of 8x8 pixels, 500 of them for testing, the same ones in every run."""
    from sklearn.datasets import load_digits  # here: a second that the other sets never need
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(range(len(labels)), test_size=500, stratify=labels, random_state=0)
    # Pixels are whole numbers 0 .. 16; stored as bytes like every other data set.
    pixels = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    targets = torch.from_numpy(labels).long()
    train, test = sorted(train), sorted(test)
    scaled = pixels[train].double() / 255
    return Source(
        train_images=pixels[train],
        train_labels=targets[train],
        test_images=pixels[test],
        test_labels=targets[test],
        class_names=tuple(str(digit) for digit in range(10)),
        mean=(scaled.mean().item(),),
        std=(scaled.std().item(),),
    )


def _cifar10(folders: Sequence[Path] | None, download: bool) -> Source:
    return _archive("cifar10", folders, download, classes.CIFAR10, CIFAR_MEAN, CIFAR_STD, augmentable=True)


def _cifar100(folders: Sequence[Path] | None, download: bool) -> Source:
    superclass = classes.CIFAR100_SUPERCLASS
    return _archive(
        "cifar100", folders, download, classes.CIFAR100, CIFAR_MEAN, CIFAR_STD, superclass=superclass, augmentable=True
    )


def _fashion_mnist(folders: Sequence[Path] | None, download: bool) -> Source:
    # Mean and deviation of the 60,000 training images.
    return _archive("fashion_mnist", folders, download, classes.FASHION_MNIST, (0.2860,), (0.3530,))


def _archive(
    name: str,
    folders: Sequence[Path] | None,
    download: bool,
    class_names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    superclass: tuple[int, ...] | None = None,
    augmentable: bool = False,
) -> Source:
    arrays = archives.read(archives.ARCHIVES[name], folders, download=download)
    return Source(
        train_images=torch.from_numpy(arrays.train_images),
        train_labels=torch.from_numpy(arrays.train_labels),
        test_images=torch.from_numpy(arrays.test_images),
        test_labels=torch.from_numpy(arrays.test_labels),
        class_names=class_names,
        mean=mean,
        std=std,
        superclass=superclass,
        augmentable=augmentable,
    )


# The paper's code (load_corrupted_data.py) normalises CIFAR-10 and CIFAR-100 alike with these rounded values of
# CIFAR-10; those of CIFAR-100 itself would be 0.507, 0.487, 0.441 and 0.267, 0.256, 0.276.
CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)

SOURCES: dict[str, Callable[[Sequence[Path] | None, bool], Source]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "fashion_mnist": _fashion_mnist,
}
"""Every built-in data set by name: a function of the folders to search and of whether to download."""
