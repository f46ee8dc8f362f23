"""Tables as LaTeX, for \\usepackage{booktabs}: the paper's numbers in small type below ours."""

from __future__ import annotations

from itertools import groupby

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
}


def to_latex(table: Table) -> str:
    """A table environment; label "tab:<name>-<preset>"; best bold, second best underlined."""
    groups = [(name, len(list(columns))) for name, columns in groupby(table.columns, lambda column: column.dataset)]
    heads = " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" for name, width in groups)
    biases = " & ".join(escape(column.bias) for column in table.columns)
    body = "\n".join(line for row in table.rows for line in _row(table, row))
    legend = " Below ours: the paper's number." if table.has_paper else ""
    caption = escape(f"{table.heading}. {table.caption}{legend} {table.note}".strip())
    return rf"""\begin{{table}}
\centering
\caption{{{caption}}}
\label{{tab:{table.name.replace(" ", "-")}-{table.preset}}}
\begin{{tabular}}{{l{"c" * len(table.columns)}}}
\toprule
 & {heads} \\
method & {biases} \\
\midrule
{body}
\bottomrule
\end{{tabular}}
\end{{table}}
"""


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(ESCAPES.get(letter, letter) for letter in text)


def _row(table: Table, row: str) -> list[str]:
    cells = [table.cells[row, column] for column in table.columns]
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
    return mean if cell.ours.spread is None else rf"{mean} $\pm$ {cell.ours.spread:.2f}"


def _paper(cell: TableCell) -> str:
    if cell.paper is None:
        return ""
    spread = "" if cell.paper.spread is None else rf" $\pm$ {cell.paper.spread:.2f}"
    return rf"\scriptsize {cell.paper.mean:.2f}{spread}"
