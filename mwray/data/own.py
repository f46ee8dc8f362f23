"""Data of one's own: what a function named by `data.source=package.module:function` returns, and its checks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mwray.config import ConfigError
from mwray.imported import imported

T = TypeVar("T")


@dataclass(frozen=True)
class OwnData:
    """Images and labels as arrays; the same ones, in the same order, whenever the function is called.

    Training labels may be wrong. Test labels are taken for right, and so are those of `clean_images`: images beside
    the training images, from which meta and validation images are then drawn. Without them both are held out of the
    training images, and are right only where the training labels are.
    """

    train_images: NDArray[np.uint8]
    """[N, H, W] or [N, H, W, C], C being 1 or 3."""
    train_labels: NDArray[np.int64]
    """[N], classes 0 .. number of classes - 1, each of them at least once."""
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    clean_images: NDArray[np.uint8] | None = None
    clean_labels: NDArray[np.int64] | None = None
    """Each class at least once."""
    class_names: Sequence[str] | None = None
    """None: "0", "1", ..., as many as the training labels have."""
    augmentable: bool | None = None
    """Whether an image keeps its meaning when it is cropped and mirrored; None: colour images do."""
    train_files: Sequence[str] | None = None
    """Where each training image is from; the list of suspects then says it."""


def called(name: str) -> OwnData:
    """The data that the function `name` ("package.module:function") returns, checked, images as [N, C, H, W].

    Raises:
        ConfigError: it cannot be imported, it raises, or it returns something else.
    """
    function = _told(name, "while it was imported", lambda: imported("data.source", name))
    given = _told(name, "when it was called", function)
    if not isinstance(given, OwnData):
        raise ConfigError(
            f"data.source: {name!r} returned {type(given).__name__}; it must return a mwray.data.own.OwnData"
        )
    return checked(given, name)


def checked(data: OwnData, name: str) -> OwnData:
    """`data` with images as uint8 [N, C, H, W] and labels as int64, its classes named.

    Raises:
        ConfigError: a part cannot be used: names `data.source`, the part, what was given and what would do.
    """
    parts: dict[str, tuple[Any, Any]] = {
        "train": (data.train_images, data.train_labels),
        "test": (data.test_images, data.test_labels),
    }
    if data.clean_images is not None or data.clean_labels is not None:
        parts["clean"] = (data.clean_images, data.clean_labels)
    images = {part: _planes(name, f"{part}_images", pair[0]) for part, pair in parts.items()}
    labels = {part: _labels(name, f"{part}_labels", pair[1], len(images[part])) for part, pair in parts.items()}
    names = _class_names(name, data.class_names, labels["train"])
    for part in parts:
        _check_shape(name, part, images)
        _check_classes(name, part, labels[part], names)
    if data.train_files is not None and len(data.train_files) != len(images["train"]):
        raise _wrong(
            name, "train_files", f"has {len(data.train_files)} entries", f"one of each of {len(images['train'])} images"
        )
    return replace(
        data,
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        clean_images=images.get("clean"),
        clean_labels=labels.get("clean"),
        class_names=names,
        augmentable=_augmentable(name, data.augmentable, images["train"].shape),
    )


def statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of `images` [N, C, H, W], of pixels in 0..1."""
    values = np.arange(256) / 255
    # Counts of each value are exact in whatever order they are summed, and no copy of all pixels as floats is made.
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), 1000):
        for channel, total in enumerate(counts):
            total += np.bincount(images[start : start + 1000, channel].ravel(), minlength=256)
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
    # A channel that is the same everywhere says nothing, and must not be divided by zero.
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())


SMALLEST = 5
"""Pixels of a side that a crop, which reflects 4 of them, needs."""


def _told(name: str, when: str, function: Callable[[], T]) -> T:
    """What `function` returns; an error of the user's code as one that says where it was raised."""
    try:
        return function()
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's code raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"data.source: {name!r} raised {type(error).__name__} {when}: {error} "
            f"({Path(last.filename).name}, line {last.lineno})"
        ) from error


def _wrong(name: str, part: str, given: str, needed: str) -> ConfigError:
    return ConfigError(f"data.source: {part} of {name!r} {given}; needed: {needed}")


def _array(name: str, part: str, given: Any, needed: str) -> NDArray[Any]:
    if given is None:
        raise _wrong(name, part, "is None", needed)
    try:
        return np.asarray(given)
    except Exception as error:  # of unequal lengths, on another device, ...
        raise _wrong(name, part, f"is no array ({error})", needed) from error


def _planes(name: str, part: str, given: Any) -> NDArray[np.uint8]:
    """Images [N, C, H, W] from [N, H, W] or [N, H, W, C]."""
    needed = "uint8 [N, H, W] or [N, H, W, C] with C = 1 or 3, N above 0"
    images = _array(name, part, given, needed)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise _wrong(name, part, f"is {images.dtype} {list(images.shape)}", needed)
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] not in (1, 3):
        hint = " (channels come last: images.transpose(0, 2, 3, 1))" if images.shape[1] in (1, 3) else ""
        raise _wrong(name, part, f"is {images.dtype} {list(images.shape)}", needed + hint)
    return np.require(images.transpose(0, 3, 1, 2), requirements=["C", "W"])  # torch warns of what cannot be written


def _labels(name: str, part: str, given: Any, count: int) -> NDArray[np.int64]:
    needed = f"int64 [{count}], a class for each image"
    labels = _array(name, part, given, needed)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or len(labels) != count:
        raise _wrong(name, part, f"is {labels.dtype} {list(labels.shape)} for {count} images", needed)
    if int(labels.min()) < 0:
        raise _wrong(name, part, f"holds {labels.min()}", "classes from 0 on")
    return np.require(labels, np.int64, ["C", "W"])


def _class_names(name: str, given: Sequence[str] | None, labels: NDArray[np.int64]) -> tuple[str, ...]:
    if given is None:
        present = np.unique(labels).tolist()
        gap = next((k for k, label in enumerate(present) if k != label), None)
        if gap is not None:
            given = f"has no image of class {gap}, and has some of class {present[-1]}"
            raise _wrong(name, "train_labels", given, "one of each class at least, or classes numbered anew from 0")
        given = [str(label) for label in present]
    names = tuple(given)
    if isinstance(given, str) or len(names) < 2 or len(set(names)) < len(names) or not all(map(_is_text, names)):
        raise _wrong(name, "class_names", f"is {given!r}", "two different names or more, or None")
    return names


def _is_text(name: Any) -> bool:
    return isinstance(name, str)


def _check_shape(name: str, part: str, images: dict[str, NDArray[np.uint8]]) -> None:
    (channels, height, width), (c, h, w) = images["train"].shape[1:], images[part].shape[1:]
    if (channels, height, width) != (c, h, w):
        raise _wrong(
            name,
            f"{part}_images",
            f"has images of {h}x{w} pixels in {c} channel(s)",
            f"{height}x{width} in {channels}, as the training images have",
        )


def _check_classes(name: str, part: str, labels: NDArray[np.int64], names: tuple[str, ...]) -> None:
    high, top = int(labels.max()), len(names) - 1
    if high > top:
        raise _wrong(name, f"{part}_labels", f"holds {high}", f"0 .. {top}, as there are {top + 1} classes")
    missing = set(range(top + 1)) - set(np.unique(labels).tolist())
    if missing and part != "test":
        raise _wrong(
            name, f"{part}_labels", f"has no image of class {names[min(missing)]!r}", "one of each class at least"
        )


def _augmentable(name: str, given: bool | None, shape: tuple[int, ...]) -> bool:
    large = min(shape[2:]) >= SMALLEST
    if given and not large:
        raise _wrong(
            name, "augmentable", f"is True for images of {shape[2]}x{shape[3]} pixels", f"{SMALLEST}x{SMALLEST} or more"
        )
    return large and shape[1] == 3 if given is None else given
