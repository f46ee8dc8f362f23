"""The parts of data of one's own that images and feature vectors have in common: labels, names of classes, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwray.config import ConfigError


def wrong(name: str, part: str, given: str, needed: str) -> ConfigError:
    """The error of a `part` of the data that the function `name` gave: what was given, and what would do."""
    return ConfigError(f"data.source: {part} of {name!r} {given}; needed: {needed}")


def array(name: str, part: str, given: Any, needed: str) -> NDArray[Any]:
    """`given` as an array.

    Raises:
        ConfigError: it is none.
    """
    if given is None:
        raise wrong(name, part, "is None", needed)
    try:
        return np.asarray(given)
    except Exception as error:  # of unequal lengths, on another device, ...
        raise wrong(name, part, f"is no array ({error})", needed) from error


def labels(name: str, part: str, given: Any, count: int, noun: str) -> NDArray[np.int64]:
    """Labels int64 [count], classes from 0; `noun` is what they are of: "image", "vector".

    Raises:
        ConfigError: they are something else.
    """
    needed = f"int64 [{count}], a class for each {noun}"
    found = array(name, part, given, needed)
    if found.dtype.kind not in "iu" or found.ndim != 1 or len(found) != count:
        raise wrong(name, part, f"is {found.dtype} {list(found.shape)} for {count} {noun}s", needed)
    whole = np.require(found, np.int64, ["C", "W"])
    if int(whole.min()) < 0:  # also 2**64 - 1, which is how unsigned numbers have -1
        raise wrong(name, part, f"holds {found[int(whole.argmin())]}", "classes from 0 on")
    return whole


def class_names(name: str, given: Sequence[str] | None, labels: NDArray[np.int64], noun: str) -> tuple[str, ...]:
    """The names of the classes: those given, or the numbers of those in the training `labels` [N].

    Raises:
        ConfigError: there are fewer than two, two are the same, or a number between two others has no `noun`.
    """
    if given is None:
        present = np.unique(labels).tolist()
        gap = next((k for k, label in enumerate(present) if k != label), None)
        if gap is not None:
            given = f"has no {noun} of class {gap}, and has some of class {present[-1]}"
            raise wrong(name, "train_labels", given, "one of each class at least, or classes numbered anew from 0")
        if len(present) < 2:
            raise wrong(name, "train_labels", "has class 0 alone", "two classes or more")
        given = [str(label) for label in present]
    names = _texts(given)
    if names is None or len(names) < 2 or len(set(names)) < len(names):
        raise wrong(name, "class_names", f"is {given!r}", "two different names or more, or None")
    return names


def check_classes(name: str, part: str, labels: NDArray[np.int64], names: tuple[str, ...], noun: str) -> None:
    """Refuse, with ConfigError, labels of `part` beyond the classes, and a class without any but in the test."""
    high, top = int(labels.max()), len(names) - 1
    if high > top:
        raise wrong(name, f"{part}_labels", f"holds {high}", f"0 .. {top}, as there are {top + 1} classes")
    missing = set(range(top + 1)) - set(np.unique(labels).tolist())
    if missing and part != "test":
        given = f"has no {noun} of class {names[min(missing)]!r}"
        raise wrong(name, f"{part}_labels", given, "one of each class at least")


def files(name: str, given: Sequence[str] | None, count: int, noun: str) -> tuple[str, ...] | None:
    """What each training image or vector is of, if that is given.

    Raises:
        ConfigError: these are no texts, or fewer or more than there are images or vectors.
    """
    if given is None:
        return None
    found, needed = _texts(given), f"one of each of {count} {noun}s"
    if found is None:
        raise wrong(name, "train_files", f"is a {type(given).__name__} that holds no texts", f"{needed}, as text")
    if len(found) != count:
        raise wrong(name, "train_files", f"has {len(found)} entries", needed)
    return found


def _texts(given: Any) -> tuple[str, ...] | None:
    """Texts, paths or NumPy's texts, which no checkpoint may hold, as plain texts; None: `given` is none of these."""
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        return None
    return tuple(map(str, given)) if all(isinstance(text, str | PurePath) for text in given) else None
