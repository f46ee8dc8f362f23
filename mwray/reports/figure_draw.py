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

from mwray.reports.draw import BLUE, EPOCHS, GREEN, GREY, ORANGE, PURPLE, loss_axis, styled, write_rates
from mwray.reports.figures import Band, Variation, focal_weight, self_paced_weight
from mwray.reports.picture_data import Curves, Floats, chosen_epochs
from mwray.reports.published import TABLE3
from mwray.reports.tables import Table

PAPER_ROWS = TABLE3.rows

ROWS = {
    "BaseModel": (GREY, "-"),
    "BaseModel, long schedule": (GREY, (0, (3, 1.5))),
    "L2RW": (ORANGE, "-"),
    "L2RW, long schedule": (ORANGE, (0, (3, 1.5))),
    "MW-Net": (BLUE, "-"),
}
"""Lines of figure 7: a colour for each method, dashes for the longer schedule."""
MATRICES = 3
"""Confusion matrices side by side."""


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
        axis.legend(loc="lower right")
        axis.set(ylim=(0, 1.05), xlim=(0, 5), xlabel="loss (nats)")
    for axis, (name, curves) in zip(axes[2:], learned.items(), strict=True):
        _learned(axis, name, curves)
    for axis in axes:
        axis.set(ylabel="weight")
    return figure


def _learned(axis: Axes, name: str, curves: Curves) -> None:
    first, final = int(curves.epochs[0]), int(curves.epochs[-1])
    scale = Normalize(first, max(final, first + 1))
    for i in chosen_epochs(curves.epochs):
        axis.plot(curves.losses[i], curves.weights[i], color=EPOCHS(scale(curves.epochs[i])), linewidth=1.1)
    loss_axis(axis, float(curves.losses[-1].max()), apart=0.1)
    axis.set_title(f"MW-Net, {name}\nepochs {first} (light) to {final}", loc="left", fontsize=7)
    axis.set(ylim=(0, None), xlabel="loss (nats, square-root scale)")


@styled
def confusions(shares: Mapping[str, Mapping[str, Floats]], classes: Sequence[str]) -> Figure:
    """Figures 3 and 8 to 10: matrices by bias and, under one another, by method; rows true, columns predicted.

    Args:
        shares: by bias and method, [C, C]; NaN in the rows of classes without images.
        classes: C names.
    """
    biases, methods = list(shares), list(dict.fromkeys(m for found in shares.values() for m in found))
    one = len(biases) == 1  # then its methods stand side by side, and the cells have room for numbers
    across = len(methods) if one else min(MATRICES, len(biases))
    cells = [[(biases[0], m) for m in methods]] if one else _blocks(biases, methods, across)
    size = 2.75 if one else 1.95
    figure = Figure(figsize=(min(7.0, across * (size + 0.2) + 0.9), len(cells) * (size + 0.25)), layout="constrained")
    axes = figure.subplots(len(cells), across, squeeze=False)
    image: Any = None
    for line, row in zip(cells, axes, strict=True):
        for axis in row[len(line) :]:
            axis.set_visible(False)
        for (bias, method), axis in zip(line, row, strict=False):
            share = shares[bias].get(method)
            if share is None:
                axis.set_visible(False)
                continue
            image = _matrix(axis, share, classes, f"{method}, {bias}", numbers=one and len(classes) <= 10)
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 1.6 / len(cells)), pad=0.01, format=PercentFormatter(1, 0))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def _blocks(biases: Sequence[str], methods: Sequence[str], across: int) -> list[list[tuple[str, str]]]:
    """Rows of matrices: `across` biases side by side, their methods under one another, then the next biases."""
    parts = [biases[first : first + across] for first in range(0, len(biases), across)]
    return [[(bias, method) for bias in part] for part in parts for method in methods]


def _matrix(axis: Axes, share: Floats, classes: Sequence[str], title: str, numbers: bool) -> Any:
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axis.grid(False)
    axis.set_title(f"{title}\nmean recall {float(np.nanmean(np.diag(share))):.1%}", loc="left", fontsize=7)
    axis.set_xlabel("predicted", fontsize=8, labelpad=1)
    axis.set_ylabel("true", fontsize=8, labelpad=1)
    every = max(1, -(-len(classes) // 10))
    short = len(classes) <= 20 and max(map(len, classes), default=0) <= 2
    places = range(0, len(classes), every)
    labels = [classes[i] if short else str(i) for i in places]
    axis.set_xticks(places, labels, fontsize=6)
    axis.set_yticks(places, labels, fontsize=6)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if numbers:
        write_rates(axis, share, size=6)
    return image


@styled
def two_networks(table: Table) -> Figure:
    """Figure 4: every method's accuracy on both networks, one panel per data set and rate; mean and standard deviation.

    Points, not columns from zero: what is compared lies between 50 and 100 %.
    """
    panels: dict[str, list[tuple[str, Floats, Floats]]] = {}
    rows = [row for row in table.rows if any(table.cells[row, column].ours for column in table.columns)]
    rows.sort(key=lambda row: PAPER_ROWS.index(row) if row in PAPER_ROWS else len(PAPER_ROWS))
    for column in table.columns:
        bias, network = column.bias.rstrip(")").split(" (")
        cells = [table.cells[row, column].ours for row in rows]
        mean = np.array([cell.mean if cell else np.nan for cell in cells])
        spread = np.array([(cell.spread or 0.0) if cell else 0.0 for cell in cells])
        panels.setdefault(f"{column.dataset}, {bias}", []).append((network, mean, spread))
    figure, axes = _grid(len(panels), 2, 2.9)
    lines: dict[str, Any] = {}
    for axis, (title, networks) in zip(axes, panels.items(), strict=True):
        for number, (network, mean, spread) in enumerate(networks):
            places = np.arange(len(rows)) + (number - (len(networks) - 1) / 2) * 0.22
            colour, marker = ((BLUE, "o"), (ORANGE, "s"))[number % 2]
            lines[network] = axis.errorbar(
                places, mean, spread, fmt=marker, markersize=4.5, capsize=2, elinewidth=1, color=colour, label=network
            )
        axis.set(ylabel="test accuracy (%)", xlim=(-0.6, len(rows) - 0.4))
        axis.set_xticks(range(len(rows)), rows, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
        axis.set_title(title, loc="left")
    figure.legend(list(lines.values()), list(lines), loc="outside upper center", ncols=2)
    return figure


@styled
def weight_variation(found: Mapping[str, Variation]) -> Figure:
    """Figure 6: change of weight between epochs of ten wrongly labelled samples."""
    figure = Figure(figsize=(5.0, 2.6), layout="constrained")
    axis = figure.subplots()
    for number, (row, each) in enumerate(found.items()):
        places = np.arange(len(each.mean)) + (number - (len(found) - 1) / 2) * 0.3
        below = np.minimum(each.spread, each.mean)  # a change is never negative
        axis.errorbar(
            places, each.mean, (below, each.spread), fmt="so"[number % 2], markersize=4, capsize=2, elinewidth=1,
            label=row, color=ROWS[row][0],
        )  # fmt: skip
    size = max((len(each.mean) for each in found.values()), default=0)
    axis.set_xticks(range(size), [str(i + 1) for i in range(size)])
    axis.set(xlabel="wrongly labelled training sample", ylabel="|change of weight|\n(mean weight = 1)", ylim=(0, None))
    axis.legend(loc="best")
    return figure


@styled
def accuracy_curves(train: Mapping[str, Mapping[str, Band]], test: Mapping[str, Mapping[str, Band]]) -> Figure:
    """Figure 7: training (observed labels) and test accuracy, one row of panels per bias, one line per method."""
    figure, axes = _grid(2 * len(test), 2, 2.1)
    handles: dict[str, Any] = {}
    for number, title in enumerate(test):
        for axis, lines, what in zip(
            axes[2 * number :], (train[title], test[title]), ("training, observed labels", "test"), strict=False
        ):
            for row, line in lines.items():
                colour, style = ROWS.get(row, (PURPLE, "-"))
                handles[row] = _line(axis, line, row, colour, style)
            axis.set_title(f"{title}: {what}", loc="left", fontsize=8)
            axis.set(xlabel="epoch", ylabel="accuracy")
            axis.yaxis.set_major_formatter(PercentFormatter(1, 0))
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=3)
    return figure


@styled
def losses(lines: Mapping[str, tuple[Mapping[str, Band], Mapping[str, Band]]]) -> Figure:
    """Figures 11 to 13: MW-Net's training and meta loss per epoch, a row of panels per data set, a line per bias."""
    figure, axes = _grid(2 * len(lines), 2, 2.5)
    for number, (dataset, both) in enumerate(lines.items()):
        for axis, found, what in zip(axes[2 * number :], both, ("training", "meta"), strict=False):
            colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(len(found), 1)))
            for (title, line), colour in zip(found.items(), colours, strict=True):
                _line(axis, line, title, colour)
            axis.set_title(f"{dataset}: {what} loss", loc="left")
            axis.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
            if found:
                axis.legend(loc="best", fontsize=7)
    return figure


def _line(axis: Axes, line: Band, label: str, colour: Any, style: Any = "-") -> Any:
    (drawn,) = axis.plot(line.epochs, line.mean, color=colour, linestyle=style, label=label)
    if line.n > 1:
        axis.fill_between(
            line.epochs, line.mean - line.spread, line.mean + line.spread, color=colour, alpha=0.2, linewidth=0
        )
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return drawn
