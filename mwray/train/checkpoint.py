"""Checkpoints that survive a crash at any moment and a disk that lies.

A file is named by its epoch and the first digits of its own SHA-256: it is written aside, then renamed, so a name
that fits its content is a whole checkpoint. The newest two are kept; where the newest is damaged, the one before is
used. Nothing is ever unpickled beyond tensors and plain values (`weights_only=True`).
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mwray.errors import UserError
from mwray.records import write_atomically

logger = logging.getLogger("mwray")

NAME = re.compile(r"checkpoint-(\d{6,})-([0-9a-f]{16})\.pt")
KEPT = 2


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be continued from."""


def save(folder: Path, epoch: int, state: dict[str, Any]) -> Path:
    """Write `state` after `epoch` finished epochs; remove all but the newest two. Returns the file.

    Raises:
        StorageError: the storage of `folder`, which is there, failed for longer than `mwray.storage.patience`.
    """
    buffer = io.BytesIO()
    torch.save({**state, "epoch": epoch}, buffer)
    data = buffer.getvalue()
    path = folder / f"checkpoint-{epoch:06d}-{_digest(data)}.pt"
    write_atomically(path, data, make_folder=False)
    for old in [found for found in files(folder) if found != path][KEPT - 1 :]:
        with suppress(OSError):  # the next one removes it
            old.unlink(missing_ok=True)
    return path


def files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest epoch first, whole or not."""
    found = [(match, path) for path in folder.glob("checkpoint-*.pt") if (match := NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda pair: int(pair[0][1]), reverse=True)]


def latest(
    folder: Path, device: torch.device | str = "cpu", extra: Path | None = None, upto: int | None = None
) -> dict[str, Any] | None:
    """The newest whole checkpoint of `folder` (or the file `extra`, if its epoch is newer), or None.

    A damaged file is passed over with a warning that names it; one of more than `upto` finished epochs silently.
    """
    before: list[Path] | None = None
    while (found := files(folder)) != before:  # again where another process has saved newer ones and removed these
        before = found
        candidates = [path for path in found if upto is None or _epoch(path) <= upto]
        for path in sorted(candidates + ([extra] if extra is not None else []), key=_epoch, reverse=True):
            try:
                return load(path, device)
            except (CheckpointError, FileNotFoundError) as error:
                logger.warning("%s; the one before it is used, or the start", error)
    return None


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read one checkpoint file.

    Raises:
        CheckpointError: its content does not fit its name, or is not a checkpoint.
    """
    data = path.read_bytes()
    match = NAME.fullmatch(path.name)
    if match and match[2] != _digest(data):
        raise CheckpointError(f"{path}: damaged (its content does not fit the checksum in its name)")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise CheckpointError(f"{path}: not a checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or "epoch" not in state:
        raise CheckpointError(f"{path}: not a checkpoint of a run (it holds no epoch)")
    return state


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _epoch(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else -1
