"""Methods beside one another over several seeds, from records alone: mean, spread, number of runs, cost."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mwray.records import Run

BASELINE = "base"


@dataclass(frozen=True)
class Cell:
    """What the finished runs of one method under one bias came to."""

    values: tuple[float, ...]  # one per seed
    seconds: tuple[float, ...]  # of training alone, summed over epochs

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation (n - 1), or None for a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """A table: methods in rows, biases in columns. `measure` is a key of the summaries, named in the caption."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    measure: str

    def cost(self, row: str) -> float | None:
        """Training time of a method over BaseModel's, median over the columns that hold both."""
        ratios = [
            statistics.median(cell.seconds) / statistics.median(base.seconds)
            for column in self.columns
            if (cell := self.cells.get((row, column))) and (base := self.cells.get((BASELINE, column)))
        ]
        return statistics.median(ratios) if ratios else None


def compare(runs: Iterable[tuple[str, str, Path]], measure: str = "test.last") -> Comparison:
    """Read the finished runs among (row, column, folder) triples; unfinished ones are missing, not zero."""
    values: dict[tuple[str, str], list[tuple[float, float]]] = {}
    rows: dict[str, None] = {}
    columns: dict[str, None] = {}
    for row, column, folder in runs:
        rows[row], columns[column] = None, None
        run = Run(folder)
        summary = run.summary()
        if summary is not None and measure in summary:
            seconds = sum(record["seconds"] for record in run.records())
            values.setdefault((row, column), []).append((summary[measure], seconds))
    cells = {
        key: Cell(tuple(value for value, _ in found), tuple(seconds for _, seconds in found))
        for key, found in values.items()
    }
    return Comparison(tuple(rows), tuple(columns), cells, measure)


def text_of(cell: Cell | None) -> str:
    """Return "95.00 +- 0.77 (5)": per cent, sample standard deviation, runs; "-" where nothing is finished."""
    if cell is None:
        return "-"
    spread = "" if cell.spread is None else f" +- {100 * cell.spread:.2f}"
    return f"{100 * cell.mean:.2f}{spread} ({len(cell.values)})"


def table(comparison: Comparison) -> list[list[str]]:
    """Header and rows as text; the cost column is training time over BaseModel's."""
    lines = [["method", *comparison.columns, "time / base"]]
    for row in comparison.rows:
        cost = comparison.cost(row)
        cells = [text_of(comparison.cells.get((row, column))) for column in comparison.columns]
        lines.append([row, *cells, "-" if cost is None else f"{cost:.2f}"])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The table as GitHub shows it."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body]) + "\n"


def csv_text(lines: Sequence[Sequence[str]]) -> str:
    """The table as comma-separated values."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
