"""search.log in a search's folder: a line, with its time, for every change; and the display that shows both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from mwray.cluster.board import Board
from mwray.cluster.display import Display, Plain
from mwray.cluster.leaderboard import Row

FILE = "search.log"


class LogFile(Plain):
    """The lines of a pipe, appended to a file; a line that storage refuses is left out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Console(quiet=True))
        self._path = folder / FILE

    def note(self, text: str) -> None:
        """Append a line."""
        with suppress(OSError), self._path.open("a") as file:
            file.write(f"{time.strftime('%F %T')} {text}\n")


class Logged:
    """A screen, with a log file beside it."""

    def __init__(self, screen: Display, log: LogFile) -> None:
        self._both: tuple[Display, ...] = (screen, log)
        self._log = log

    @property
    def board(self) -> Board:
        """How far the search is."""
        return self._log.board

    def begin(self, rows: Sequence[Row], target: int, names: Sequence[str]) -> None:
        """Begin both."""
        for display in self._both:
            display.begin(rows, target, names)

    def changed(self, row: Row) -> None:
        """Tell both."""
        for display in self._both:
            display.changed(row)

    def note(self, text: str) -> None:
        """Tell both."""
        for display in self._both:
            display.note(text)

    def record(self, text: str) -> None:
        """A line for the file alone."""
        self._log.note(text)

    def close(self) -> None:
        """Close both."""
        for display in self._both:
            display.close()
