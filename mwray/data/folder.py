"""Pictures in folders, `data.source=folder:/path`: train/CLASS/*.png, test/CLASS/*.jpg, and perhaps clean/CLASS/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mwray.data.archives import MissingData
from mwray.data.cache import Arrays, Undecoded, cached
from mwray.data.own import OwnData, checked
from mwray.data.parquet import BrokenData
from mwray.data.pictures import ENDINGS, decode, form_of
from mwray.data.settings import FOLDER

DECODER = "pictures 2"
"""Part of the cache's key: raised whenever pixels come out otherwise."""

Listing = dict[str, list[Path]]  # the pictures of each class, both in the alphabet's order


def read(name: str, image_size: int | None = None) -> OwnData:
    """The pictures of `name`, "folder:/path", through the cache beside them; classes follow the alphabet.

    Args:
        name: as `data.source`.
        image_size: as `data.image_size`; pictures of each size have a cache of their own.

    Raises:
        MissingData: there is no such folder.
        BrokenData: a part, a class or a file of it cannot be used; names it and what would do.
        ConfigError: as `mwray.data.own.checked`.
    """
    root = _root(name)
    there = ("train", "test", "clean") if (root / "clean").exists() else ("train", "test")
    parts = {part: _listing(root, part) for part in there}
    classes = list(parts["train"])
    for part, listing in parts.items():
        _check_known(root / part, listing, classes)
    files = {part: [path for paths in listing.values() for path in paths] for part, listing in parts.items()}
    labels = {part: _labels(listing, classes) for part, listing in parts.items()}
    arrays = _arrays(root, files, labels, image_size)
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


def class_names(name: str) -> list[str]:
    """The classes of `name`, "folder:/path": nothing is decoded.

    Raises:
        MissingData, BrokenData: as `read`.
    """
    return list(_listing(_root(name), "train"))


def _root(name: str) -> Path:
    root = Path(name.removeprefix(FOLDER)).expanduser()
    if not root.is_dir():
        raise MissingData(
            f"data.source: {name!r} names {root}, and there is no such folder on this machine; give one that holds "
            "train/CLASS/ and test/CLASS/ with pictures in them"
        )
    return root


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


def _arrays(
    root: Path, files: dict[str, list[Path]], labels: dict[str, NDArray[np.int64]], image_size: int | None
) -> Arrays:
    """All pictures [N, C, H, W]; the cache has two parts, so clean ones stand behind the training pictures."""
    parts = [[*files["train"], *files.get("clean", ())], files["test"]]
    every = [path for part in parts for path in part]

    def build() -> Undecoded:
        form = form_of(every, image_size)

        def fill(train: NDArray[np.uint8], test: NDArray[np.uint8]) -> None:
            for part, pixels in zip(parts, (train, test), strict=True):
                decode(part, image_size, form, pixels)

        known = np.concatenate([labels[part] for part in ("train", "clean") if part in labels])
        return Undecoded((form.channels, form.height, form.width), known, labels["test"], fill)

    # A picture that moves to another class, as after a look at the suspects, keeps its name, size and time.
    also = [DECODER, *(path.relative_to(root).as_posix() for path in every)]
    return cached("folder" if image_size is None else f"folder-{image_size}", root, every, build, also=also)


def _last(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Channels last, without a copy."""
    return images.transpose(0, 2, 3, 1)
