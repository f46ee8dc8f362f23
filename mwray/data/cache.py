"""Decoded images kept as one memory-mapped file, so that the second start does not decode anything.

The file begins as an ordinary .npy file (numpy.lib.format) that holds one record: the labels, the shapes of the images,
the key of the files they were decoded from, and a checksum. The images' bytes follow; within the record NumPy would let
them have 2 GiB. Nothing is unpickled on load. The file lies in a folder `.mwray` beside the source, or in
`~/.cache/mwray` where that folder may not be written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import math
import mmap
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

NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's number: Python 3.11 and 3.12 do not name it

VERSION = 2
"""Raised whenever the layout of the file or the way images are decoded changes: older files are then rebuilt."""


@dataclass(frozen=True)
class Arrays:
    """A decoded data set."""

    train_images: NDArray[np.uint8]  # [N, C, H, W]
    train_labels: NDArray[np.int64]  # [N]
    test_images: NDArray[np.uint8]  # [M, C, H, W]
    test_labels: NDArray[np.int64]  # [M]


Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Undecoded:
    """A data set that is decoded straight into the file: all of its images need not fit into memory."""

    shape: tuple[int, int, int]  # channels, height, width
    train_labels: NDArray[np.int64]  # [N]
    test_labels: NDArray[np.int64]  # [M]
    fill: Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]
    """Writes the images into arrays [N, C, H, W] and [M, C, H, W]."""

    def shapes(self) -> Shapes:
        """Of the training and of the test images."""
        return (len(self.train_labels), *self.shape), (len(self.test_labels), *self.shape)

    def in_memory(self) -> Arrays:
        """All of it decoded into memory.

        Raises:
            ConfigError: it does not fit.
            Whatever decoding raises.
        """
        try:
            train, test = (np.empty(shape, np.uint8) for shape in self.shapes())
        except MemoryError as error:
            raise ConfigError(
                f"data.source: the pictures fit neither on the disk beside them nor into memory ({error}); make room "
                "there, or choose a smaller data.image_size"
            ) from error
        self.fill(train, test)
        return Arrays(train, self.train_labels, test, self.test_labels)


FIELDS = ("train_labels", "test_labels", "train_images", "test_images")
HEAD = ("key", "checksum", "train_shape", "test_shape", *FIELDS[:2])
"""What the record at the file's beginning holds."""


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
        if record.shape != (1,) or record.dtype.names != HEAD:
            raise ValueError("it was not written by mwray")
        if record["key"][0] != key.encode():
            raise ValueError("the files it was decoded from have changed")
        train, test = _mapped(place, record.offset + record.nbytes, *(record[name][0].tolist() for name in HEAD[2:4]))
        train_labels, test_labels = (np.asarray(record[name][0]) for name in HEAD[4:])
        arrays = Arrays(train, train_labels, test, test_labels)
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
    shapes = data.shapes() if isinstance(data, Undecoded) else (data.train_images.shape, data.test_images.shape)
    layout: list[tuple[Any, ...]] = [("key", "S64"), ("checksum", "<u8"), *((name, "<i8", (4,)) for name in HEAD[2:4])]
    layout += [(name, getattr(data, name).dtype, getattr(data, name).shape) for name in FIELDS[:2]]
    for left in place.parent.glob(f"{place.stem}.*.tmp"):  # by a process that was killed; `cached` holds the lock
        left.unlink(missing_ok=True)
    part = place.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        record = np.lib.format.open_memmap(part, "w+", np.dtype(layout), (1,))
        start, sizes = record.offset + record.nbytes, [math.prod(shape) for shape in shapes]
        _reserve(part, start + sum(sizes))
        train, test = (
            np.memmap(part, np.uint8, "r+", place, shape)
            for place, shape in zip((start, start + sizes[0]), shapes, strict=True)
        )
        record["key"], (record["train_shape"], record["test_shape"]) = key.encode(), shapes
        record["train_labels"], record["test_labels"] = data.train_labels, data.test_labels
        if isinstance(data, Undecoded):
            data.fill(train, test)
        else:
            train[:], test[:] = data.train_images, data.test_images
        record["checksum"] = _checksum(Arrays(train, data.train_labels, test, data.test_labels))
        for written in (train, test, record):
            written.flush()
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def _reserve(part: Path, size: int) -> None:
    """Have the disk hold `size` bytes of `part`: a mapped file that meets a full disk later would end the process.

    Raises:
        OSError: there is no room.
    """
    with part.open("r+b") as file:
        file.truncate(size)
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            log.debug("%s: no space can be reserved on this file system", part)


def _mapped(place: Path, start: int, *shapes: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Arrays of `shapes`, one behind the other from `start` on, each page of which is copied when it is written to.

    The system is asked to keep no memory for that (MAP_NORESERVE): it would refuse a file that is larger than it has.
    """
    with place.open("rb") as file:
        flags, rights = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        held = mmap.mmap(file.fileno(), 0, flags=flags, prot=rights)
    arrays = []
    for shape in shapes:
        arrays.append(np.frombuffer(held, np.uint8, math.prod(shape), start).reshape(shape))
        start += math.prod(shape)
    return arrays


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
