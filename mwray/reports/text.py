"""Tables as text: Markdown, CSV and lines for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from mwray.reports.comparison import markdown
from mwray.reports.published import Value
from mwray.reports.significance import Paired
from mwray.reports.tables import Ours, Table, TableCell

MISSING = "missing"
"""In place of a cell without a finished run, wherever there is room for the word."""
PLUS_MINUS = "\u00b1"
MINUS = "\u2212"

CSV_COLUMNS = (
    *("table", "preset", "measure", "row", "dataset", "bias"),
    *("n", "mean", "sd", "place", "paper_mean", "paper_sd", "difference", "within_paper_sd", "seeds"),
)


def ours_text(ours: Ours | None) -> str:
    """Return "95.00 (+-) 0.77 (5)": mean, spread, number of seeds; "-" where nothing is finished."""
    if ours is None:
        return "-"
    spread = "" if ours.spread is None else f" {PLUS_MINUS} {ours.spread:.2f}"
    return f"{ours.mean:.2f}{spread} ({ours.n})"


def paper_text(value: Value | None) -> str:
    """Return "89.27 (+-) 0.28" as the paper prints it; "" where it prints nothing."""
    if value is None:
        return ""
    return f"{value.mean:.2f}" + ("" if value.spread is None else f" {PLUS_MINUS} {value.spread:.2f}")


def difference_text(cell: TableCell) -> str:
    """Ours minus the paper's in points, with "within" or "outside" the paper's spread where it prints one."""
    if cell.difference is None:
        return ""
    sign = "+" if cell.difference >= 0 else MINUS
    where = "" if cell.within is None else ", within" if cell.within else ", outside"
    return f"{sign}{abs(cell.difference):.2f}{where}"


def lines(table: Table) -> list[list[str]]:
    """Header and rows with our numbers alone, for a terminal; "*" after the best of a column."""
    body = [
        [
            row,
            *(ours_text((cell := table.cells[row, column]).ours) + "*" * (cell.place == 1) for column in table.columns),
        ]
        for row in table.rows
    ]
    return [["method", *map(str, table.columns)], *body]


def to_markdown(table: Table) -> str:
    """The table as GitHub shows it: best bold, second best in italics, the paper's number and the difference below."""
    body = [[row, *(_markdown_cell(table.cells[row, column]) for column in table.columns)] for row in table.rows]
    text = markdown([["method", *map(str, table.columns)], *body])
    legend = "Best bold, second best in italics."
    if table.has_paper:
        legend += " Below ours: the paper's number, and ours minus it (within or outside the paper's spread)."
    parts = [f"### {table.heading}", f"{table.caption} {legend}", table.note, text.rstrip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(table: Table) -> str:
    """One line per cell, numbers unrounded: for whoever computes on."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for column in table.columns:
            cell = table.cells[row, column]
            name = [table.name, table.preset, table.measure, row, column.dataset, column.bias]
            writer.writerow(name + [_plain(value) for value in _numbers(cell)])
    return out.getvalue()


def significance_markdown(pairs: Sequence[Paired]) -> str:
    """The paired tests as a table, with their names above it."""
    if not pairs:
        return ""
    head = [
        "column",
        "method",
        "against",
        "n",
        "difference, points",
        "95 % interval",
        "p, t-test",
        "adjusted",
        "p, Wilcoxon",
    ]
    body = [
        [
            str(pair.column),
            pair.row,
            pair.against,
            str(pair.n),
            f"{pair.difference:+.2f}",
            f"{pair.interval[0]:+.2f} to {pair.interval[1]:+.2f}",
            f"{pair.t_p:.3g}",
            f"{pair.adjusted_p:.3g}",
            f"{pair.wilcoxon_p:.3g}",
        ]
        for pair in pairs
    ]
    return f"{SIGNIFICANCE}\n\n{markdown([head, *body])}"


def significance_csv(pairs: Sequence[Paired]) -> str:
    """The paired tests, numbers unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("dataset", "bias", "row", "against", "n", "difference", "low", "high")
    writer.writerow((*head, "p_t_test", "p_t_test_adjusted", "p_wilcoxon"))
    for pair in pairs:
        numbers = (pair.difference, *pair.interval, pair.t_p, pair.adjusted_p, pair.wilcoxon_p)
        name = (pair.column.dataset, pair.column.bias, pair.row, pair.against, pair.n)
        writer.writerow((*name, *(f"{number:.6g}" for number in numbers)))
    return out.getvalue()


SIGNIFICANCE = (
    "Paired over seeds, two-sided: paired t-test (adjusted by Benjamini and Hochberg over this table's pairs) and "
    "Wilcoxon signed-rank test, which cannot fall below 2^(1 - n) for n seeds."
)


def _markdown_cell(cell: TableCell) -> str:
    marks = {1: "**", 2: "*"}.get(cell.place or 0, "")
    parts = [f"{marks}{ours_text(cell.ours)}{marks}" if cell.ours else MISSING]
    if cell.paper is not None:
        parts.append(f"paper {paper_text(cell.paper)}")
    if cell.difference is not None:
        parts.append(difference_text(cell))
    return "<br>".join(parts)


def _numbers(cell: TableCell) -> list[object]:
    ours, paper = cell.ours, cell.paper
    seeds = "" if ours is None else " ".join(f"{seed}:{value:.4f}" for seed, value in sorted(ours.by_seed.items()))
    return [
        ours.n if ours else 0,
        ours.mean if ours else None,
        ours.spread if ours else None,
        cell.place,
        paper.mean if paper else None,
        paper.spread if paper else None,
        cell.difference,
        cell.within,
        seeds,
    ]


def _plain(value: object) -> object:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value
