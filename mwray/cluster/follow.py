"""Watching a run that trains in other processes: one line for each epoch that its records gain."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from mwray.records import Run
from mwray.train.sinks.console import counted

SECONDS = 0.5
"""Between two looks at the records."""
SHOWN = {
    "train.loss": ("loss", "{:.3f}"),
    "validation.accuracy": ("validation", "{:.1%}"),
    "test.accuracy": ("test", "{:.1%}"),
    "train.weight_auc": ("w AUC", "{:.3f}"),
    "seconds": ("s", "{:.1f}"),
}


@contextmanager
def following(folder: Path, epochs: int, console: Console | None = None) -> Iterator[None]:
    """Print a line per epoch of the run in `folder` for the length of a `with`; earlier epochs are not repeated."""
    console = console or Console()
    seen = _last_epoch(Run(folder).records())
    console.print(f"{folder.name}: {counted(epochs, 'epoch')} over Ray Train, after epoch {seen}", highlight=False)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, epochs, seen, console, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(folder: Path, epochs: int, seen: int, console: Console, stop: threading.Event) -> None:
    while True:
        last = stop.wait(SECONDS)  # look once more after the end: the last epoch came between two looks
        with suppress(OSError):  # storage that fails is waited for by those who write; here the next look shows it
            for record in Run(folder).records():
                if record["epoch"] > seen:
                    seen = record["epoch"]
                    console.print(line(record, epochs), highlight=False, soft_wrap=True)
        if last:
            return


def line(record: Mapping[str, Any], epochs: int) -> str:
    """One epoch in words."""
    parts = [
        f"{label} {form.format(record[name])}" for name, (label, form) in SHOWN.items() if record.get(name) is not None
    ]
    return "  ".join([f"epoch {record['epoch']}/{epochs}", *parts])


def _last_epoch(records: list[dict[str, Any]]) -> int:
    return int(records[-1]["epoch"]) if records else 0
