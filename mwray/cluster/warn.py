"""What a trial's process has to say beside its numbers, brought to the driver with the next report.

A trial runs on some machine whose output nobody watches. Its warnings - a damaged checkpoint passed over, storage
that had to be waited for - go to `warnings.log` in its folder and, with its next report, to the search's display.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE = "warnings.log"
MOST = 100
"""Warnings kept until the next report."""


class Warnings(logging.Handler):
    """Keeps the warnings of mwray's logger until somebody takes them."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.WARNING)
        self.path = path
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, and add it to the file if that can be written."""
        text = record.getMessage()
        self._kept = [*self._kept, text][-MOST:]
        with suppress(OSError), self.path.open("a") as file:
            file.write(f"{time.strftime('%F %T')} {text}\n")

    def take(self) -> list[str]:
        """What came since the last call."""
        kept, self._kept = self._kept, []
        return kept


@contextmanager
def kept(folder: Path) -> Iterator[Warnings]:
    """Keep mwray's warnings for the length of a `with`."""
    handler = Warnings(folder / FILE)
    logger = logging.getLogger("mwray")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
