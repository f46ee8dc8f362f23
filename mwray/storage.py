"""Writing to storage that fails: wait a while and try again, then say what is wrong; never leave half a file behind.

Disks fill up, file systems turn read-only, network mounts vanish for a minute. A write that fails for such a reason is
tried again with growing pauses, and a warning says so at once; if it still fails after `patience()` seconds, it raises
`StorageError`, with what was there before untouched. No torch here.
"""

from __future__ import annotations

import errno
import fnmatch
import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from mwray.errors import UserError

logger = logging.getLogger("mwray")

PATIENCE = "MWRAY_STORAGE_PATIENCE"
"""Environment variable: seconds for which a failing write is tried again."""
DEFAULT_PATIENCE = 120.0
"""A network mount that comes back does so within a minute or two; whoever cleans up a full disk needs no longer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
STALE_TRIES = 5
"""How often a file is opened that is replaced each time before it has been read."""
PART = ".part"
"""How the names of files end that are not whole yet."""
_PASSING = """
ENOSPC EDQUOT EROFS ENOENT ESTALE EIO EAGAIN EBUSY ETIMEDOUT ENODEV ENXIO ENOTCONN ESHUTDOWN ECONNRESET ECONNABORTED
EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH EREMOTEIO
"""
PASSING = {getattr(errno, name) for name in _PASSING.split() if hasattr(errno, name)}
"""Errors that pass by themselves or once somebody cleans up. A missing permission or too long a name do not."""

T = TypeVar("T")


class StorageError(UserError, OSError):
    """Storage that could not be written to or read for as long as we were willing to wait."""


def patience() -> float:
    """Seconds for which a failing write is tried again."""
    return float(os.environ.get(PATIENCE) or DEFAULT_PATIENCE)


def patiently(action: Callable[[], T], path: Path, limit: float | None = None) -> T:
    """Return `action()`, tried again while storage fails.

    Args:
        action: reads or writes; called again after it raised, so a half-done first call must not matter.
        path: named in messages.
        limit: seconds; default: `patience()`.

    Raises:
        StorageError: it failed for so long.
        OSError: it failed for a reason that waiting does not mend.
    """
    began, pause, failed = time.monotonic(), FIRST_PAUSE, False
    limit = patience() if limit is None else limit
    while True:
        try:
            result = action()
        except OSError as error:
            if error.errno not in PASSING or isinstance(error, StorageError):
                raise
            waited = time.monotonic() - began
            if waited >= limit:
                raise StorageError(_refusal(path, error, waited)) from error
            if not failed:
                logger.warning("%s: %s; trying again for up to %.0f s", path, error.strerror, limit)
                failed = True
            time.sleep(min(pause, limit - waited))
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if failed:
                logger.warning("%s: storage works again, after %.0f s", path, time.monotonic() - began)
            return result


def read_whole(path: Path) -> bytes | None:
    """All of a file that another process may replace or remove at any moment; None where there is none.

    On a network file system a file that was opened can be gone before it is read (ESTALE): then it is opened again.
    """
    for left in reversed(range(STALE_TRIES)):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ESTALE or not left:
                raise
    raise AssertionError


def files_below(root: Path, pattern: str) -> list[Path]:
    """Files at or below `root` whose names fit `pattern`, in order; folders that vanish meanwhile are passed over."""
    return sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in fnmatch.filter(names, pattern))


def write_atomically(path: Path, data: bytes, *, make_folder: bool = True, limit: float | None = None) -> None:
    """Write `data` to `path` so that a reader, or a machine that stops, sees all of it or what was there before.

    Args:
        path: the file.
        data: all of it.
        make_folder: make the folder where it is missing; False where it was there before: then it has vanished, and a
            new one in its place would be on another disk.
        limit: seconds to wait for storage that fails; default: `patience()`.

    Raises:
        StorageError: storage failed for so long.
    """

    def write() -> None:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_whole(path, data)
        except OSError as error:  # which names the part, and nobody has heard of that
            if error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error

    patiently(write, path, limit)


def _write_whole(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):  # of a folder that has vanished; `remove_parts` finds it later
            Path(name).unlink(missing_ok=True)
        raise


class Appender:
    """Adds to the end of a file that nobody else writes to, and waits until it is on the disk.

    An addition that fails half-way is cut off again before the next attempt, however long that takes.
    """

    def __init__(self, path: Path) -> None:
        """Continue the file at `path`, which is there."""
        self.path = path
        self._end: int | None = None

    def add(self, data: bytes) -> None:
        """Append `data`, whole or not at all.

        Raises:
            StorageError: storage failed for as long as `patience()`.
        """
        patiently(lambda: self._add(data), self.path)

    def _add(self, data: bytes) -> None:
        handle = os.open(self.path, os.O_RDWR)  # without O_CREAT: a file that is gone comes back with its storage
        try:
            size = os.fstat(handle).st_size
            if self._end is None:
                self._end = size
            if size > self._end:  # what an attempt before this one left behind
                os.ftruncate(handle, self._end)
            os.lseek(handle, self._end, os.SEEK_SET)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        except OSError:
            with suppress(OSError, TypeError):
                os.ftruncate(handle, self._end)  # type: ignore[arg-type]
            raise
        finally:
            os.close(handle)
        self._end += len(data)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`; the caller holds its lock."""
    for left in folder.glob(f".*{PART}"):
        with suppress(OSError):
            left.unlink(missing_ok=True)


def _refusal(path: Path, error: OSError, waited: float) -> str:
    cure = {
        errno.ENOSPC: "Make room there",
        errno.EDQUOT: "Make room there, or raise the quota",
        errno.EROFS: "Mount it for writing again",
        errno.ENOENT: "Is its storage still mounted, and the folder still there?",
    }.get(error.errno or 0, "Look after the storage")
    return f"{path}: {error.strerror}, still after {waited:.0f} s. {cure}; the same command then goes on"
