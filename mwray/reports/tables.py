"""Tables from records: ours (mean, spread, number of seeds) beside the paper's, from one named measure.

Data only; `mwray.reports.text`, `latex` and `page` write them down.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mwray.errors import UserError
from mwray.reports.cells import Entry
from mwray.reports.published import TABLES, Column, PublishedTable, Value

MEASURES = {
    "test.last": "test accuracy at the last epoch",
    "test.last5": "mean test accuracy of the last five epochs",
    "test.at_best_validation": "test accuracy at the epoch of best validation accuracy",
    "test.best": "best test accuracy over epochs (an oracle: chosen on the test set)",
    "validation.last": "validation accuracy at the last epoch",
}
"""Keys of a run's summary that a table may show, in words: every caption names its rule."""

EQUAL = (
    "Rows share MW-Net's schedule, so that methods are compared on equal terms; a row that names another protocol "
    "follows that one and is held beside the same number of the paper."
)
"""Said of tables in which some rows have a schedule of their own."""

OWN_TITLES = {"figure 4": "two networks under flip noise"}
"""Of sets of runs that are no table of the paper."""


class ReportError(UserError, ValueError):
    """A report that cannot be made: names what was asked for and what would do."""


@dataclass(frozen=True)
class Ours:
    """What finished runs of one cell came to."""

    by_seed: Mapping[int, float]  # per cent

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        """Mean over seeds, per cent."""
        return statistics.fmean(self.by_seed.values())

    @property
    def spread(self) -> float | None:
        """Sample standard deviation (n - 1) over seeds, per cent; None for a single one."""
        return statistics.stdev(self.by_seed.values()) if self.n > 1 else None


@dataclass(frozen=True)
class TableCell:
    """Ours and the paper's, either of which may be missing."""

    ours: Ours | None
    paper: Value | None
    place: int | None = None
    """1: best of our column, 2: second best (by mean; equal means share a place)."""

    @property
    def difference(self) -> float | None:
        """Our mean minus the paper's, in points."""
        return self.ours.mean - self.paper.mean if self.ours and self.paper else None

    @property
    def within(self) -> bool | None:
        """Whether our mean lies within the paper's mean +- its spread; None where no spread is printed."""
        if self.difference is None or self.paper is None or self.paper.spread is None:
            return None
        return abs(self.difference) <= self.paper.spread


@dataclass(frozen=True)
class Table:
    """Methods in rows, data set and bias in columns; every (row, column) has a cell, if an empty one."""

    name: str
    title: str
    preset: str
    measure: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], TableCell]
    note: str = ""

    @property
    def heading(self) -> str:
        """Return "Table 3: ..." or the figure's name; a preset other than the paper's is named."""
        name = f"Table {self.name}" if self.name in TABLES else self.name
        size = "" if self.preset == "paper" else f" ({self.preset})"
        return f"{name}{size}: {self.title}" if self.title else f"{name}{size}"

    @property
    def caption(self) -> str:
        """What the numbers are and by which rule they were taken."""
        seeds = sorted({cell.ours.n for cell in self.cells.values() if cell.ours})
        counts = "no finished run has it" if not seeds else f"{seeds[0]} to {seeds[-1]} seeds a cell"
        if len(seeds) == 1:
            counts = f"{seeds[0]} seed{'s' if seeds[0] > 1 else ''} a cell"
        return (
            f"Preset {self.preset}. Per cent: {MEASURES[self.measure]}; mean and sample standard deviation over seeds "
            f"({counts}). Best and second best of a column are marked by our means."
        )

    @property
    def has_paper(self) -> bool:
        """Whether any cell has a number of the paper."""
        return any(cell.paper for cell in self.cells.values())

    @property
    def missing(self) -> list[tuple[str, Column]]:
        """Cells without a finished run."""
        return [(row, c) for row in self.rows for c in self.columns if self.cells[row, c].ours is None]


def tables(entries: Iterable[Entry], measure: str = "test.last", says: Mapping[str, str] | None = None) -> list[Table]:
    """One table for each (table, preset) among `entries`; unfinished runs are missing, not zero.

    Args:
        entries: runs and their places.
        measure: a key of MEASURES.
        says: what a reader has to know of a preset; "digits+epochs=20" is the preset "digits", changed.

    Raises:
        ReportError: `measure` is not one of MEASURES.
    """
    if measure not in MEASURES:
        raise ReportError(f"--measure {measure!r}: known are {', '.join(MEASURES)}")
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.cell.table, entry.cell.preset), []).append(entry)
    return [build(group, measure, says) for _, group in sorted(groups.items())]


def told(preset: str, says: Mapping[str, str]) -> str:
    """What `says` has on a preset, and what was changed of it: "digits+epochs=3" has not the epochs that it names."""
    name, *changed = preset.split("+")
    text = says.get(name, "")
    return f"{text} Changed here: {', '.join(changed)}." if text and changed else text


def build(entries: Sequence[Entry], measure: str, says: Mapping[str, str] | None = None) -> Table:
    """The table that `entries`, all of one table and preset, fill."""
    cell = entries[0].cell
    published = TABLES.get(cell.table)
    rows, columns = _rows(entries, published), _columns(entries, published)
    ours = _ours(entries, measure)
    beside = {entry.cell.row: entry.cell.beside or entry.cell.row for entry in entries}
    papers = published.cells if published else {}
    places = {
        column: _places({row: ours[row, column].mean for row in rows if (row, column) in ours}) for column in columns
    }
    cells = {
        (row, column): TableCell(
            ours.get((row, column)), papers.get((beside.get(row, row), column)), places[column].get(row)
        )
        for row in rows
        for column in columns
    }
    title = published.title if published else OWN_TITLES.get(cell.table, "")
    if published and cell.preset != "paper":
        title = f"after the paper's {title}"
    note = published.note if published and any(one.paper for one in cells.values()) else ""
    size = told(cell.preset, says or {})
    schedules = EQUAL if any(entry.cell.beside for entry in entries) else ""
    notes = " ".join(part for part in (size, note, schedules) if part)
    return Table(cell.table, title, cell.preset, measure, rows, columns, cells, notes)


def _rows(entries: Sequence[Entry], published: PublishedTable | None) -> tuple[str, ...]:
    """The paper's rows in its order, each followed by those of ours that are held beside it."""
    ours = dict.fromkeys((entry.cell.beside or entry.cell.row, entry.cell.row) for entry in entries)
    rows: dict[str, None] = {}
    for row in published.rows if published else ():
        rows[row] = None
        rows |= {mine: None for beside, mine in ours if beside == row}
    return tuple(rows | {mine: None for _, mine in ours})


def _columns(entries: Sequence[Entry], published: PublishedTable | None) -> tuple[Column, ...]:
    """The paper's columns if any run is on its data sets; else its biases, those that were run, on ours."""
    ours = dict.fromkeys(entry.cell.column for entry in entries)
    if published is None:
        return tuple(ours)
    columns: dict[Column, None] = {}
    if any(column in published.columns for column in ours):
        columns |= dict.fromkeys(published.columns)
    order = list(dict.fromkeys(column.bias for column in published.columns))
    others = [column for column in ours if column not in columns]
    return tuple(columns) + tuple(
        sorted(others, key=lambda c: (c.dataset, order.index(c.bias) if c.bias in order else len(order)))
    )


def _ours(entries: Sequence[Entry], measure: str) -> dict[tuple[str, Column], Ours]:
    values: dict[tuple[str, Column], dict[int, float]] = {}
    for entry in entries:
        summary = entry.run.summary()
        if summary is not None and measure in summary:
            values.setdefault((entry.cell.row, entry.cell.column), {})[entry.cell.seed] = 100 * float(summary[measure])
    return {key: Ours(by_seed) for key, by_seed in values.items()}


def _places(means: Mapping[str, float]) -> dict[str, int]:
    """Rows with the largest and the second largest mean."""
    best = sorted(set(means.values()), reverse=True)[:2]
    return {row: best.index(mean) + 1 for row, mean in means.items() if mean in best}
