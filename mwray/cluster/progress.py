"""Progress of many trainings: a bar with an ETA on a terminal, and one line for each that ends everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from mwray.cluster.sweep import Outcome

QUIET = 60.0
"""Seconds without a word after which, where there is no terminal, a line says how far all is."""


class Outlook(Protocol):
    """What is left to do of a whole, of which a sweep may be a part."""

    total: int

    @property
    def done(self) -> int:
        """Trainings that are finished."""

    def finished(self, folder: Path) -> None:
        """A training has ended, well or not."""

    def left(self) -> float | None:
        """Work that is left, in any unit (seconds where there is one to go by), or None where it is not known."""

    def worked(self) -> float | None:
        """Work that was done since this outlook began, in the same unit and by the same knowledge as `left`."""


class Counted:
    """Every training is taken to be as much work as any other."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.before = total, done, done

    def finished(self, folder: Path) -> None:
        """One less."""
        self.done += 1

    def worked(self) -> float:
        """How many since the start."""
        return float(self.done - self.before)

    def left(self) -> float:
        """How many."""
        return float(self.total - self.done)


class Pace:
    """From work that is left to time that is left, by the speed seen since the start."""

    def __init__(self, seconds: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; `seconds` says that work is measured in the seconds that one training alone would take for it."""
        self.seconds, self.clock = seconds, clock
        self.began, self.ended = clock(), 0

    def eta(self, left: float | None, worked: float | None, flying: int) -> float | None:
        """Seconds until all is done, with so many trainings in flight."""
        if left is None:
            return None
        # The first to end come one for each in flight, after the same time: before that, a pace would be a guess.
        if worked and self.ended >= max(flying, 1):
            return left * (self.clock() - self.began) / worked
        return left / max(flying, 1) if self.seconds else None


@contextmanager
def shown(console: Console, outlook: Outlook) -> Iterator[Callable[[Outcome | None, int], None]]:
    """Show progress within a `with`; gives the function to call with each outcome, or with None now and then."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
        console=console,
        disable=not console.is_terminal,
    )
    pace = Pace(seconds=not isinstance(outlook, Counted))
    if outlook.done:
        console.print(f"{outlook.done} of {outlook.total} trainings are finished already")
    with bar:
        task = bar.add_task("trainings", total=outlook.total, completed=outlook.done, eta="")
        spoken = time.monotonic()

        def show(outcome: Outcome | None, flying: int) -> None:
            nonlocal spoken
            if outcome is not None:
                pace.ended += 1
                outlook.finished(outcome.job.folder)
            eta = eta_text(pace.eta(outlook.left(), outlook.worked(), flying))
            bar.update(task, completed=outlook.done, eta=eta)
            if outcome is not None:
                console.print(_line(outcome, outlook, eta), soft_wrap=True)
            elif console.is_terminal or time.monotonic() - spoken < QUIET:
                return
            else:
                console.print(f"{outlook.done}/{outlook.total} finished, {flying} in training ({eta})")
            spoken = time.monotonic()

        yield show


def eta_text(seconds: float | None) -> str:
    """Return "ETA 2.5 h", "ETA 12 min" or "ETA 40 s"; "ETA unknown" for None."""
    if seconds is None:
        return "ETA unknown"
    if seconds >= 5400:
        return f"ETA {seconds / 3600:.1f} h"
    return f"ETA {seconds / 60:.0f} min" if seconds >= 90 else f"ETA {seconds:.0f} s"


def _line(outcome: Outcome, outlook: Outlook, eta: str) -> str:
    if outcome.error:
        return f"[red]failed[/red] {outcome.job.name}: {outcome.error}"
    summary = outcome.summary or {}
    what = next((name for name in ("test", "validation") if f"{name}.last" in summary), None)
    reached = "finished" if what is None else f"{100 * summary[f'{what}.last']:.2f} % {what}, last epoch"
    return f"{outlook.done}/{outlook.total} {outcome.job.name}: {reached} ({eta})"
