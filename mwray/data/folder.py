"""Pictures in folders, `data.source=folder:/path`: train/CLASS/*.png, test/CLASS/*.jpg, and perhaps clean/CLASS/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwray.data.archives import MissingData
from mwray.data.cache import Arrays, cached
from mwray.data.own import OwnData, checked
from mwray.data.parquet import BrokenData
from mwray.data.settings import FOLDER

ENDINGS = (".png", ".jpg", ".jpeg")
GREY = ("1", "L", "LA")
DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits a pixel, by their beginning."""

Listing = dict[str, list[Path]]  # the pictures of each class, both in the alphabet's order


def read(name: str) -> OwnData:
    """The pictures of `name`, "folder:/path", through the cache beside them; classes follow the alphabet.

    Raises:
        MissingData: there is no such folder.
        BrokenData: a part, a class or a file of it cannot be used; names it and what would do.
        ConfigError: as `mwray.data.own.checked`.
    """
    root = Path(name.removeprefix(FOLDER)).expanduser()
    if not root.is_dir():
        raise MissingData(
            f"data.source: {name!r} names {root}, and there is no such folder on this machine; give one that holds "
            "train/CLASS/ and test/CLASS/ with pictures in them"
        )
    there = ("train", "test", "clean") if (root / "clean").exists() else ("train", "test")
    parts = {part: _listing(root, part) for part in there}
    classes = list(parts["train"])
    for part, listing in parts.items():
        _check_known(root / part, listing, classes)
    files = {part: [path for paths in listing.values() for path in paths] for part, listing in parts.items()}
    labels = {part: _labels(listing, classes) for part, listing in parts.items()}
    arrays = _arrays(root, files, labels)
    count = len(files["train"])
    return checked(
        OwnData(
            train_images=_last(arrays.train_images[:count]),
            train_labels=labels["train"],
            test_images=_last(arrays.test_images),
            test_labels=labels["test"],
            clean_images=_last(arrays.train_images[count:]) if "clean" in files else None,
            clean_labels=labels.get("clean"),
            class_names=classes,
            train_files=[path.relative_to(root).as_posix() for path in files["train"]],
        ),
        name,
    )


def _listing(root: Path, part: str) -> Listing:
    folder = root / part
    if not folder.is_dir():
        raise BrokenData(f"data.source: {root} holds no folder {part!r}; needed: {part}/CLASS/ with pictures in it")
    listing: Listing = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            raise BrokenData(f"data.source: {entry} lies beside the folders of classes; move it into one of them")
        listing[entry.name] = _entries(entry)
        for path in listing[entry.name]:
            if path.suffix.lower() not in ENDINGS or not path.is_file():
                raise BrokenData(f"data.source: {path} is no {' or '.join(ENDINGS)} file; convert it, or take it out")
        if not listing[entry.name]:
            raise BrokenData(f"data.source: {entry} is empty; put pictures of that class there, or remove the folder")
    if not listing:
        raise BrokenData(f"data.source: {folder} is empty; needed: {part}/CLASS/ with pictures in it")
    return listing


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, in the alphabet's order; what file managers hide there is left out."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _check_known(folder: Path, listing: Listing, classes: Sequence[str]) -> None:
    foreign = [name for name in listing if name not in classes]
    if foreign:
        raise BrokenData(
            f"data.source: {folder / foreign[0]} is of no class in train, which has {', '.join(classes)}; rename it"
        )


def _labels(listing: Listing, classes: Sequence[str]) -> NDArray[np.int64]:
    return np.repeat([classes.index(name) for name in listing], [len(paths) for paths in listing.values()])


def _arrays(root: Path, files: dict[str, list[Path]], labels: dict[str, NDArray[np.int64]]) -> Arrays:
    """All pictures [N, C, H, W]; the cache has two parts, so clean ones stand behind the training pictures."""
    parts = [[*files["train"], *files.get("clean", ())], files["test"]]
    every = [path for part in parts for path in part]

    def build() -> Arrays:
        pixels = _decode(every)
        cut = len(parts[0])
        known = np.concatenate([labels[part] for part in ("train", "clean") if part in labels])
        return Arrays(pixels[:cut], known, pixels[cut:], labels["test"])

    # A picture that moves to another class, as after a look at the suspects, keeps its name, size and time.
    return cached("folder", root, every, build, also=[path.relative_to(root).as_posix() for path in every])


def _decode(files: Sequence[Path]) -> NDArray[np.uint8]:
    """Pixels uint8 [N, C, H, W]: one channel where all pictures are grey, else three."""
    first = _open(files[0])
    grey = first.mode in GREY
    for path in files:  # their headers alone
        image = _open(path)
        if image.size != first.size:
            given, needed = (f"{width}x{height}" for width, height in (image.size, first.size))
            raise BrokenData(
                f"data.source: {path} is {given} pixels, and {files[0]} is {needed}; bring all pictures to one size "
                f"first (Pillow: ImageOps.fit(image, {first.size}))"
            )
        if image.mode.startswith(DEEP):
            raise BrokenData(f"data.source: {path} has more than 8 bits a pixel (mode {image.mode}); save it with 8")
        grey = grey and image.mode in GREY
    width, height = first.size
    pixels = np.empty((len(files), 1 if grey else 3, height, width), np.uint8)
    for row, path in enumerate(files):
        pixels[row] = _pixels(path, "L" if grey else "RGB").reshape(height, width, -1).transpose(2, 0, 1)
    return pixels


def _open(path: Path) -> Any:
    """A picture whose header is read and whose file is closed again."""
    from PIL import Image  # here: built-in data never needs it

    try:
        with Image.open(path) as image:
            return image
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        raise _broken(path, error) from error


def _pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except Exception as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> BrokenData:
    why = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    return BrokenData(f"data.source: {path} does not decode ({why}); save it again, or take it out")


def _last(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Channels last, without a copy."""
    return images.transpose(0, 2, 3, 1)
