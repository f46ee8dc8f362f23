"""One driver for one search folder: a second is refused with the first one's host and process id."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mwray.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class LockedError(UserError, ValueError):
    """Another process drives this search."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go of it however the process ends.

    On a file system without locks a file with host and process id stands in: left behind by a kill, it is taken over
    on the same host, and has to be removed by hand on another.

    Raises:
        LockedError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(_refusal(folder, _holder(file))) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _take_over(folder, _holder(file))
        try:
            _write(file, {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T %z")})
            yield
        finally:
            _write(file, None)


def _take_over(folder: Path, holder: dict[str, Any]) -> None:
    """Without kernel locks: refuse unless the holder named in the file is known to be dead."""
    if not holder:
        return
    if holder.get("host") == socket.gethostname():
        try:
            os.kill(int(holder["pid"]), 0)
        except ProcessLookupError:
            return
        except PermissionError:
            pass  # alive, and somebody else's
    raise LockedError(f"{_refusal(folder, holder)} If that process is dead, remove {folder / 'lock'}")


def _refusal(folder: Path, holder: dict[str, Any]) -> str:
    who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}" if holder else "another process"
    return f"{folder}: is driven by {who}. Wait for it, stop it, or give --folder another one."


def _holder(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.loads(file.read()))
    except (ValueError, TypeError):  # empty: taken a moment ago, or let go of
        return {}


def _write(file: IO[str], holder: dict[str, Any] | None) -> None:
    file.seek(0)
    file.truncate()
    if holder:
        file.write(json.dumps(holder))
    file.flush()
