"""Why a trial failed, and how often its process died without getting any further; files in its run's folder. No Ray."""

from __future__ import annotations

import json
import socket
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from mwray.records import Run
from mwray.storage import StorageError, write_atomically

FAILURE = "failure.json"
"""In a run's folder: why it failed, with the whole traceback; gone again when it is started anew."""
ATTEMPTS = "attempts.json"
"""In a run's folder: starts in a row after which no further epoch was finished."""
MOST = 3
"""So many such starts in a row by one driver, and the trial has failed. Machines that are taken away cost a start each,
but epochs are finished in between; a trial that needs more memory than there is never gets any further."""


class Hopeless(Exception):
    """A training whose process died each time it was started."""


def clear_failure(folder: Path) -> None:
    """Forget why an earlier start failed."""
    (folder / FAILURE).unlink(missing_ok=True)


def note_failure(folder: Path, error: BaseException) -> str:
    """Write down why this training failed, if that can be written; returns it in a line."""
    lines = str(error).splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0]}"
    if isinstance(error, StorageError):  # perhaps of this machine alone
        reason = f"{reason} (seen from {socket.gethostname()})"
    failure = {"reason": reason, "traceback": "".join(traceback.format_exception(error))}
    with suppress(OSError):
        limit = 0.0 if isinstance(error, OSError) else None  # that storage was waited for already
        write_atomically(
            folder / FAILURE, (json.dumps(failure, indent=1) + "\n").encode(), make_folder=False, limit=limit
        )
    return reason


def storage_lost(reason: str) -> bool:
    """Whether a training ended for want of storage: no fault of its own, so the same call later goes on with it."""
    return reason.startswith(f"{StorageError.__name__}: ")


def has_failed(folder: Path) -> bool:
    """Whether the training in `folder` failed by a fault of its own, and is not to be tried again unasked."""
    failure = failure_of(folder)
    return failure is not None and not storage_lost(failure["reason"])


def failure_of(folder: Path) -> dict[str, str] | None:
    """What `note_failure` wrote, or None."""
    try:
        return dict(json.loads((folder / FAILURE).read_text()))
    except FileNotFoundError:
        return None


def count_start(folder: Path, driver: str) -> None:
    """Note a start of the run in `folder` by the process that drives it.

    Args:
        folder: the run's.
        driver: names this start of the search: what a user stopped and started again counts anew.

    Raises:
        Hopeless: `MOST` starts by this driver were not followed by a finished epoch.
    """
    records = Run(folder).records()
    epoch = int(records[-1]["epoch"]) if records else 0
    before = _attempts(folder)
    starts = 1 + (before["starts"] if (before.get("driver"), before.get("epoch")) == (driver, epoch) else 0)
    if starts > MOST:
        raise Hopeless(
            f"its process died {MOST} times in a row in epoch {epoch + 1}: killed, perhaps for want of memory, or a "
            "crash in native code"
        )
    write_atomically(folder / ATTEMPTS, json.dumps({"driver": driver, "epoch": epoch, "starts": starts}).encode())


def clear_starts(folder: Path) -> None:
    """Forget the starts of a training that has ended, well or with an error of its own."""
    (folder / ATTEMPTS).unlink(missing_ok=True)


def _attempts(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / ATTEMPTS).read_text()))
    except (FileNotFoundError, ValueError):
        return {}
