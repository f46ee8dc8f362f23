"""Decoded images kept as one memory-mapped file, so that the second start does not decode anything.

The file is an ordinary .npy file (numpy.lib.format) that holds one record: the four arrays, the key of the files they
were decoded from, and a checksum. Nothing is unpickled on load. It lies in a folder `.mwray` beside the source, or in
`~/.cache/mwray` where that folder may not be written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwray.config import ConfigError

log = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever the layout of the file or the way images are decoded changes: older files are then rebuilt."""


@dataclass(frozen=True)
class Arrays:
    """A decoded data set."""

    train_images: NDArray[np.uint8]  # [N, C, H, W]
    train_labels: NDArray[np.int64]  # [N]
    test_images: NDArray[np.uint8]  # [M, C, H, W]
    test_labels: NDArray[np.int64]  # [M]


@dataclass(frozen=True)
class Undecoded:
    """A data set that is decoded straight into the file: all of its images need not fit into memory."""

    shape: tuple[int, int, int]  # channels, height, width
    train_labels: NDArray[np.int64]  # [N]
    test_labels: NDArray[np.int64]  # [M]
    fill: Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]
    """Writes the images into arrays [N, C, H, W] and [M, C, H, W]."""

    def forms(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """Type and shape of each of `FIELDS`."""
        labels = {"train": self.train_labels, "test": self.test_labels}
        images: dict[str, Any] = {f"{p}_images": (np.uint8, (len(held), *self.shape)) for p, held in labels.items()}
        return images | {f"{part}_labels": (held.dtype, held.shape) for part, held in labels.items()}

    def in_memory(self) -> Arrays:
        """All of it decoded into memory.

        Raises:
            ConfigError: it does not fit.
            Whatever decoding raises.
        """
        forms = self.forms()
        try:
            train, test = (np.empty(forms[name][1], np.uint8) for name in ("train_images", "test_images"))
        except MemoryError as error:
            raise ConfigError(
                f"data.source: the pictures fit neither on the disk beside them nor into memory ({error}); make room "
                "there, or choose a smaller data.image_size"
            ) from error
        self.fill(train, test)
        return Arrays(train, self.train_labels, test, self.test_labels)


FIELDS = ("train_labels", "test_labels", "train_images", "test_images")  # labels first keeps them aligned to 8 bytes


Build = Callable[[], Arrays | Undecoded]


def cached(name: str, folder: Path, files: Sequence[Path], build: Build, also: Sequence[str] = ()) -> Arrays:
    """Return the arrays that `build` decodes from `files`, memory-mapped from the cache where it holds them.

    `folder` is the one that the files lie in. A cache that is damaged, of another version or made from other files
    (told by name, size and time of change, and by `also`) is built again, and the log says so. Processes that need the
    same cache at once wait for the first of them. Where nothing can be written the arrays are decoded on every start.
    """
    key = fingerprint(files, also)
    places = (folder / ".mwray" / f"{name}.npy", home(folder) / f"{name}.npy")
    for place in places:
        arrays = read(place, key)
        if arrays is not None:
            return arrays
    writable = next((place for place in places if _make_folder(place.parent)), None)
    if writable is None:
        log.warning("%s is decoded anew on every start: neither %s nor %s can be written", name, *places)
        return _in_memory(build())
    with locked(writable.with_suffix(".lock")):
        return read(writable, key, speak=True) or _build(writable, key, build)


def fingerprint(files: Sequence[Path], also: Sequence[str] = ()) -> str:
    """64 hexadecimal digits that change with any file's name, size or time of change, `also`, and with `VERSION`."""
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    return hashlib.sha256(repr((VERSION, stats, *also)).encode()).hexdigest()


def home(folder: Path) -> Path:
    """Where the caches of sources in `folder` lie when that folder cannot be written."""
    return Path.home() / ".cache" / "mwray" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def read(place: Path, key: str, *, speak: bool = False) -> Arrays | None:
    """The arrays in the cache file `place`, memory-mapped copy-on-write, or None where they cannot be used."""
    if not place.exists():
        return None
    try:
        record = np.load(place, mmap_mode="c", allow_pickle=False)
        if record.shape != (1,) or record.dtype.names != ("key", "checksum", *FIELDS):
            raise ValueError("it was not written by mwray")
        if record["key"][0] != key.encode():
            raise ValueError("the files it was decoded from have changed")
        arrays = Arrays(**{field: np.asarray(record[field][0]) for field in FIELDS})
        if record["checksum"][0] != _checksum(arrays):
            raise ValueError("its checksum is wrong")
    except Exception as error:  # a damaged header makes numpy raise nearly anything
        if speak:
            log.warning("The cache %s is decoded again: %s", place, error)
        return None
    return arrays


def write(place: Path, key: str, data: Arrays | Undecoded) -> None:
    """Write the cache file `place` in one step: readers see the old file or the whole new one.

    Raises:
        OSError: the disk is full or the folder cannot be written.
        Whatever decoding raises, of what is not decoded yet.
    """
    forms = data.forms() if isinstance(data, Undecoded) else {f: (a.dtype, a.shape) for f, a in vars(data).items()}
    layout: list[tuple[Any, ...]] = [("key", "S64"), ("checksum", "<u8"), *((f, *forms[f]) for f in FIELDS)]
    for left in place.parent.glob(f"{place.stem}.*.tmp"):  # by a process that was killed; `cached` holds the lock
        left.unlink(missing_ok=True)
    part = place.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        record = np.lib.format.open_memmap(part, "w+", np.dtype(layout), (1,))
        _reserve(part)
        record["key"] = key.encode()
        for field in FIELDS[:2] if isinstance(data, Undecoded) else FIELDS:
            record[field][0] = getattr(data, field)
        if isinstance(data, Undecoded):
            data.fill(record["train_images"][0], record["test_images"][0])
        record["checksum"] = _checksum(Arrays(**{field: record[field][0] for field in FIELDS}))
        record.flush()
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def _reserve(part: Path) -> None:
    """Have the disk hold all of `part`: a mapped file that meets a full disk later would end the process.

    Raises:
        OSError: there is no room.
    """
    with part.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            log.debug("%s: no space can be reserved on this file system", part)


def _in_memory(data: Arrays | Undecoded) -> Arrays:
    return data if isinstance(data, Arrays) else data.in_memory()


def _build(place: Path, key: str, build: Build) -> Arrays:
    log.info("Decoding into %s; the next start skips this", place)
    data = build()
    try:
        write(place, key, data)
    except OSError as error:
        log.warning("Cannot write %s (%s): the images are decoded anew on every start", place, error)
        return _in_memory(data)
    return read(place, key) or _in_memory(data)


def _checksum(arrays: Arrays) -> int:
    checksum = 0
    for field in FIELDS:
        checksum = zlib.crc32(np.ascontiguousarray(getattr(arrays, field)).data, checksum)
    return checksum


def _make_folder(folder: Path) -> bool:
    """Make `folder` if need be; whether it may be written."""
    parent = next(parent for parent in (folder, *folder.parents) if parent.exists())
    # The system lets root write anywhere; a folder that is writable for nobody is meant to stay as it is.
    if not parent.stat().st_mode & 0o222 or not os.access(parent, os.W_OK):
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for this process; the system lets go of it when the process ends, however it ends.

    Where the file system has no locks this does nothing.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError:  # shared with another user: two may decode at once, and `write` keeps that safe
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            log.debug("%s cannot be locked on this file system", path)
        yield
