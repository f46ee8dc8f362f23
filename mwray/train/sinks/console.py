"""A terminal or a notebook: a progress bar over the whole run and one line per epoch; to a pipe, the lines alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mwray.train.sinks.base import RunInfo
from mwray.train.sinks.notebook import NotebookBar

REFRESH = 0.2
"""Seconds between two updates of the bar: a step in between costs one look at the clock."""

COLUMNS = {
    "lr": ("lr", "{:.3g}"),
    "train.loss": ("loss", "{:.3f}"),
    "train.meta_loss": ("meta", "{:.3f}"),
    "train.accuracy_observed": ("observed", "{:.1%}"),
    "train.accuracy_true": ("true", "{:.1%}"),
    "validation.accuracy": ("validation", "{:.1%}"),
    "test.accuracy": ("test", "{:.1%}"),
    "train.weight_clean": ("w clean", "{:.3g}"),
    "train.weight_noisy": ("w noisy", "{:.3g}"),
    "train.weight_auc": ("w AUC", "{:.3f}"),
    "images_per_second": ("img/s", "{:,.0f}"),
    "seconds": ("s", "{:.1f}"),
}
"""Numbers in an epoch's line: heading (losses are training and meta loss; observed and true are training accuracy)."""

SPEEDS = {"image": "img/s", "vector": "vec/s"}
"""Heading of "images_per_second" by what the run trains on."""

WIDE = {"lr": 8}
"""Characters of a column whose numbers may take more than six, as a cosine's rates do: 0.000985."""

SPARED = ("seconds", "images_per_second", "lr", "train.weight_auc")
"""Left out in this order where a terminal is too narrow for a line; all are in the records."""

LAST = 5
"""Epochs that "test.last5" is the mean of: a shorter run has none such."""

SUMMARY = {
    "test.last": "test accuracy, last epoch",
    "test.last5": "test accuracy, mean of the last five epochs",
    "test.at_best_validation": "test accuracy at the best validation epoch",
    "test.best": "test accuracy, best epoch (oracle)",
    "validation.last": "validation accuracy, last epoch",
    "validation.best": "validation accuracy, best epoch",
}


class ConsoleSink:
    """Prints to a terminal, a notebook, or plain lines to a pipe."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.progress: Progress | NotebookBar | None = None

    def start(self, run: RunInfo) -> None:
        """Say what runs and where; open the bar."""
        self.run = run
        self.steps = run.first_epoch * run.steps_per_epoch
        self.names: list[str] = []
        self.shown = time.monotonic()
        goes_on = f", goes on after epoch {run.first_epoch}" if run.first_epoch else ""
        length = f"{counted(run.epochs, 'epoch')} of {counted(run.steps_per_epoch, 'step')}"
        self._print(f"{run.name}: {length}{goes_on}, in {run.folder}")
        if self.console.is_jupyter:
            total = self.run.epochs * self.run.steps_per_epoch
            self.progress = NotebookBar(total, self.steps, self.run.experiment.get("batch_size"), run.noun)
        elif self.console.is_interactive:
            self._open_bar()

    def step(self, epoch: int, step: int) -> None:
        """Move the bar, a few times a second."""
        self.steps += 1
        if self.progress is not None and time.monotonic() - self.shown > REFRESH:
            self._move_bar(epoch)

    def write(self, epoch: int, values: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> None:
        """Print the line of an epoch, under a heading the first time."""
        if not self.names:
            self.names = [name for name in COLUMNS if name in values]
            for name in SPARED:
                if self.console.is_terminal and self._line_width() > self.console.width and name in self.names:
                    self.names.remove(name)
            self._print("  ".join(["epoch".rjust(self._epoch_width), *(self._cell(name, None) for name in self.names)]))
        number = f"{epoch}/{self.run.epochs}".rjust(self._epoch_width)
        self._print("  ".join([number, *(self._cell(name, values.get(name, np.nan)) for name in self.names)]))
        self.steps = epoch * self.run.steps_per_epoch
        if self.progress is not None:
            self._move_bar(epoch - 1)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the bar and print what the run came to."""
        self.close()
        epochs = summary.get("epochs", self.run.epochs)
        self._print(f"finished {counted(epochs, 'epoch')} in {summary.get('seconds', 0.0):.0f} s")
        for name, label in SUMMARY.items():
            if name in summary and (name != "test.last5" or epochs >= LAST):
                self._print(f"  {label:<44} {summary[name]:.2%}")

    def close(self) -> None:
        """Give the terminal back."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    @property
    def _epoch_width(self) -> int:
        return max(len("epoch"), 2 * len(str(self.run.epochs)) + 1)

    def _line_width(self) -> int:
        return self._epoch_width + sum(2 + len(self._cell(name, None)) for name in self.names)

    def _cell(self, name: str, value: float | None) -> str:
        """A number (NaN: a dash), or the heading for None, as wide as both need."""
        heading, form = COLUMNS[name]
        heading = SPEEDS[self.run.noun] if name == "images_per_second" else heading
        text = heading if value is None else "-" if np.isnan(value) else form.format(value)
        return text.rjust(max(len(heading), WIDE.get(name, 6)))

    def _print(self, line: str) -> None:
        if self.console.is_jupyter:  # rich would make a block of its own of each line
            print(line)
            return
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _open_bar(self) -> None:
        self.progress = bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            SamplesPerSecond(self.run.experiment.get("batch_size"), self.run.noun),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            refresh_per_second=4,
        )
        total = self.run.epochs * self.run.steps_per_epoch
        self.task = bar.add_task("", total=total, completed=self.steps)
        self._move_bar(self.run.first_epoch)
        bar.start()

    def _move_bar(self, epoch: int) -> None:
        assert self.progress is not None
        self.shown = time.monotonic()
        label = f"epoch {epoch + 1}/{self.run.epochs}"
        if isinstance(self.progress, NotebookBar):
            self.progress.update(self.steps, label)
        else:
            self.progress.update(self.task, completed=self.steps, description=label)


def counted(number: int, noun: str) -> str:
    """Return "1 epoch", "2 epochs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class SamplesPerSecond(ProgressColumn):
    """The present speed, evaluation included: samples per second where the batch size is known, else steps."""

    def __init__(self, batch_size: int | None, noun: str) -> None:
        super().__init__()
        self.batch_size, self.noun = batch_size, noun

    def render(self, task: Task) -> Text:
        """Return "1,234 images/s"."""
        speed = task.speed
        if speed is None:
            return Text("")
        return Text(f"{speed * (self.batch_size or 1):,.0f} {self.noun if self.batch_size else 'step'}s/s")
