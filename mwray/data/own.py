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
from mwray.data import parts
from mwray.data.features import vectors
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
    test_images: NDArray[np.uint8] | None
    test_labels: NDArray[np.int64] | None
    """None, both: there are none, and no test accuracy is measured."""
    clean_images: NDArray[np.uint8] | None = None
    clean_labels: NDArray[np.int64] | None = None
    """Each class at least once."""
    class_names: Sequence[str] | None = None
    """None: "0", "1", ..., as many as the training labels have."""
    augmentable: bool | None = None
    """Whether an image keeps its meaning when it is cropped and mirrored; None: colour images do."""
    train_files: Sequence[str] | None = None
    """Where each training image is from; the list of suspects then says it."""


@dataclass(frozen=True)
class OwnFeatures:
    """Feature vectors - embeddings, the rows of a table - and labels as arrays: as `OwnData`, without any images."""

    train_features: NDArray[np.floating[Any]]
    """float32 [N, D], as they are: the loader normalises them. float16 and float64 are rounded to float32."""
    train_labels: NDArray[np.int64]
    """[N], classes 0 .. number of classes - 1, each of them at least once; they may be wrong."""
    test_features: NDArray[np.floating[Any]] | None
    test_labels: NDArray[np.int64] | None
    """None, both: there are none, and no test accuracy is measured."""
    clean_features: NDArray[np.floating[Any]] | None = None
    clean_labels: NDArray[np.int64] | None = None
    """Each class at least once."""
    class_names: Sequence[str] | None = None
    """None: "0", "1", ..., as many as the training labels have."""
    train_files: Sequence[str] | None = None
    """What each training vector is of - a file, a key, a text; the list of suspects then says it."""


Own = TypeVar("Own", OwnData, OwnFeatures)
PARTS = ("train", "test", "clean")


def called(name: str) -> OwnData | OwnFeatures:
    """The data that the function `name` ("package.module:function") returns, `checked`.

    Raises:
        ConfigError: it cannot be imported, it raises, or it returns something else.
    """
    function = _told(name, "while it was imported", lambda: imported("data.source", name))
    given = _told(name, "when it was called", function)
    if isinstance(given, OwnData):
        return checked(given, name)
    if isinstance(given, OwnFeatures):
        return checked(given, name)
    raise ConfigError(
        f"data.source: {name!r} returned {type(given).__name__}; it must return a mwray.data.own.OwnData (of images) "
        "or a mwray.data.own.OwnFeatures (of feature vectors)"
    )


def checked(data: Own, name: str) -> Own:
    """`data` with images uint8 [N, C, H, W] or features float32 [N, D], and labels int64, its classes named.

    Raises:
        ConfigError: a part cannot be used: names `data.source`, the part, what was given and what would do.
    """
    kind, noun = ("features", "vector") if isinstance(data, OwnFeatures) else ("images", "image")
    read: Callable[[str, str, Any], NDArray[Any]] = vectors if isinstance(data, OwnFeatures) else _planes
    given = {part: (getattr(data, f"{part}_{kind}"), getattr(data, f"{part}_labels")) for part in PARTS}
    for part in ("test", "clean"):
        if given[part][0] is None and given[part][1] is None:
            del given[part]
    arrays = {part: read(name, f"{part}_{kind}", pair[0]) for part, pair in given.items()}
    labels = {
        part: parts.labels(name, f"{part}_labels", pair[1], len(arrays[part]), noun) for part, pair in given.items()
    }
    names = parts.class_names(name, data.class_names, labels["train"], noun)
    for part in given:
        _check_shape(name, f"{part}_{kind}", arrays[part].shape[1:], arrays["train"].shape[1:])
        parts.check_classes(name, part, labels[part], names, noun)
    files = parts.files(name, data.train_files, len(arrays["train"]), noun)
    arrays.setdefault("test", arrays["train"][:0])
    labels.setdefault("test", labels["train"][:0])
    made: dict[str, Any] = {f"{part}_{kind}": arrays.get(part) for part in PARTS}
    made |= {f"{part}_labels": labels.get(part) for part in PARTS}
    if isinstance(data, OwnData):
        made["augmentable"] = _augmentable(name, data.augmentable, arrays["train"].shape)
    return replace(data, class_names=names, train_files=files, **made)


AT_ONCE = 1 << 20
"""Pixels that are counted together: NumPy makes eight bytes of each."""


def statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of `images` [N, C, H, W], of pixels in 0..1."""
    values = np.arange(256) / 255
    # Counts of each value are exact in whatever order they are summed, and no copy of all pixels as floats is made.
    counts = np.zeros((images.shape[1], 256), np.int64)
    some = max(1, AT_ONCE // images[0, 0].size)
    for start in range(0, len(images), some):
        for channel, total in enumerate(counts):
            total += np.bincount(images[start : start + some, channel].ravel(), minlength=256)
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


def _planes(name: str, part: str, given: Any) -> NDArray[np.uint8]:
    """Images [N, C, H, W] from [N, H, W] or [N, H, W, C]."""
    needed = "uint8 [N, H, W] or [N, H, W, C] with C = 1 or 3, N above 0"
    images = parts.array(name, part, given, needed)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        hint = "; feature vectors are for mwray.data.own.OwnFeatures" if images.ndim == 2 else ""
        raise parts.wrong(name, part, f"is {images.dtype} {list(images.shape)}", needed + hint)
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] not in (1, 3):
        hint = " (channels come last: images.transpose(0, 2, 3, 1))" if images.shape[1] in (1, 3) else ""
        raise parts.wrong(name, part, f"is {images.dtype} {list(images.shape)}", needed + hint)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _check_shape(name: str, part: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape == expected:
        return
    if len(shape) == 1:
        given, needed = f"has {shape[0]} columns", f"{expected[0]}, as the training vectors have"
    else:
        (channels, height, width), (c, h, w) = expected, shape
        given = f"has images of {h}x{w} pixels in {c} channel(s)"
        needed = f"{height}x{width} in {channels}, as the training images have"
    raise parts.wrong(name, part, given, needed)


def _augmentable(name: str, given: bool | None, shape: tuple[int, ...]) -> bool:
    large = min(shape[2:]) >= SMALLEST
    if given and not large:
        raise parts.wrong(
            name, "augmentable", f"is True for images of {shape[2]}x{shape[3]} pixels", f"{SMALLEST}x{SMALLEST} or more"
        )
    return large and shape[1] == 3 if given is None else given
