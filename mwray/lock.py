"""One process for one folder: a second is refused with the first one's host and process id.

A search's folder has one driver, a run's folder one process that trains in it. Where a trial is started again while the
process before it still lives - its host was cut off, say - the new one waits until the old one is gone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mwray.errors import UserError
from mwray.storage import patiently

logger = logging.getLogger("mwray")

NAME = "lock"
PAUSE = 0.1
"""Seconds between two attempts."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class LockedError(UserError, ValueError):
    """Another process uses this folder."""


@contextmanager
def locked(folder: Path, *, wait: float = 0.0, take_over: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go of it however the process ends.

    On a file system without locks a file with host and process id stands in: left behind by a kill, it is taken over
    on the same host, and on another one only if `take_over`.

    Args:
        folder: made if it is not there.
        wait: seconds to wait for the process that holds it.
        take_over: where the file system has no locks, take the folder after `wait` from a process elsewhere that
            may be dead: for whoever knows that it was given up.

    Raises:
        LockedError: another process holds it.
    """
    path = folder / NAME
    patiently(lambda: folder.mkdir(parents=True, exist_ok=True), folder)
    with patiently(lambda: path.open("a+"), path) as file:
        _acquire(folder, file, wait, take_over)
        with suppress(OSError):  # who holds it is for people to read
            _write(file, myself())
        try:
            yield
        finally:
            with suppress(OSError):
                _write(file, None)


def myself() -> dict[str, Any]:
    """This process, as it writes itself down where it holds something."""
    now = time.strftime("%F %T %z")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "started": _started(os.getpid())}


def lives(holder: Mapping[str, Any]) -> bool:
    """Whether the process of this host that wrote itself down as `holder` still runs.

    After a reboot, or once ids are used again, another process has its id: one that started at another time. To try the
    lock would tell too, but would turn away a driver that starts at this moment.
    """
    pid = int(holder["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # alive, and somebody else's
    then, now = holder.get("started"), _started(pid)
    return then is None or now is None or then == now


def _started(pid: int) -> str | None:
    """The boot and the tick of its clock at which a process started; "over" for one that is dead and whose parent has
    not asked how it ended; None where there is no /proc to say it."""
    try:
        # The second field is the name, in brackets, and may hold anything; state and start are the 3rd and the 22nd.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return "over" if fields[0] in "ZX" else f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return None


def holder(folder: Path) -> dict[str, Any]:
    """Host, process id and start of the process that holds `folder`, as it wrote them; empty: nobody does.

    A process that was killed leaves its entry behind.
    """
    try:
        return _parsed((folder / NAME).read_text())
    except OSError:
        return {}


def _acquire(folder: Path, file: IO[str], wait: float, take_over: bool) -> None:
    deadline, told = time.monotonic() + wait, False
    while True:
        last = time.monotonic() >= deadline
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if last:
                raise LockedError(_refusal(folder, _holder(file))) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if _free(_holder(file)) or (last and take_over):
                return
            if last:
                raise LockedError(
                    f"{_refusal(folder, _holder(file))} If that process is dead, remove {folder / NAME}"
                ) from None
        if not told:
            logger.warning("%s: waiting for %s to let go of it", folder, _who(_holder(file)))
            told = True
        time.sleep(PAUSE)


def _free(holder: dict[str, Any]) -> bool:
    """Without kernel locks: whether the holder named in the file is known to be dead."""
    if not holder:
        return True
    return holder.get("host") == socket.gethostname() and not lives(holder)


def _refusal(folder: Path, holder: dict[str, Any]) -> str:
    return f"{folder}: is driven by {_who(holder)}. Wait for it, stop it, or give --folder another one."


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']}" if holder else "another process"


def _holder(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    return _parsed(file.read())


def _parsed(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):  # empty: taken a moment ago, or let go of
        return {}


def _write(file: IO[str], holder: dict[str, Any] | None) -> None:
    file.seek(0)
    file.truncate()
    if holder:
        file.write(json.dumps(holder))
    file.flush()
