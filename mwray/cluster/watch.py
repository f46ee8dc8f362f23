"""Whether Ray still lives: its head, and the node that this driver is on. Where one is lost, the driver ends.

Ray (2.60) lets a driver whose head (the GCS) is gone hang in whatever call it is in, for a minute or longer, and one
whose own raylet is gone for ever. Here a thread knocks at the doors of both. Nothing is lost by ending at once: what is
finished is on the disk, and the same command goes on from there.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

PATIENCE = "MWRAY_HEAD_PATIENCE"
"""Environment variable: seconds for which the head may be silent."""
DEFAULT_PATIENCE = 30.0
"""A head with a database behind it (KubeRay) comes back within less; Ray's own clients give up after 60."""
PAUSE = 1.0
FAREWELL = 5.0
"""Seconds for each that wants to be told."""
CODE = 1
"""Exit code of a driver that lost its head: failed on the way."""


class Head:
    """Tells, last of all, whoever wants to be told."""

    def __init__(self) -> None:
        self._told: list[Callable[[str], None]] = []

    def tell(self, farewell: Callable[[str], None]) -> None:
        """Call `farewell` with the reason before this process ends."""
        self._told.append(farewell)

    def lost(self, why: str) -> None:
        """Tell all, and end the process: its main thread may be in a call into Ray that does not come back."""
        for farewell in self._told:
            last = threading.Thread(target=farewell, args=(why,), daemon=True)
            last.start()
            last.join(FAREWELL)  # one that waits for Ray would wait for ever
        print(f"mwray: {why}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(CODE)


@contextmanager
def watched(doors: Mapping[str, str]) -> Iterator[Head]:
    """Watch for the length of a `with`.

    Args:
        doors: what is watched, in words, and where it listens: "host:port" or the path of a socket.
    """
    head, stop = Head(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(doors, head, stop), name="mwray-watch", daemon=True)
    watcher.start()
    try:
        yield head
    finally:
        stop.set()


def _watch(doors: Mapping[str, str], head: Head, stop: threading.Event) -> None:
    limit = float(os.environ.get(PATIENCE) or DEFAULT_PATIENCE)
    seen = dict.fromkeys(doors, time.monotonic())
    while not stop.wait(PAUSE):
        for what, where in doors.items():
            if answers(where):
                seen[what] = time.monotonic()
            elif time.monotonic() - seen[what] > limit and not stop.is_set():
                head.lost(
                    f"{what} ({where}) has not answered for {limit:.0f} s and counts as lost. What is finished is "
                    "kept; the same command goes on from there, on a cluster once that runs again"
                )


def answers(where: str, timeout: float = 5.0) -> bool:
    """Whether somebody listens at "host:port" or a socket's path; the kernel answers for one that is only busy."""
    host, _, port = where.rpartition(":")
    try:
        if where.startswith("/"):
            with socket.socket(socket.AF_UNIX) as door:
                door.settimeout(timeout)
                door.connect(where)
                return True
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout):
            return True
    except OSError:
        return False
