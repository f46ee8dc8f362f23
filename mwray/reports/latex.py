"""Tables as LaTeX, for \\usepackage{booktabs,graphicx}: the paper's numbers in small type below ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mwray.reports.published import Column
from mwray.reports.tables import Table, TableCell

ESCAPES = {
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
}

MOST_COLUMNS = 6
"""Beside one another: more of them go below, or print would be too small to read."""
SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"
"""To the width of the text, where it is wider."""


def to_latex(table: Table) -> str:
    """A table environment; label "tab:<name>-<preset>"; best bold, second best underlined.

    What is wider than the text is shrunk to it (\\resizebox, of graphicx).
    """
    legend = " Mean, spread and number of seeds; best bold, second best underlined; --: no finished run."
    if table.has_paper:
        legend += " Below: the paper's number, and ours minus it (*: within the paper's spread)."
    caption = escape(f"{table.heading}. {table.caption}{legend} {table.note}".strip())
    starts = range(0, len(table.columns), MOST_COLUMNS)
    parts = [_tabular(table, table.columns[start : start + MOST_COLUMNS]) for start in starts]
    body = "\n\\par\\medskip\n".join(parts)
    return rf"""\begin{{table}}
\centering
\caption{{{caption}}}
\label{{tab:{table.name.replace(" ", "-")}-{table.preset}}}
{body}
\end{{table}}
"""


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(ESCAPES.get(letter, letter) for letter in text)


def _tabular(table: Table, columns: Sequence[Column]) -> str:
    groups = [(name, len(list(found))) for name, found in groupby(columns, lambda column: column.dataset)]
    heads = " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" for name, width in groups)
    biases = " & ".join(escape(column.bias) for column in columns)
    body = "\n".join(line for row in table.rows for line in _row(table, row, columns))
    return rf"""{SHRUNK}{{\begin{{tabular}}{{l{"c" * len(columns)}}}
\toprule
 & {heads} \\
method & {biases} \\
\midrule
{body}
\bottomrule
\end{{tabular}}}}"""


def _row(table: Table, row: str, columns: Sequence[Column]) -> list[str]:
    cells = [table.cells[row, column] for column in columns]
    found = [rf"{escape(row)} & {' & '.join(map(_ours, cells))} \\"]
    if any(cell.paper for cell in cells):
        found.append(rf"\quad\scriptsize paper & {' & '.join(map(_paper, cells))} \\")
    return found


def _ours(cell: TableCell) -> str:
    if cell.ours is None:
        return "--"
    mean = {1: rf"\textbf{{{cell.ours.mean:.2f}}}", 2: rf"\underline{{{cell.ours.mean:.2f}}}"}.get(
        cell.place or 0, f"{cell.ours.mean:.2f}"
    )
    spread = "" if cell.ours.spread is None else rf" $\pm$ {cell.ours.spread:.2f}"
    return f"{mean}{spread} ({cell.ours.n})"


def _paper(cell: TableCell) -> str:
    if cell.paper is None:
        return ""
    spread = "" if cell.paper.spread is None else rf" $\pm$ {cell.paper.spread:.2f}"
    gap = "" if cell.difference is None else f" (${cell.difference:+.2f}${'*' * bool(cell.within)})"
    return rf"\scriptsize {cell.paper.mean:.2f}{spread}{gap}"
