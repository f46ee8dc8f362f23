"""A table as a picture: methods down the side, a panel for each column, ours filled and the paper's hollow."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mwray.reports.draw import BLUE, GREY, ORANGE, styled
from mwray.reports.published import Column
from mwray.reports.tables import Table

ACROSS = 6
"""Panels side by side, as a page is wide."""


@styled
def dots(table: Table) -> Figure:
    """Mean and spread of every cell; columns without a finished run are left out.

    Raises:
        ValueError: no cell has a finished run.
    """
    columns = [c for c in table.columns if any(table.cells[row, c].ours for row in table.rows)]
    if not columns:
        raise ValueError("no cell of this table has a finished run")
    down = -(-len(columns) // ACROSS)
    across = min(len(columns), ACROSS)
    height = 0.19 * len(table.rows) + 0.65
    figure = Figure(figsize=(2.0 + 1.35 * across, height * down + 0.3), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for number, axis in enumerate(grid.flat):
        if number >= len(columns):
            axis.set_visible(False)
            continue
        column = columns[number]
        _panel(axis, table, column)
        axis.set_title(f"{column.dataset}\n{column.bias}", loc="left", fontsize=7.5)
    for axis in grid[:, 0]:
        axis.set_yticks(range(len(table.rows)), table.rows, fontsize=7)
        axis.set_ylim(len(table.rows) - 0.5, -0.5)
    figure.supxlabel("test accuracy (%)" if table.measure.startswith("test") else "validation accuracy (%)", fontsize=8)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=7)
    return figure


def _panel(axis: Axes, table: Table, column: Column) -> None:
    cells = [table.cells[row, column] for row in table.rows]
    papers = [(y, cell.paper) for y, cell in enumerate(cells) if cell.paper]
    ours = [(y, cell.ours, cell.place) for y, cell in enumerate(cells) if cell.ours]
    for y, value, place in ours:
        colour = BLUE if place == 1 else GREY
        axis.errorbar(value.mean, y, xerr=value.spread or 0.0, fmt="o", markersize=3.5, elinewidth=1, color=colour)
    axis.plot([], [], "o", markersize=3.5, color=GREY, label="ours (blue: best)")
    if table.has_paper:
        places, values = [y for y, _ in papers], [value.mean for _, value in papers]
        axis.plot(values, places, "D", markersize=3.5, fillstyle="none", color=ORANGE, label="paper")
    axis.xaxis.set_major_locator(MaxNLocator(3))
    axis.tick_params(axis="x", labelsize=7)
