"""The driver's sign of life and the search's spend, in one small file for all who see the storage. No Ray.

`heartbeat.json` is written anew every few seconds by the process that drives a search. A driver that was killed leaves
its last one behind: a later one takes the spend over from it, and `--status` sees that it has grown old.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mwray.storage import PART

logger = logging.getLogger("mwray")

FILE = "heartbeat.json"
SECONDS = 5.0
OLD = 6
"""Intervals after which a heartbeat counts as old: storage that hangs for half a minute is no death."""


class Spend:
    """Core and GPU seconds for which trials held machines: those that were lost to kills included."""

    def __init__(self, cpus: float, gpus: float, before: Mapping[str, Any] | None = None) -> None:
        """Count from what earlier drivers spent.

        Args:
            cpus: cores of one trial, over all its workers.
            gpus: GPUs of one trial.
            before: a heartbeat's "spend".
        """
        self.cpus, self.gpus = cpus, gpus
        self._before = dict(before or {})
        self._done = 0.0
        self._since: dict[str, float] = {}

    def begin(self, trial: str) -> None:
        """A trial holds its machines from now on."""
        self._since.setdefault(trial, time.monotonic())

    def end(self, trial: str) -> None:
        """It does no more; nothing where it never did."""
        since = self._since.pop(trial, None)
        if since is not None:
            self._done += time.monotonic() - since

    def total(self) -> dict[str, float]:
        """ "cpu_seconds" and "gpu_seconds" so far, over all drivers of the search."""
        now = time.monotonic()
        held = self._done + sum(now - since for since in list(self._since.values()))
        return {
            "cpu_seconds": self._before.get("cpu_seconds", 0.0) + self.cpus * held,
            "gpu_seconds": self._before.get("gpu_seconds", 0.0) + self.gpus * held,
        }


class Heartbeat:
    """Writes the file every few seconds until it is closed; storage that fails is left to those who write results."""

    def __init__(self, folder: Path, told: Callable[[], Mapping[str, Any]], seconds: float = SECONDS) -> None:
        """Begin.

        Args:
            folder: the search's.
            told: what to write beside host, process and time; called in a thread.
            seconds: between two beats.
        """
        self._path, self._told, self._seconds = folder / FILE, told, seconds
        self._fixed = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": time.time(),
            "seconds": seconds,
            "command": " ".join(sys.argv),
        }
        self._last: dict[str, Any] = {}
        self._silent = False
        self._stop = threading.Event()
        self.beat("running")
        self._thread = threading.Thread(target=self._run, name="mwray-heartbeat", daemon=True)
        self._thread.start()

    def beat(self, state: str, *, ask: bool = True) -> None:
        """Write it once; without `ask`, with what was told last: where asking may never come back.

        An error of who is asked is no reason to look dead: what was told last is written then too.
        """
        if ask:
            self._ask()
        data = {**self._fixed, "beat": time.time(), "state": state, **self._last}
        part = self._path.with_name(f".{FILE}{PART}")
        with suppress(OSError):
            part.write_text(json.dumps(data, indent=1) + "\n")
            os.replace(part, self._path)

    def close(self, state: str) -> None:
        """Write the last one: how the search ended."""
        self._stop.set()
        self._thread.join(max(self._seconds, SECONDS))  # else a beat on its way would write over the last one
        self.beat(state)

    def _ask(self) -> None:
        try:
            self._last = dict(self._told())
        except Exception:
            if not self._silent:
                logger.warning("%s: written without news from here on", self._path, exc_info=True)
            self._silent = True
        else:
            self._silent = False

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.beat("running")


def read(folder: Path) -> dict[str, Any]:
    """The newest heartbeat in `folder`; empty where there is none that can be read."""
    try:
        return dict(json.loads((folder / FILE).read_text()))
    except (OSError, ValueError):
        return {}


def hours(spend: Mapping[str, Any]) -> str:
    """A spend in words."""
    gpus, cpus = (spend.get(name, 0.0) / 3600 for name in ("gpu_seconds", "cpu_seconds"))
    return f"{gpus:.2f} GPU-hours and {cpus:.2f} core-hours"
