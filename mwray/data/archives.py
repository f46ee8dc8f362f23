"""Data sets that lie in folders: where they are searched, how they are read, and how they are downloaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mwray.data import parquet
from mwray.data.cache import Arrays, cached, locked
from mwray.data.parquet import BrokenData
from mwray.errors import UserError

log = logging.getLogger(__name__)


class MissingData(UserError, FileNotFoundError):
    """A data set is in none of the folders searched: names them, and the commands that would fill them."""


@dataclass(frozen=True)
class Archive:
    """How one data set is recognised on disk."""

    name: str
    dataset: str  # class of torchvision.datasets that reads and downloads it
    marker: str  # folder that torchvision makes under its root
    subfolders: tuple[str, ...]  # names that its folder of Parquet shards may have
    label_columns: tuple[str, ...]  # names that its column of labels may have, best first
    foreign_columns: tuple[str, ...]  # columns that only shards of another data set have
    shape: tuple[int, int, int]
    num_classes: int


def search_path(folders: Sequence[Path] | None) -> list[Path]:
    """The folders searched: those given, those in MWRAY_DATA, ./data and ~/.cache/mwray/data."""
    named = [Path(text) for text in os.environ.get("MWRAY_DATA", "").split(os.pathsep) if text]
    every = [*(folders or ()), *named, Path("data"), Path.home() / ".cache" / "mwray" / "data"]
    return list(dict.fromkeys(Path(folder).expanduser() for folder in every))


def read(archive: Archive, folders: Sequence[Path] | None, *, download: bool) -> Arrays:
    """Decode a data set from the first folder that holds it, through the cache beside it.

    With `download`, a set that is nowhere is downloaded by torchvision into the first folder of the search path.

    Raises:
        MissingData: it is in none of the folders, or the download failed.
        BrokenData: it is there but damaged.
    """
    searched = search_path(folders)
    arrays = _find(archive, searched)
    if arrays is None and download:
        fetch(archive, searched[0])
        arrays = _find(archive, searched[:1])
    if arrays is None:
        raise MissingData(_explain(archive, searched))
    return arrays


def fetch(archive: Archive, folder: Path) -> None:
    """Download a data set into `folder` unless that folder holds it.

    Raises:
        MissingData: the download failed.
        BrokenData: it is there but damaged.
    """
    with locked(folder / ".mwray" / "download.lock"):  # whoever waits here finds it when the other is done
        if _find(archive, [folder]) is None:
            _download(archive, folder)


def _find(archive: Archive, searched: Sequence[Path]) -> Arrays | None:
    for given in searched:
        folder = given.parent if given.name == archive.marker else given
        for candidate in (*(folder / name for name in archive.subfolders), folder):
            if (candidate / archive.marker).is_dir():
                return _read_torchvision(archive, candidate)
            if _holds_shards(archive, candidate, is_named=candidate != folder):
                return _read_shards(archive, candidate)
    return None


def _holds_shards(archive: Archive, folder: Path, *, is_named: bool) -> bool:
    """Whether shards in `folder` are this archive's: by the folder's name, else unless something speaks against it."""
    found = [*parquet.shards(folder, "train"), *parquet.shards(folder, "test")] if folder.is_dir() else []
    if not found or is_named or folder.resolve().name in archive.subfolders:
        return bool(found)
    known_elsewhere = {name for other in ARCHIVES.values() if other is not archive for name in other.subfolders}
    if folder.resolve().name in known_elsewhere:
        return False
    # Of a damaged shard nothing is known: let reading it say what is wrong.
    try:
        return not set(parquet.columns(found[0])) & set(archive.foreign_columns)
    except BrokenData:
        return True


def _read_shards(archive: Archive, folder: Path) -> Arrays:
    files = [path for part in ("train", "test") for path in parquet.shards(folder, part)]

    def build() -> Arrays:
        return parquet.read(folder, archive.shape, archive.num_classes, archive.label_columns)

    return cached(archive.name, folder, files, build)


def _read_torchvision(archive: Archive, root: Path) -> Arrays:
    files = [path for path in (root / archive.marker).rglob("*") if path.is_file()]
    return cached(archive.name, root, files, lambda: _decode_torchvision(archive, root))


def _decode_torchvision(archive: Archive, root: Path) -> Arrays:
    """Read with torchvision, which checks the files' MD5 sums before it unpickles any of them."""
    try:
        parts = [_dataset(archive, root, train=train, download=False) for train in (True, False)]
        pairs = [(_planes(part.data), np.asarray(part.targets, np.int64)) for part in parts]
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise BrokenData(
            f"{root / archive.marker} is not a whole {archive.name} in torchvision's layout ({error}). Delete that "
            f"folder and run: python -m mwray fetch {archive.name} --data {root}"
        ) from error
    return Arrays(*pairs[0], *pairs[1])


def _planes(data: Any) -> Any:
    """Pixels as uint8 [N, C, H, W] from torchvision's [N, H, W, 3] or [N, H, W]."""
    pixels = np.asarray(data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels)


def _dataset(archive: Archive, root: Path, *, train: bool, download: bool) -> Any:
    import torchvision.datasets  # here: seconds that digits and Parquet shards never need

    return getattr(torchvision.datasets, archive.dataset)(root, train=train, download=download)


def _download(archive: Archive, root: Path) -> None:
    log.info("Downloading %s into %s", archive.name, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            _dataset(archive, root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise MissingData(
            f"{archive.name} could not be downloaded into {root} ({error}). Check the network and the free space, or "
            "put its Parquet shards there by hand."
        ) from error


def _explain(archive: Archive, searched: Sequence[Path]) -> str:
    target = searched[0]
    folders = ", ".join(f"{folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in searched)
    return (
        f"{archive.name} is in none of the folders searched: {folders}. "
        f"Download it with: python -m mwray fetch {archive.name} --data {target} - "
        f"or put Parquet shards of it (train-*.parquet, test-*.parquet) in {target / archive.subfolders[0]} - "
        "or name the folder that holds it in the environment variable MWRAY_DATA."
    )


ARCHIVES = {
    "cifar10": Archive(
        name="cifar10",
        dataset="CIFAR10",
        marker="cifar-10-batches-py",
        subfolders=("cifar10", "cifar-10", "plain_text", "cifar10/plain_text", "cifar-10/plain_text"),
        label_columns=("label",),
        foreign_columns=("fine_label", "coarse_label"),
        shape=(3, 32, 32),
        num_classes=10,
    ),
    "cifar100": Archive(
        name="cifar100",
        dataset="CIFAR100",
        marker="cifar-100-python",
        subfolders=("cifar100", "cifar-100", "cifar100/cifar100", "cifar-100/cifar100"),
        label_columns=("fine_label", "label"),
        foreign_columns=(),
        shape=(3, 32, 32),
        num_classes=100,
    ),
    "fashion_mnist": Archive(
        name="fashion_mnist",
        dataset="FashionMNIST",
        marker="FashionMNIST",
        subfolders=("fashion_mnist", "fashion-mnist"),
        label_columns=("label",),
        foreign_columns=("fine_label", "coarse_label"),
        shape=(1, 28, 28),
        num_classes=10,
    ),
}
