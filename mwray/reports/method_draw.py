"""What a method reports of itself, over epochs: one small panel for each number, by the numbers' names alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mwray.reports.draw import BLUE, GREY, VERMILION, styled
from mwray.reports.picture_data import Floats

PREFIX = "method."
IN_ROW = 3
SHARES = ("share", "precision", "same_picks", "disagreement", "mentor_accuracy", "alpha", "percentile")
"""Beginnings of names whose numbers are shares: their axis runs from 0 to 100 %."""
HIDDEN = ("phase", "lr")
"""Shown as lines across all panels, or in another picture."""


def reported(columns: Mapping[str, Floats]) -> dict[str, Floats]:
    """The numbers that get a panel, by their names without "method."."""
    found = {name.removeprefix(PREFIX): values for name, values in columns.items() if name.startswith(PREFIX)}
    return {name: values for name, values in found.items() if name not in HIDDEN and not name.endswith("_epoch")}


def events(columns: Mapping[str, Floats]) -> dict[str, float]:
    """Epochs at which something happened, by what it was.

    A number whose name ends in "_epoch" names an epoch itself, 0 while it has not come; where "phase" rises, the phase
    began in that epoch.
    """
    epochs, found = columns["epoch"], {}
    for name, values in columns.items():
        if name.startswith(PREFIX) and name.endswith("_epoch") and np.nanmax(values) > 0:
            found[name.removeprefix(PREFIX).removesuffix("_epoch").replace("_", " ")] = float(np.nanmax(values))
    phases = columns.get(PREFIX + "phase")
    if phases is not None:
        for i in np.flatnonzero(np.diff(phases) > 0) + 1:
            found[f"phase {phases[i]:.0f} begins"] = float(epochs[i])
    return found


@styled
def method(columns: Mapping[str, Floats]) -> Figure:
    """Small panels, three in a row, of the "method." numbers over epochs, with what happened as vertical lines.

    Args:
        columns: one array [E] per name of a record ("epoch" among them), NaN where nothing was measured.

    Raises:
        ValueError: there is no such number.
    """
    numbers = reported(columns)
    if not numbers:
        raise ValueError("there is no number of the method's own to draw")
    wide = min(len(numbers), IN_ROW)
    rows = -(-len(numbers) // IN_ROW)
    figure = Figure(figsize=(0.4 + 2.4 * max(wide, 1.6), 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, wide, squeeze=False).flatten()
    for axes, (name, values) in zip(panels, numbers.items(), strict=False):
        _panel(axes, name, columns["epoch"], values)
        for place in events(columns).values():
            axes.axvline(place, color=VERMILION, linewidth=1.0, linestyle=(0, (4, 2)))
    for axes in panels[len(numbers) :]:
        axes.set_visible(False)
    if happened := events(columns):
        text = "; ".join(f"{what}: epoch {place:.0f}" for what, place in happened.items())
        figure.suptitle(f"dashed: {text}", fontsize=8, color=GREY)
    return figure


def _panel(axes: Axes, name: str, epochs: Floats, values: Floats) -> None:
    few = np.isfinite(values).sum() < 3
    axes.plot(epochs, values, color=BLUE, marker="." if few else None)
    axes.set_title(name.replace("_", " "), loc="left")
    axes.set_xlabel("epoch")
    axes.set_xlim(float(epochs[0]) - 0.5, float(epochs[-1]) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if name.startswith(SHARES):
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
