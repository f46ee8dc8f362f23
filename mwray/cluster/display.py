"""What a user sees of a search: a live table on a terminal, one line for each change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mwray.cluster.board import Board
from mwray.cluster.failure import FAILURE
from mwray.cluster.heartbeat import hours
from mwray.cluster.leaderboard import Row, SearchResult, who
from mwray.cluster.names import clock, heading, percent, plain
from mwray.cluster.points import SEED, spread_text
from mwray.train.checkpoint import files as checkpoints

COLORS = {"running": "cyan", "finished": "green", "pruned": "yellow", "failed": "red", "waiting": "dim"}
ORDER_LIVE = {"running": 0, "failed": 1, "waiting": 2, "finished": 3, "pruned": 4}
"""Which rows stay in sight where there are more than lines."""
REFRESH = 4  # a second
ROOMY = 100
"""Columns from which on a table has lines and wider gaps."""


class Display(Protocol):
    """Told of every change of a search."""

    def begin(self, rows: Sequence[Row], target: int, names: Sequence[str]) -> None:
        """The search starts, or goes on, with `rows` out of `target` trainings, BaseModel among both."""

    def changed(self, row: Row) -> None:
        """A trial's state or numbers changed."""

    def note(self, text: str) -> None:
        """Something that is no trial's."""

    def close(self) -> None:
        """Give the terminal back. Called always, also after an error."""


class Silent:
    """Shows nothing."""

    def begin(self, rows: Sequence[Row], target: int, names: Sequence[str]) -> None:
        """Do nothing."""

    def changed(self, row: Row) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Plain:
    """Lines, for a pipe, a log file or a notebook."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.board = Board([], 0)
        self.names: Sequence[str] = ()

    def begin(self, rows: Sequence[Row], target: int, names: Sequence[str]) -> None:
        """Say how far the search is already."""
        self.board, self.names = Board(rows, target), names
        before = f", {self.board.ended} of them done before" if self.board.ended else ""
        self.note(f"{target} trainings{before}")

    def changed(self, row: Row) -> None:
        """Print a line when the state changed."""
        if self.board.put(row) == row.state or row.state == "waiting" and row.epoch == 0:
            return
        self.note(f"{self._place()} {who(row)} {row.state}: {self._what(row)}")

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Do nothing."""

    def _place(self) -> str:
        left = self.board.left()
        return f"[{self.board.ended}/{self.board.target}{f', {clock(left)} left' if left is not None else ''}]"

    def _what(self, row: Row) -> str:
        fields = ", ".join(
            f"{heading(name)} {plain(row.values[name])}" for name in self.names if row.values.get(name) is not None
        )
        if row.state == "failed":
            return row.reason or "for a reason unknown"
        if row.state == "running":
            return f"{fields}{f', goes on after epoch {row.epoch}' if row.epoch else ''}"
        return f"validation {percent(row.validation)} after epoch {row.epoch}, {row.seconds:.0f} s ({fields})"


class LiveTable:
    """A table that is drawn anew a few times a second, for a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.board = Board([], 0)
        self.names: Sequence[str] = ()
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=REFRESH, transient=True)

    def begin(self, rows: Sequence[Row], target: int, names: Sequence[str]) -> None:
        """Open the table."""
        self.board, self.names = Board(rows, target), names
        self.live.start()

    def changed(self, row: Row) -> None:
        """Take the row in; the next drawing shows it."""
        before = self.board.put(row)
        if row.state == "failed" and before != "failed":
            self.note(f"{who(row)} failed: {row.reason}")

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the table away: the leaderboard follows."""
        self.live.stop()

    def render(self) -> Group:
        """The table and the bar under it."""
        table = _table(self.console, ("trial", "state", *map(heading, self.names), "epoch", "validation", "time"))
        rows = sorted(self.board.rows.values(), key=lambda row: (ORDER_LIVE[row.state], row.number or 0))
        room = max(4, self.console.height - 6)
        for row in sorted(rows[:room], key=lambda row: -1 if row.number is None else row.number):
            table.add_row(*self._cells(row), style=COLORS[row.state])
        left = self.board.left()
        ahead = f", about {clock(left)} left" if left is not None else ""
        hidden = f", {len(rows) - room} rows not shown" if len(rows) > room else ""
        words = f"{self.board.ended} of {self.board.target} trainings, {clock(self.board.elapsed())}{ahead}{hidden}"
        bar = ProgressBar(total=1.0, completed=self.board.share(), width=40)
        return Group(table, bar, Text(words))

    def _cells(self, row: Row) -> list[str]:
        seconds = row.seconds if row.state != "running" else time.monotonic() - self.board.since[row.key]
        return [
            row.label,
            row.state,
            *(plain(row.values.get(name)) for name in self.names),
            f"{row.epoch}/{row.experiment.epochs}",
            percent(row.validation),
            clock(seconds),
        ]


def make(console: Console, shown: bool) -> Display:
    """The display that fits where the output goes."""
    if not shown:
        return Silent()
    return LiveTable(console) if console.is_interactive and not console.is_jupyter else Plain(console)


def report(result: SearchResult, console: Console) -> None:
    """The end of a search: the leaderboard, where things are, and how to look at them."""
    console.print("Leaderboard, by clean validation accuracy; the test set ranks nothing", highlight=False)
    rows = [*result.rows, *result.bases]
    names = ["trial", *map(heading, result.names), "validation", "test, last epoch", "seconds"]
    states = any(row.state != "finished" for row in rows)
    table = _table(console, [*names, "state"] if states else names)
    for row in rows:
        if row is result.base:
            table.add_section()
        table.add_row(*_line(row, result.names), *([row.state] if states else []))
    console.print(table)
    if result.points:
        console.print("Over the seeds: mean +- standard deviation, best mean first", highlight=False)
        console.print(_points(result, console))
    for text in closing(result):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _points(result: SearchResult, console: Console) -> Table:
    names = [name for name in result.names if name != SEED]
    table = _table(console, ["trial", *map(heading, names), "seeds", "validation", "test, last epoch"])
    for point in (*result.points, *([result.base_point] if result.base_point else [])):
        if point is result.base_point:
            table.add_section()
        accuracies = [spread_text(point.of(name)) for name in ("validation", "test")]
        table.add_row(point.label, *(plain(point.values[name]) for name in names), str(point.n), *accuracies)
    return table


def _table(console: Console, headings: Sequence[str]) -> Table:
    """An empty table; on a terminal of 80 columns the usual fields just fit when nothing is spent on lines."""
    wide = console.width >= ROOMY
    table = Table(box=box.SIMPLE_HEAD if wide else None, pad_edge=False, collapse_padding=not wide)
    for text in headings:
        left = text in ("trial", "state")
        table.add_column(text.replace(" ", "\n"), justify="left" if left else "right", no_wrap=True, vertical="bottom")
    return table


def _line(row: Row, names: Sequence[str]) -> list[str]:
    fields = [plain(row.values.get(name)) for name in names]
    return [row.label, *fields, percent(row.validation), percent(row.test), f"{row.seconds:.0f}"]


def closing(result: SearchResult) -> list[str]:
    """What failed, what the best trial left where, and what all of it took: the last lines of a search."""
    lines = []
    failed = [row for row in result.rows if row.state == "failed"]
    lines += [f"{who(row)} failed: {row.reason}{_traceback(row)}" for row in failed]
    left = sum(row.state == "waiting" for row in result.rows)
    if left and not result.interrupted:
        lines.append(f"Not trained to the end: {left} (search.log says why). The same command goes on with them")
    if result.best is not None:
        folder = result.best.folder
        lines.append(f"Best: trial {result.best.label}, in {folder}")
        lines += [f"  picture:    {folder / name}" for name in ("weights.png",) if (folder / name).exists()]
        lines += [f"  checkpoint: {path}" for path in checkpoints(folder)[:1]]
        lines.append(f"  settings:   {result.folder / 'best.json'} (`launch/train.py --from` it trains the same again)")
    if (result.folder / "summary.md").exists():
        pictures = result.folder / "pictures"  # not of very few trials
        drawn = f", drawn in {pictures}" if pictures.exists() else ""
        lines.append(f"What mattered: {result.folder / 'summary.md'}{drawn}")
    if result.spend:
        lines.append(f"Spent: {hours(result.spend)}")
    command = f"{sys.executable} -m tensorboard.main --logdir {result.folder / 'trials'} --host 127.0.0.1"
    lines += ["All trials side by side, in TensorBoard:", f"  {command}"]
    return lines


def _traceback(row: Row) -> str:
    """Where the whole of it is; a trial whose process died could not write one."""
    path = row.folder / FAILURE
    return f" (traceback: {path})" if path.exists() else ""
