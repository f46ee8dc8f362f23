"""Pictures of a run, drawn with matplotlib's objects (no pyplot, no display, no state) from NumPy arrays.

Sizes are those of a paper's text width (7 in) and fonts are set for it. Colours are Okabe and Ito's, which people with
any kind of colour blindness tell apart (Color Universal Design, 2008); kinds of samples keep theirs in all pictures.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from mwray.records import write_atomically
from mwray.reports.picture_data import (
    Curves,
    Floats,
    Samples,
    Shares,
    chosen_epochs,
    drops,
    rates,
    relative,
    shares,
    upper,
)

P = ParamSpec("P")

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
CLEAN, WRONG = BLUE, VERMILION
BINS = 40
GREY = "#595959"

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.borderpad": 0.2,
    "legend.handlelength": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}

EPOCHS = LinearSegmentedColormap.from_list("epochs", ["#D0D0D0", "#000000"])
"""Early epochs light, late ones dark: reads in black and white, and leaves the colours to the kinds of samples."""


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with STYLE and leave the caller's matplotlib settings as they were."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapped


@styled
def weights(curves: Curves | None, samples: Samples | None) -> Figure:
    """The weight function over epochs above the losses it weighs, and beside them the weights that samples got.

    Either half is left out where there is nothing to show in it.

    Raises:
        ValueError: there are neither curves nor weights.
    """
    left = curves is not None and len(curves) > 0
    right = samples is not None and samples.weights is not None
    if not left and not right:
        raise ValueError("there is no weight function and there are no weights to draw")
    losses = left and samples is not None
    rows = [["curve", "histogram"], ["losses" if losses else "curve", "histogram"]]
    mosaic: list[Any] = [[name for name, shown in zip(row, (left, right), strict=True) if shown] for row in rows]
    figure = Figure(figsize=(7.0 if left and right else 4.2, 3.0), layout="constrained")
    axes = figure.subplot_mosaic(mosaic, width_ratios=(1.35, 1) if left and right else None, height_ratios=(2.3, 1))
    if curves is not None and left:
        _weight_curves(axes["curve"], curves, samples)
    if samples is not None and losses:
        _losses(axes["losses"], axes["curve"], samples)
    if samples is not None and right:
        _weight_histogram(axes["histogram"], samples)
    return figure


def weight_curve(curves: Curves, samples: Samples | None) -> Figure:
    """The weight function over epochs above the losses it weighs: the left half of `weights`."""
    return weights(curves, None if samples is None else Samples(samples.losses, samples.clean))


def weight_histogram(samples: Samples) -> Figure:
    """The weights that clean and wrongly labelled samples got: the right half of `weights`."""
    return weights(None, samples)


@styled
def confusion(counts: NDArray[Any], class_names: Sequence[str]) -> Figure:
    """Which class is taken for which, as shares of the true class; numbers in the cells up to 20 classes.

    Args:
        counts: [C, C] samples; rows true, columns predicted.
        class_names: C names.

    Raises:
        ValueError: the sizes do not fit.
    """
    size = len(class_names)
    if counts.shape != (size, size):
        raise ValueError(f"confusion of shape {list(counts.shape)} does not fit {size} class names")
    share = rates(counts)
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    total = int(counts.sum())
    accuracy = f"{np.trace(counts) / total:.1%}" if total else "no samples"
    axes.set(xlabel="predicted class", ylabel="true class", title=f"{total:,} samples, accuracy {accuracy}")
    _name_classes(axes, class_names)
    if size <= 20:
        write_rates(axes, share)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, format=PercentFormatter(1, 0))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


@styled
def transitions(matrices: Mapping[str, NDArray[Any]], class_names: Sequence[str]) -> Figure:
    """Transition matrices side by side: what a method estimated, and what the labels show.

    Args:
        matrices: by title, each [C, C]: share of observed classes (columns) given the true class (rows).
        class_names: C names.

    Raises:
        ValueError: the sizes do not fit.
    """
    size = len(class_names)
    wrong = [title for title, matrix in matrices.items() if matrix.shape != (size, size)]
    if wrong or not matrices:
        raise ValueError(f"transition matrices {wrong or '(none)'} do not fit {size} class names")
    figure = Figure(figsize=(3.5 * len(matrices) + 0.6, 3.5), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
        axes.grid(False)
        image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xlabel="observed class", ylabel="true class", title=title)
        _name_classes(axes, class_names)
        if size <= 20:
            write_rates(axes, matrix)
    bar = figure.colorbar(image, ax=panels, shrink=0.9, pad=0.02, format=PercentFormatter(1, 0))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


ACCURACIES = {
    "test.accuracy": ("test", BLUE, "-"),
    "validation.accuracy": ("validation", GREEN, "-"),
    "train.accuracy_true": ("training, true labels", ORANGE, "-"),
    "train.accuracy_observed": ("training, observed labels", ORANGE, ":"),
}
LOSSES = {
    "test.loss": ("test", BLUE, "-"),
    "validation.loss": ("validation", GREEN, "-"),
    "train.loss": ("training", ORANGE, "-"),
    "train.weighted_loss": ("training, weighted", ORANGE, ":"),
    "train.meta_loss": ("meta, after virtual step", PURPLE, "-"),
}


@styled
def training(columns: Mapping[str, Floats]) -> Figure:
    """Accuracy and loss over epochs; grey lines mark where the learning rate changed.

    Args:
        columns: one array [E] per name of a record ("epoch" among them), NaN where nothing was measured.
    """
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for axes, lines in ((accuracy, ACCURACIES), (loss, LOSSES)):
        for place in drops(columns["epoch"], columns["lr"]) if "lr" in columns else ():
            axes.axvline(place, color="#B0B0B0", linewidth=0.8, linestyle=(0, (1, 2)))
        _lines(axes, columns, lines)
    accuracy.set_ylabel("accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, 0))
    loss.set_ylabel("cross-entropy (nats)")
    loss.set_ylim(bottom=0)
    return figure


def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def in_notebooks(figure: Figure) -> Figure:
    """The same, which a notebook shows as the value of a cell, also where pyplot was never imported."""
    figure._repr_png_ = lambda: png(figure, 120)  # type: ignore[attr-defined]
    return figure


def pixels(figure: Figure, dpi: int = 120) -> NDArray[np.uint8]:
    """The figure as an image, uint8 [height, width, 3]."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: Path, dpi: int = 200) -> None:
    """Write the figure as a PNG file; whoever reads it meanwhile sees the old one whole."""
    write_atomically(path, png(figure, dpi))


# ---------------------------------------------------------------------------------------------------------------------


def _weight_curves(axes: Axes, curves: Curves, samples: Samples | None) -> None:
    # What the samples lose decides the axis: a few outliers would squeeze the part where nearly all of them lie.
    right = upper(samples.losses) if samples is not None else float(np.nanmax(curves.losses))
    first, last = int(curves.epochs[0]), int(curves.epochs[-1])
    scale = Normalize(first, last if last > first else first + 1)
    for i in chosen_epochs(curves.epochs):
        newest = curves.epochs[i] == last
        colour = "#000000" if newest else EPOCHS(scale(curves.epochs[i]))
        axes.plot(curves.losses[i], curves.weights[i], color=colour, linewidth=2.2 if newest else 1.1)
    loss_axis(axes, right)
    inside = (curves.losses <= right) & np.isfinite(curves.weights)
    top = float(curves.weights[inside].max()) if inside.any() else 1.0
    axes.set(ylim=(0, 1.05 * top if top > 0 else 1), ylabel="weight $V(L)$")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if last == first:
        axes.set_title(f"weight function, epoch {last}", loc="left")
        return
    axes.set_title("weight function", loc="left", y=1.0)  # beside the strip, not above it
    strip = axes.inset_axes((0.68, 1.07, 0.22, 0.045))
    bar = axes.figure.colorbar(mpl.cm.ScalarMappable(scale, EPOCHS), cax=strip, orientation="horizontal", ticks=[])
    bar.outline.set_visible(False)
    strip.text(-0.06, 0.5, f"epoch {first}", transform=strip.transAxes, ha="right", va="center", fontsize=8)
    strip.text(1.06, 0.5, f"{last}", transform=strip.transAxes, ha="left", va="center", fontsize=8)


def loss_axis(axes: Axes, right: float, apart: float = 0.045) -> None:
    """Make the horizontal axis one of losses from 0 to `right`, its ticks `apart` of its length from one another."""
    # Right labels lose next to nothing and wrong ones ten nats: only roots show both, and what lies between.
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    ticks = [0.0]
    for tick in (0.1, 0.5, 1, 2, 4, 6, 10, 15, 20, 30, 50, 100):
        if tick <= right and np.sqrt(tick) - np.sqrt(ticks[-1]) > apart * np.sqrt(right):
            ticks.append(tick)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlim=(0, right), xlabel="training loss $L$ (nats, square-root scale)")


def _losses(axes: Axes, above: Axes, samples: Samples) -> None:
    above.tick_params(labelbottom=False)
    above.set_xlabel("")
    right = upper(samples.losses)
    _bars(axes, shares(samples.losses, samples.clean, np.linspace(0, np.sqrt(right), BINS + 1) ** 2))
    loss_axis(axes, right)
    axes.set_ylabel("share")


def _weight_histogram(axes: Axes, samples: Samples) -> None:
    assert samples.weights is not None
    scaled = relative(samples.weights)
    _bars(axes, shares(scaled, samples.clean, np.linspace(0, 1.02 * upper(scaled, 0.999), BINS + 1)))
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlabel="sample weight / mean weight", ylabel="share of samples")
    axes.set_title("weights of samples", loc="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def _bars(axes: Axes, found: Shares) -> None:
    clean, wrong = (found.clean, CLEAN, "right label"), (found.wrong, WRONG, "wrong label")
    for share, colour, label in (clean, wrong, (found.every, GREY, "all labels")):
        if share is not None:
            axes.stairs(share, found.edges, fill=True, color=colour, alpha=0.3)
            axes.stairs(share, found.edges, color=colour, linewidth=1.2, label=label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, None))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _name_classes(axes: Axes, class_names: Sequence[str]) -> None:
    every = max(1, -(-len(class_names) // 20))  # a hundred names side by side cannot be read
    places = range(0, len(class_names), every)
    shown = [class_names[i] for i in places]
    turned = max(map(len, shown), default=0) > 3
    axes.set_xticks(
        places, shown, rotation=45 if turned else 0, ha="right" if turned else "center", rotation_mode="anchor"
    )
    axes.set_yticks(places, shown)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def write_rates(axes: Axes, share: Floats, size: float = 7) -> None:
    """Write shares [rows, columns], in per cent, into the cells of a matrix."""
    for row, column in np.argwhere(share >= 0.005):  # below half a percent a zero would be written
        value = share[row, column]
        colour = "white" if value > 0.5 else GREY
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=size)


def _lines(axes: Axes, columns: Mapping[str, Floats], lines: Mapping[str, tuple[str, str, str]]) -> None:
    for name, (label, colour, style) in lines.items():
        if name in columns:
            axes.plot(columns["epoch"], columns[name], color=colour, linestyle=style, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if axes.lines:
        axes.legend(loc="best")
