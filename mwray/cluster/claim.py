"""One driver for one search in object storage, as `mwray.lock` is for a local folder. No Ray."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mwray.lock import LockedError, lives, myself
from mwray.remote import Remote
from mwray.storage import StorageError

CLAIM = "claim.json"
SETTLE = 1.0
"""Seconds between a claim and the look whether it is still ours: two drivers that start at once see one another."""
OLD = 45.0
"""Seconds without a sign of life after which a claim by another host counts as a dead driver's."""


class TakenOver(LockedError, StorageError):
    """Another driver has this search: what this one still has to write down cannot be kept."""


class Claim:
    """Object storage has no locks. A claim is an object with host, process and a random mark.

    It is renewed every few seconds, and its age is taken from the storage's own clock. Whoever finds the mark of
    another, young enough, leaves.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.mark = uuid.uuid4().hex
        self._holder = myself()

    def take(self) -> None:
        """Claim the place.

        Raises:
            LockedError: another process drives the search; names its host and process.
        """
        self._write(self._refuse_others)
        time.sleep(SETTLE)
        self._refuse_others()

    def renew(self) -> None:
        """Show that this process is alive.

        Raises:
            TakenOver: the claim is no longer this process's.
        """
        self._write(self.look)

    def look(self) -> None:
        """Make sure that the claim is still this process's.

        A mark that is not ours ends it, also a dead driver's, and so does none at all: whoever had the claim after us
        has changed the search, and what this process knows of it is old.

        Raises:
            TakenOver: it is not.
        """
        holder = self._read()
        if holder.get("mark") == self.mark:
            return
        me = f"process {os.getpid()} on {socket.gethostname()}"
        if holder:
            why = (
                f"this search was taken over by process {holder['pid']} on {holder['host']} from this one ({me}): it "
                f"gave no sign of life for {OLD:.0f} s, or both began at the same moment"
            )
        else:
            why = f"the claim of this one ({me}) is gone: deleted by hand, or by another that took over and has ended"
        raise TakenOver(
            f"{self.remote.address}: {why}. This one stops and writes nothing more; the same command goes on once "
            "nobody drives the search"
        )

    def drop(self) -> None:
        """Let go of it, if it is still ours."""
        with suppress(TakenOver):
            self.remote.guarded(self.look).delete(CLAIM)

    def _read(self) -> dict[str, Any]:
        return _holder(self.remote, self.remote.read(CLAIM) or b"{}")

    def _write(self, look: Callable[[], None]) -> None:
        # Looked again before each attempt: one that waited for its storage must not undo what came to pass meanwhile.
        self.remote.guarded(look).write(CLAIM, json.dumps({**self._holder, "mark": self.mark}).encode())

    def _refuse_others(self) -> None:
        holder = self._read()
        if not holder or holder.get("mark") == self.mark or self._dead(holder):
            return
        raise LockedError(
            f"{self.remote.address}: is driven by process {holder['pid']} on {holder['host']}, since "
            f"{holder['since']}. Wait for it, stop it, or give --folder another one"
        )

    def _dead(self, holder: dict[str, Any]) -> bool:
        if holder.get("host") == socket.gethostname():
            return not lives(holder)
        probe = f".now-{self.mark}"
        self.remote.write(probe, b"")
        now, claim = self.remote.find(probe), self.remote.find(CLAIM)
        self.remote.delete(probe)
        return now is None or claim is None or now.changed - claim.changed > OLD


def claimed(remote: Remote) -> tuple[dict[str, Any], float | None]:
    """Who has the claim, {} where nobody has, and its age in seconds by this machine's clock: nothing is written."""
    found, data = remote.find(CLAIM), remote.read(CLAIM)
    if found is None or data is None:
        return {}, None
    return _holder(remote, data), max(0.0, time.time() - found.changed)


def _holder(remote: Remote, data: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(data)
        if isinstance(holder, dict) and (not holder or {"host", "pid", "since", "mark"} <= set(holder)):
            return holder
    except ValueError:
        pass
    raise StorageError(
        f"{remote.address}/{CLAIM}: says not who drives the search. Something else wrote it; delete it if nobody does"
    )
