"""The file that a search's study is kept in: JSON lines, appended and synchronised, mended after a kill."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from mwray.records import RecordError
from mwray.space import Space
from mwray.storage import Appender, patiently, read_whole

FILE = "study.journal"

STUDY = "mwray"
"""The study's name within its file."""


def open_study(folder: Path, space: Space) -> optuna.Study:
    """The study in `folder`, or a new one; the caller holds the folder's lock."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    for lock in folder.glob(f"{FILE}.lock*"):  # of optuna-dashboard, killed while it wrote
        lock.unlink(missing_ok=True)
    direction = "maximize" if space.mode == "max" else "minimize"
    return optuna.create_study(
        storage=JournalStorage(Journal(path)),
        study_name=STUDY,
        direction=direction,
        load_if_exists=True,
        pruner=_pruner(space),
    )


def read_study(folder: Path) -> optuna.Study | None:
    """The study in `folder` as it is at this moment, for looking only; None: there is none.

    Nothing is mended or locked: a driver may be writing to it, and a line that is not whole yet is left out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    path = folder / FILE
    try:
        return optuna.load_study(study_name=STUDY, storage=JournalStorage(Journal(path, writable=False)))
    except KeyError:  # no such file, or begun, and its first line is not whole
        return None


class Journal(BaseJournalBackend):
    """Optuna's journal format - JSON lines, which optuna-dashboard opens - written so that failing storage is survived.

    Optuna's own file backend leaves half a line behind when the disk fills up, and spoils the next one with it. It also
    locks the file for each line; here the search's folder has one driver (mwray.lock), and reads its file once.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Open the journal at `path`; a writable one is made, or mended after a kill: a last line cut short goes."""
        self._logs: list[dict[str, Any]] = []
        self._writable = writable
        if writable:
            patiently(lambda: path.touch(), path)
            data = patiently(path.read_bytes, path)
        else:  # zeros: what a driver on another machine has written, and the network file system has not brought yet
            data = (read_whole(path) or b"").partition(b"\0")[0]
        whole = data.rfind(b"\n") + 1
        if writable and whole < len(data):
            patiently(lambda: os.truncate(path, whole), path)
        self._logs = [_parsed(line, number, path) for number, line in enumerate(data[:whole].splitlines(), 1)]
        self._appender = Appender(path)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Entries from that number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries and wait until they are on the disk.

        Raises:
            StorageError: the storage failed for longer than `mwray.storage.patience`; none of them was added.
        """
        assert self._writable
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        self._appender.add("".join(lines).encode())
        self._logs += [json.loads(line) for line in lines]  # as a reader of the file would see them


def _parsed(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError as error:
        raise RecordError(f"{path}, line {number}: not readable ({error}); was it changed by hand?") from None


def differences(before: Any, now: Any, name: str) -> Any:
    """Yield "name: x there, y here" for every leaf in which two descriptions of a search differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for part in [*before, *(part for part in now if part not in before)]:
            yield from differences(before.get(part), now.get(part), f"{name}.{part}" if name else part)
    elif before != now:
        yield f"{name}: {json.dumps(before)} there, {json.dumps(now)} here"


def _pruner(space: Space) -> optuna.pruners.BasePruner:
    """Optuna's own: their rungs are in the journal, so that stopping decisions survive a restart as trials do."""
    asha, median = space.pruner.asha, space.pruner.median
    epochs = space.base.epochs
    if asha is not None:
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=space.grace_period(asha.grace_period, epochs), reduction_factor=asha.reduction_factor
        )
    if median is not None:
        return optuna.pruners.MedianPruner(
            n_startup_trials=median.min_trials, n_warmup_steps=space.grace_period(median.grace_period, epochs)
        )
    return optuna.pruners.NopPruner()
