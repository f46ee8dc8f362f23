"""A progress bar in a notebook that needs no widgets: a line of HTML, put anew in its place."""

from __future__ import annotations

import importlib
import time
from typing import Any


class NotebookBar:
    """Steps of a run, with their speed and the time that is left."""

    def __init__(self, total: int, done: int, batch_size: int | None = None, noun: str = "image") -> None:
        """Show it below what the cell has said so far; `done` steps were taken before, of `batch_size` `noun`s each."""
        self._shown: Any = importlib.import_module("IPython.display")  # in a notebook it is there
        self.total, self.first, self.began = total, done, time.monotonic()
        self._batch_size, self._noun = batch_size, noun
        self._handle = self._shown.display(self._shown.HTML(""), display_id=True)

    def update(self, done: int, label: str) -> None:
        """Move it to `done` steps."""
        seconds = time.monotonic() - self.began
        speed = (done - self.first) / seconds if seconds else 0.0
        words = [label]
        if speed:
            words.append(f"{speed * (self._batch_size or 1):,.0f} {self._noun if self._batch_size else 'step'}s/s")
            words.append(f"{_clock((self.total - done) / speed)} left")
        bar = f"<progress value='{done}' max='{self.total}' style='width:20em;vertical-align:middle'></progress>"
        self._handle.update(self._shown.HTML(f"{bar} {', '.join(words)}"))

    def stop(self) -> None:
        """Take it away."""
        self._handle.update(self._shown.HTML(""))


def _clock(seconds: float) -> str:
    """Return "0:07", "12:30", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
