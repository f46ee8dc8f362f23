"""A run's folder: what was asked for, in what environment, what each epoch measured, and whether it finished.

    experiment.json    the whole experiment, as `mwray.config.read(Experiment, ...)` takes it
    environment.json   versions, machine, device, command, sizes of the sets (one entry for each time it was started)
    records.jsonl      one line per finished epoch, flat dotted names
    checkpoint-*.pt    the newest states (mwray/train/checkpoint.py)
    done               the summary; the run is finished exactly when this file exists

Every file is written whole or not at all. No torch here: reports read these folders without it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mwray.errors import UserError
from mwray.storage import Appender, remove_parts
from mwray.storage import files_below as files_below
from mwray.storage import read_whole as read_whole
from mwray.storage import write_atomically as write_atomically

PACKAGES = ("mwray", "torch", "torchvision", "ray", "optuna", "numpy", "scikit-learn")


class RecordError(UserError, ValueError):
    """A run folder that cannot be used: names the file and what is wrong with it."""


class Run:
    """One run's folder. Reading needs nothing but the files; writing is rank 0's alone."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._appender = Appender(self.folder / "records.jsonl")

    def experiment(self) -> dict[str, Any]:
        """The experiment as nested plain data.

        Raises:
            RecordError: there is none in this folder, or it is not readable.
        """
        return dict(self._read("experiment.json"))

    def records(self) -> list[dict[str, Any]]:
        """One flat mapping per finished epoch; a last line cut short, by a crash or as it is written, is left out."""
        path = self.folder / "records.jsonl"
        lines = (read_whole(path) or b"").splitlines()
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:  # no JSON, or not even text
                if number < len(lines):
                    raise RecordError(f"{path}, line {number}: not a JSON record ({error})") from None
        return records

    def starts(self) -> list[dict[str, Any]]:
        """The environment of each start, the first one first; [] where none is known."""
        return list(self._content("environment.json") or [])

    def epochs(self) -> int:
        """How many epochs are finished, without reading what they measured."""
        return (read_whole(self.folder / "records.jsonl") or b"").count(b"\n")

    def summary(self) -> dict[str, Any] | None:
        """What the finished run came to, or None while it is not finished.

        A folder that lost records to another machine's copy, which was not as far, is not finished: it trains on.
        """
        done = self._content("done")
        if done is None:
            return None
        summary = dict(done)
        return None if 0 < self.epochs() < summary.get("epochs", 0) else summary

    def summary_of(self, experiment: Mapping[str, Any]) -> dict[str, Any] | None:
        """What this very experiment, as nested plain data, came to here, or None."""
        summary = self.summary()
        return summary if summary is not None and self.experiment() == experiment else None

    @property
    def state(self) -> str:
        """Return "done", "started" or "empty"."""
        if self.summary() is not None:
            return "done"
        return "started" if (self.folder / "experiment.json").exists() else "empty"

    def start(self, experiment: Mapping[str, Any], environment: Mapping[str, Any], epoch: int) -> None:
        """Begin or go on at `epoch` (the number of finished epochs): later records are dropped.

        Raises:
            RecordError: the folder belongs to another experiment.
        """
        if self.state != "empty" and self.experiment() != experiment:
            raise RecordError(
                f"{self.folder}: holds another experiment than the one asked for; give a folder of its own, "
                "or remove this one"
            )
        self._write("experiment.json", experiment)
        self._write("environment.json", [*self.starts(), {**environment, "epoch": epoch}])
        kept = [record for record in self.records() if record["epoch"] <= epoch]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.folder / "records.jsonl", text.encode(), make_folder=False)
        self._appender = Appender(self.folder / "records.jsonl")
        remove_parts(self.folder)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the record of one finished epoch and wait until it is on the disk.

        Raises:
            StorageError: the storage failed for longer than `mwray.storage.patience`.
        """
        self._appender.add((json.dumps(record) + "\n").encode())

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as finished."""
        self._write("done", summary, make_folder=False)

    def _write(self, name: str, data: Any, make_folder: bool = True) -> None:
        write_atomically(self.folder / name, (json.dumps(data, indent=1) + "\n").encode(), make_folder=make_folder)

    def _read(self, name: str) -> Any:
        content = self._content(name)
        if content is None:
            path = self.folder / name
            raise RecordError(f"{path}: there is no such file; is {self.folder} the folder of a run?")
        return content

    def _content(self, name: str) -> Any:
        """What a file holds, None where there is none."""
        path = self.folder / name
        data = read_whole(path)
        try:
            return None if data is None else json.loads(data.decode())
        except ValueError as error:  # no JSON, or not even text
            raise RecordError(f"{path}: not readable as JSON ({error})") from None


def environment() -> dict[str, Any]:
    """Versions, machine, time and command of this process, for a reader who wants to repeat a number."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "host": platform.node(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "command": os.environ.get("MWRAY_COMMAND") or " ".join(sys.argv),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
