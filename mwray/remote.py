"""Folders in object storage (S3 and what speaks like it, Google Cloud Storage) through pyarrow's file systems.

Everything in this package works on local folders, written atomically. A `Mirror` keeps such a folder and a place in
object storage the same: pulled before the work begins, pushed whenever something is worth keeping. An object appears
whole or not at all, and a push goes in the order in which a reader must find things: records, then checkpoints, then
the mark that all is done.

Credentials come from where the cloud's own tools find them (environment, profile, the machine's role), never from an
address: addresses are written into records. No torch here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from mwray.config import ConfigError
from mwray.storage import FIRST_PAUSE, LONGEST_PAUSE, PART, StorageError, patience, write_atomically

logger = logging.getLogger("mwray")
T = TypeVar("T")

SCHEMES = ("s3", "gs", "gcs")
OPTIONS = {"region", "endpoint_override", "scheme", "allow_bucket_creation", "anonymous"}
"""What an address may say after "?"; access keys are not among them."""
SCRATCH = "MWRAY_SCRATCH"
"""Environment variable: where the local copies are; default ~/.cache/mwray/remote."""

TRIES = 5
"""How often an object is read that changes meanwhile, before a pause."""
READERS = 8
"""Objects that are read at once: of small ones the storage takes longer to answer than to send."""


def is_remote(folder: str | os.PathLike[str] | None) -> bool:
    """Whether `folder` is an address (s3://bucket/path) and not a local path."""
    return folder is not None and "://" in os.fspath(folder)


@dataclass(frozen=True)
class Found:
    """One object."""

    size: int
    changed: float
    """Seconds since 1970 by the storage's clock."""


class Remote:
    """A place in object storage.

    Attributes:
        address: as given, without a trailing slash; safe to show and to record.
    """

    def __init__(self, address: str) -> None:
        """Parse `address`; nothing is asked of the storage yet.

        Raises:
            ConfigError: another scheme, no bucket, credentials in it, or an option that is not known.
        """
        try:
            parts = urlsplit(address)
        except ValueError:  # whose text repeats what may be a secret
            raise ConfigError("not an address; one is s3://bucket/path") from None
        options = dict(parse_qsl(parts.query))
        _check(parts.scheme, parts.netloc, options)
        self._path = PurePosixPath(parts.netloc + parts.path)
        self._scheme, self._options = parts.scheme, options
        self.address = f"{parts.scheme}://{self._path}" + (f"?{urlencode(options)}" if options else "")
        self._opened: Any = None
        self._look: Callable[[], None] = lambda: None

    def __truediv__(self, name: str) -> Remote:
        """The place `name` below this one."""
        query = f"?{urlencode(self._options)}" if self._options else ""
        place = Remote(f"{self._scheme}://{self._path / name}{query}")
        place._opened = self._opened  # one file system, and one look for the bucket's region, serves all of them
        return place

    def guarded(self, look: Callable[[], None]) -> Remote:
        """The same place, where `look` is called before every attempt to change it; what it raises ends them."""
        place = Remote(self.address)
        place._opened, place._look = self._opened, look
        return place

    @property
    def scratch(self) -> Path:
        """This machine's own copy of it."""
        root = Path(os.environ.get(SCRATCH) or Path.home() / ".cache" / "mwray" / "remote")
        return root / f"{self._path.name}-{hashlib.sha256(self.address.encode()).hexdigest()[:12]}"

    @property
    def filesystem(self) -> Any:
        """pyarrow's file system; `path` is the place in it."""
        if self._opened is None:
            from pyarrow import fs

            # One request puts what fits into one; without it each object takes three, and a process that is killed in
            # between leaves parts behind that are paid for.
            at_once = "?&"["?" in self.address] + "allow_delayed_open=true" if self._scheme == "s3" else ""
            try:
                self._opened, _ = fs.FileSystem.from_uri(self.address + at_once)
            except (OSError, ValueError) as error:
                raise ConfigError(f"{self.address}: {error}") from None
        return self._opened

    @property
    def path(self) -> str:
        """Bucket and path, as `filesystem` takes them."""
        return str(self._path)

    def objects(self) -> dict[str, Found]:
        """Every object below, by its name relative to this place."""
        from pyarrow import fs

        found = self._patiently(
            lambda: self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True, allow_not_found=True))
        )
        start = len(self.path) + 1
        return {i.path[start:]: Found(i.size, i.mtime_ns / 1e9) for i in found if i.type == fs.FileType.File}

    def find(self, name: str) -> Found | None:
        """What is known of an object, or None where there is none."""
        from pyarrow import fs

        info = self._patiently(lambda: self.filesystem.get_file_info(f"{self.path}/{name}"))
        return Found(info.size, info.mtime_ns / 1e9) if info.type == fs.FileType.File else None

    def read(self, name: str) -> bytes | None:
        """The whole object as it was at one moment, or None where there is none."""
        return self._patiently(lambda: self._read(f"{self.path}/{name}"))

    def _read(self, path: str) -> bytes | None:
        # pyarrow asks for the size and then for as many bytes. Of an object that was put anew in between it returns the
        # first ones of a longer one, and memory never written to behind those of a shorter one, all without an error.
        for _ in range(TRIES):
            try:
                with self.filesystem.open_input_file(path) as file:
                    version, data = file.metadata(), file.readall()
                with self.filesystem.open_input_file(path) as file:
                    if file.metadata() == version and file.size() == len(data):
                        return bytes(data)
            except FileNotFoundError:
                return None
        raise OSError(f"{path}: was put anew each time while it was read")

    def write(self, name: str, data: bytes) -> None:
        """Put an object, whole."""

        def write() -> None:
            self._look()
            with self.filesystem.open_output_stream(f"{self.path}/{name}") as stream:
                stream.write(data)

        self._patiently(write)

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no matter."""

        def delete() -> None:
            self._look()
            try:
                self.filesystem.delete_file(f"{self.path}/{name}")
            except FileNotFoundError:
                return

        self._patiently(delete)

    def _patiently(self, action: Callable[[], T]) -> T:
        """As `mwray.storage.patiently`; pyarrow's errors carry no number, so each is taken for one that may pass."""
        began, pause, limit = time.monotonic(), FIRST_PAUSE, patience()
        while True:
            try:
                return action()
            except StorageError:  # of `_look`
                raise
            except OSError as error:
                waited = time.monotonic() - began
                if _final(error) or waited >= limit:
                    raise StorageError(f"{self.address}: {_short(error)}, after {waited:.0f} s") from None
                if pause == FIRST_PAUSE:
                    logger.warning("%s: %s; trying again for up to %.0f s", self.address, _short(error), limit)
                time.sleep(min(pause, limit - waited))
                pause = min(2 * pause, LONGEST_PAUSE)


class Mirror:
    """A local folder and a place in object storage that hold the same files. One process pushes at a time."""

    def __init__(self, remote: Remote, local: Path, left_out: Callable[[str], bool] = lambda name: False) -> None:
        """Nothing is copied yet.

        Args:
            remote: the place.
            local: the folder, made if it is not there.
            left_out: names that neither way concerns, relative to the folder.
        """
        self.remote, self.local, self._left_out = remote, local, left_out
        self._pushed: dict[str, tuple[int, int, int]] = {}
        local.mkdir(parents=True, exist_ok=True)

    def pull(self, part: str = "") -> None:
        """Make the folder what the storage holds: fetch all, remove what is not there.

        This is for the start of a process: another machine may have continued what this one has a copy of.

        Args:
            part: only the folder of this name below it; what is fetched there is not pushed back.

        Raises:
            StorageError: the storage could not be read for `patience()` seconds.
        """
        start = f"{part}/" if part else ""
        found = (self.remote / part).objects() if part else self.remote.objects()
        names = [name for name in (f"{start}{below}" for below in found) if not self._skipped(name)]
        there = {name: self._inside(name) for name in names}
        for name, path in self._files(part).items():
            if name not in there:
                path.unlink()
                self._pushed.pop(name, None)
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(self._fetch, there, there.values()))

    def push(self) -> None:
        """Make the storage what the folder holds, changed files only.

        Raises:
            StorageError: the storage could not be written for `patience()` seconds.
        """
        files = self._files()
        for name in sorted(files, key=_order):
            try:
                # Before reading: what is written meanwhile has another one, and goes next time.
                stamp = _stamp(files[name])
                data = files[name].read_bytes() if self._pushed.get(name) != stamp else None
            except FileNotFoundError:  # an old checkpoint, removed a moment ago
                continue
            if data is not None:
                self.remote.write(name, data)
                self._pushed[name] = stamp
        for name in [name for name in self._pushed if not self._inside(name).exists()]:
            self.remote.delete(name)
            del self._pushed[name]

    def _fetch(self, name: str, path: Path) -> None:
        data = self.remote.read(name)
        if data is None:  # removed since it was listed: a copy from earlier would be pushed as if it were new
            path.unlink(missing_ok=True)
            self._pushed.pop(name, None)
        else:
            write_atomically(path, data)
            self._pushed[name] = _stamp(path)

    def _files(self, part: str = "") -> Mapping[str, Path]:
        paths = {str(p.relative_to(self.local).as_posix()): p for p in (self.local / part).rglob("*") if p.is_file()}
        return {name: path for name, path in paths.items() if not self._skipped(name)}

    def _skipped(self, name: str) -> bool:
        return name.endswith(PART) or self._left_out(name)

    def _inside(self, name: str) -> Path:
        """Where an object goes; its name, which somebody else may have chosen, cannot lead out of the folder."""
        path = self.local / name
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise ConfigError(f"{self.remote.address}: holds an object named {name!r}, which leads out of its folder")
        return path


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes with a file's content: files are replaced as a whole, by another inode, or else grow at their end.

    So size and time need not tell two versions apart that were written within one tick of the clock (4 ms on Linux).
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _order(name: str) -> tuple[int, str]:
    """Records before checkpoints, which may be no newer than them; the mark that all is done comes last."""
    last = PurePosixPath(name).name
    return (3 if last == "done" else 2 if last.startswith("checkpoint-") else 1, name)


def _check(scheme: str, place: str, options: Mapping[str, str]) -> None:
    """Refuse what cannot be, without repeating more than the scheme: any other part may turn out to be a secret."""
    if scheme not in SCHEMES:
        raise ConfigError(f"{scheme}://...: storage is a local path, or an address {', '.join(SCHEMES)}://")
    # No bucket's name has a colon; with KEY:SECRET@ before it, a secret that contains a slash hides the "@".
    hidden = any("@" in text for pair in options.items() for text in pair)
    if hidden or set("@:") & set(place) or {"access_key", "secret_key", "session_token"} & set(options):
        raise ConfigError(
            f"{scheme}://...: an address with credentials would end up in records. Give them by the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role)"
        )
    if not place:
        raise ConfigError(f"{scheme}:///...: names no bucket; an address is {scheme}://bucket/path")
    if unknown := set(options) - OPTIONS:
        raise ConfigError(f"?{'=, '.join(sorted(unknown))}=: not known; there are {', '.join(sorted(OPTIONS))}")


def _final(error: OSError) -> bool:
    """Whether waiting will not help: no such bucket, no permission."""
    text = str(error)
    return any(word in text for word in ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT"))


def _short(error: OSError) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
