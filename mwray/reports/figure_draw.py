"""Drawing of the paper's figures at paper size (7 in wide), in the style and colours of `mwray.reports.draw`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mwray.reports.draw import BLUE, EPOCHS, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, styled
from mwray.reports.figures import Band, Variation, focal_weight, self_paced_weight
from mwray.reports.picture_data import Curves, Floats, chosen_epochs
from mwray.reports.tables import Table

COLOURS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY)
ROWS = {"BaseModel": GREY, "L2RW": ORANGE, "MW-Net": BLUE, "BaseModel, long schedule": VERMILION}


def _grid(count: int, across: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, `across` in a row."""
    down = -(-count // across)
    figure = Figure(figsize=(7.0, height * down), layout="constrained")
    axes = list(np.ravel(figure.subplots(down, across, squeeze=False)))
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


@styled
def weight_functions(learned: Mapping[str, Curves]) -> Figure:
    """Figure 1: the fixed functions of focal loss and self-paced learning, then the learned ones, light to dark."""
    figure, axes = _grid(2 + len(learned), 3, 2.1)
    losses = np.linspace(0, 5, 400)
    for gamma, colour in ((0.5, ORANGE), (1.0, GREEN), (2.0, BLUE)):
        axes[0].plot(losses, focal_weight(losses, gamma), color=colour, label=rf"$\gamma$ = {gamma:g}")
    axes[0].set_title("focal loss", loc="left")
    for threshold, colour in ((1.0, ORANGE), (2.0, GREEN), (3.0, BLUE)):
        axes[1].plot(losses, self_paced_weight(losses, threshold), color=colour, label=rf"$\lambda$ = {threshold:g}")
    axes[1].set_title("self-paced", loc="left")
    for axis in axes[:2]:
        axis.legend(loc="best")
        axis.set(ylim=(0, 1.05))
    for axis, (name, curves) in zip(axes[2:], learned.items(), strict=True):
        _learned(axis, name, curves)
    for axis in axes:
        axis.set(xlabel="loss (nats)", ylabel="weight")
    return figure


def _learned(axis: Axes, name: str, curves: Curves) -> None:
    first, final = int(curves.epochs[0]), int(curves.epochs[-1])
    scale = Normalize(first, max(final, first + 1))
    for i in chosen_epochs(curves.epochs):
        axis.plot(curves.losses[i], curves.weights[i], color=EPOCHS(scale(curves.epochs[i])), linewidth=1.1)
    axis.set_title(f"MW-Net, {name}", loc="left", fontsize=8)
    axis.set(ylim=(0, None), xlim=(0, float(curves.losses[-1].max())))
    axis.text(0.98, 0.03, f"epochs {first} (light) to {final}", transform=axis.transAxes, ha="right", fontsize=7)


@styled
def confusions(shares: Mapping[str, Floats], classes: Sequence[str]) -> Figure:
    """Figures 3 and 8 to 10: a matrix per title; rows true, columns predicted."""
    figure, axes = _grid(len(shares), min(4, max(2, len(shares))), 2.3)
    image = None
    for axis, (title, share) in zip(axes, shares.items(), strict=True):
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        accuracy = float(np.nanmean(np.diag(share)))
        axis.grid(False)
        axis.set_title(f"{title}\nmean recall {accuracy:.1%}", loc="left", fontsize=7)
        axis.set(xlabel="predicted", ylabel="true")
        every = max(1, -(-len(classes) // 10))
        short = len(classes) <= 20 and max(map(len, classes), default=0) <= 2
        places = range(0, len(classes), every)
        labels = [classes[i] if short else str(i) for i in places]
        axis.set_xticks(places, labels, fontsize=6)
        axis.set_yticks(places, labels, fontsize=6)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.01, format=PercentFormatter(1, 0))
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
    return figure


@styled
def two_networks(table: Table) -> Figure:
    """Figure 4: every method's accuracy on both networks, one panel per data set and rate."""
    panels: dict[str, list[tuple[str, Floats, Floats]]] = {}
    rows = [row for row in table.rows if any(table.cells[row, column].ours for column in table.columns)]
    for column in table.columns:
        bias, network = column.bias.rstrip(")").split(" (")
        cells = [table.cells[row, column].ours for row in rows]
        mean = np.array([cell.mean if cell else np.nan for cell in cells])
        spread = np.array([(cell.spread or 0.0) if cell else 0.0 for cell in cells])
        panels.setdefault(f"{column.dataset}, {bias}", []).append((network, mean, spread))
    figure, axes = _grid(len(panels), 2, 3.0)
    for axis, (title, bars) in zip(axes, panels.items(), strict=True):
        width = 0.8 / len(bars)
        for number, (network, mean, spread) in enumerate(bars):
            places = np.arange(len(rows)) + (number - (len(bars) - 1) / 2) * width
            colour = (BLUE, ORANGE)[number % 2]
            axis.bar(places, mean, width, yerr=spread, label=network, color=colour, error_kw={"elinewidth": 0.8})
        low = min(float(np.nanmin(mean)) for _, mean, _ in bars if np.isfinite(mean).any())
        axis.set(ylabel="test accuracy (%)", ylim=(max(0.0, low - 10), None))
        axis.set_xticks(range(len(rows)), rows, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
        axis.set_title(title, loc="left")
        axis.legend(loc="lower left")
    return figure


@styled
def weight_variation(found: Mapping[str, Variation]) -> Figure:
    """Figure 6: change of weight between epochs of ten wrongly labelled samples."""
    figure = Figure(figsize=(5.0, 2.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / max(len(found), 1)
    for number, (row, each) in enumerate(found.items()):
        places = np.arange(len(each.mean)) + (number - (len(found) - 1) / 2) * width
        axis.errorbar(places, each.mean, each.spread, fmt="o", markersize=4, capsize=2, label=row, color=ROWS[row])
    size = max((len(each.mean) for each in found.values()), default=0)
    axis.set_xticks(range(size), [str(i + 1) for i in range(size)])
    axis.set(xlabel="wrongly labelled training sample", ylabel="|change of weight|\n(mean weight = 1)", ylim=(0, None))
    axis.legend(loc="best")
    return figure


@styled
def accuracy_curves(train: Mapping[str, Mapping[str, Band]], test: Mapping[str, Mapping[str, Band]]) -> Figure:
    """Figure 7: training (observed labels) and test accuracy, one row of panels per bias, one line per method."""
    figure, axes = _grid(2 * len(test), 2, 2.3)
    for number, title in enumerate(test):
        for axis, lines, what in zip(
            axes[2 * number :], (train[title], test[title]), ("training, observed labels", "test"), strict=False
        ):
            for row, line in lines.items():
                _line(axis, line, row, ROWS.get(row, PURPLE))
            axis.set_title(f"{title}: {what}", loc="left")
            axis.set(xlabel="epoch", ylabel="accuracy")
            axis.yaxis.set_major_formatter(PercentFormatter(1, 0))
            axis.legend(loc="best")
    return figure


@styled
def losses(train: Mapping[str, Band], meta: Mapping[str, Band]) -> Figure:
    """Figures 11 to 13: MW-Net's training and meta loss per epoch, one line per bias."""
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    for axis, lines, what in zip(figure.subplots(1, 2), (train, meta), ("training", "meta"), strict=True):
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(len(lines), 1)))
        for (title, line), colour in zip(lines.items(), colours, strict=False):
            _line(axis, line, title, colour)
        axis.set_title(f"{what} loss", loc="left")
        axis.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
        if lines:
            axis.legend(loc="best", fontsize=6)
    return figure


def _line(axis: Axes, line: Band, label: str, colour: Any) -> None:
    axis.plot(line.epochs, line.mean, color=colour, label=label)
    if line.n > 1:
        axis.fill_between(
            line.epochs, line.mean - line.spread, line.mean + line.spread, color=colour, alpha=0.2, linewidth=0
        )
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
