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
    legend = " Mean, spread and number of seeds; best bold, second best underlined; --: no finished run."
    if table.has_paper:
        legend += " Below: the paper's number, and ours minus it (*: within the paper's spread)."
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
    spread = "" if cell.ours.spread is None else rf" $\pm$ {cell.ours.spread:.2f}"
    return f"{mean}{spread} ({cell.ours.n})"


def _paper(cell: TableCell) -> str:
    if cell.paper is None:
        return ""
    spread = "" if cell.paper.spread is None else rf" $\pm$ {cell.paper.spread:.2f}"
    gap = "" if cell.difference is None else f" (${cell.difference:+.2f}${'*' * bool(cell.within)})"
    return rf"\scriptsize {cell.paper.mean:.2f}{spread}{gap}"
