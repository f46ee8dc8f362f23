"""Pictures of a search, drawn by Optuna's own functions and brought to paper size, in colours that all tell apart.

Optuna draws through pyplot, which has state: `quiet` keeps it from a display, from the caller's style and from figures
left open.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from optuna.trial import TrialState
from optuna.visualization import matplotlib as optuna_draw

from mwray.cluster.analysis import FEWEST, importances
from mwray.reports.draw import BLUE, GREY, STYLE, VERMILION, save

logger = logging.getLogger("mwray")

ACROSS = 4
"""Fields side by side in one slice plot."""


def pictures(study: optuna.Study, objective: str, folder: Path, means: optuna.Study | None = None) -> list[Path]:
    """Draw what the finished trials of `study` allow: importances, history, parallel coordinates, slices.

    Args:
        study: of `mwray.cluster.analysis.tidy`.
        objective: its name, for the axes; an accuracy is written in per cent.
        folder: where to; pictures of an earlier state are replaced.
        means: the points of a search over seeds with their means, which importances are taken from.

    Returns:
        The files, in that order. A picture that cannot be drawn is left out with a warning: it must not cost a search.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < FEWEST:
        return []
    names = [name for name in dict.fromkeys(name for trial in done for name in trial.params) if _varies(name, done)]
    wanted: dict[str, Callable[[], Figure]] = {}
    means = study if means is None else means
    if importances(means):
        wanted["importances"] = partial(_importances, means)
    wanted["history"] = partial(_history, study, objective)
    if names:
        wanted["parallel"] = partial(_parallel, study, names, objective)
    for number, first in enumerate(range(0, len(names), ACROSS), 1):
        part = names[first : first + ACROSS]
        wanted["slice" if number == 1 else f"slice-{number}"] = partial(_slices, study, part, objective)
    return [path for name, draw in wanted.items() if (path := _drawn(draw, folder / f"{name}.png")) is not None]


@contextmanager
def quiet() -> Iterator[None]:
    """Pyplot without a display; the caller's backend and settings come back, and every figure made here is closed."""
    backend, before = mpl.get_backend(), set(plt.get_fignums())
    try:
        plt.switch_backend("agg")
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        plt.switch_backend(backend)


def _drawn(draw: Callable[[], Figure], path: Path) -> Path | None:
    try:
        with quiet():
            save(draw(), path)
    except Exception as error:  # Optuna's plots meet data of every kind
        logger.warning("%s: not drawn (%s: %s)", path, type(error).__name__, error)
        path.unlink(missing_ok=True)
        return None
    return path


def _importances(study: optuna.Study) -> Figure:
    axes = optuna_draw.plot_param_importances(study)
    figure = _sized(axes, height=0.9 + 0.32 * len(axes.patches))
    for bar in axes.patches:
        bar.set(facecolor=BLUE, edgecolor="none")
    for text in axes.texts:
        text.set(fontsize=8, color="black")
        text.set_text(f" {text.get_text()}")
    if axes.get_legend():
        axes.get_legend().remove()
    axes.set_title("", loc="left")
    axes.set(xlabel="importance (PED-ANOVA, shares of 1)", ylabel="")
    axes.grid(False, axis="y")
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    return figure


def _history(study: optuna.Study, objective: str) -> Figure:
    axes = optuna_draw.plot_optimization_history(study, target_name=objective)
    figure = _sized(axes, height=2.6)
    for dots in axes.collections:
        dots.set(facecolor=BLUE, edgecolor="none")
    for line in axes.lines:
        line.set(color=VERMILION, linewidth=1.5, alpha=1.0, drawstyle="steps-post")
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    axes.set(title="", xlabel="trial", ylabel=objective)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(["each trial", "best so far"], loc="best", fontsize=8)
    _percent(axes, objective)
    return figure


def _parallel(study: optuna.Study, names: Sequence[str], objective: str) -> Figure:
    axes = optuna_draw.plot_parallel_coordinate(study, params=list(names), target_name=objective)
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.set_size_inches(max(7.0, 1.4 * len(names) + 1.8), 3.2)
    for lines in axes.collections:
        lines.set(cmap="viridis_r" if study.direction.name == "MINIMIZE" else "viridis", linewidth=1.1, alpha=0.85)
        if lines.colorbar is not None:  # the first axis shows the same scale
            lines.colorbar.remove()
    figure.subplots_adjust(left=0.1, right=0.88, top=0.95, bottom=0.1)
    axes.set(title="")
    axes.tick_params(labelsize=8)
    axes.set_xticks(axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()], rotation=0, ha="center")
    _percent(axes, objective)
    for other in figure.axes:
        other.grid(False)
        if other is not axes:
            other.tick_params(labelsize=7, length=2)
            _few_ticks(other, "y")
            for text in other.get_yticklabels():  # over the lines, and still to be read
                text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    return figure


def _slices(study: optuna.Study, names: Sequence[str], objective: str) -> Figure:
    found = np.ravel(np.asarray(optuna_draw.plot_slice(study, params=list(names), target_name=objective)))
    figure = _sized(*found, height=2.7)
    figure.suptitle("")
    for place, axes in enumerate(found):
        for dots in axes.collections:
            dots.set(cmap="viridis", edgecolor="none", sizes=[18])
        axes.set(title="", ylabel=objective if place == 0 else "")
        _percent(axes, objective)
        _few_ticks(axes, "x")
        labels = [text.get_text().strip("'") for text in axes.get_xticklabels()]
        if axes.get_xscale() == "linear" and any(text.get_text().startswith("'") for text in axes.get_xticklabels()):
            axes.set_xticks(axes.get_xticks(), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    bar = figure.axes[-1]
    bar.set_ylabel("trial", color="black", size=9)
    bar.tick_params(colors="black", labelsize=8)
    bar.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _sized(*axes: Axes, height: float) -> Figure:
    """The figure of the axes at paper width; the grey ground of Optuna's style is taken away."""
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    figure.set_size_inches(7.0, height)
    # The colour bar of a single slice is of a kind at which the constrained layout divides by zero (matplotlib 3.11).
    figure.set_layout_engine("tight" if len(axes) == 1 else "constrained")
    figure.set_facecolor("white")
    for each in axes:
        each.set_facecolor("white")
        each.grid(True, color="#E6E6E6", linewidth=0.6)
        each.spines[["left", "bottom"]].set(visible=True, color=GREY, linewidth=0.7)
        each.tick_params(colors="black", labelsize=8)
        each.xaxis.label.set(color="black", size=9)
        each.yaxis.label.set(color="black", size=9)
    return figure


def _few_ticks(axes: Axes, which: str) -> None:
    """On a scale of magnitudes: 1, 2 and 5 of each, or powers of ten alone where there are many."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if axis.get_scale() != "log":
        return
    few = LogLocator(numticks=4) if high > 100 * low else LogLocator(subs=(1.0, 2.0, 5.0), numticks=10)
    axis.set_major_locator(few)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _percent(axes: Axes, objective: str) -> None:
    if "accuracy" in objective:
        axes.yaxis.set_major_formatter(PercentFormatter(1, None))


def _varies(name: str, done: Sequence[Any]) -> bool:
    return len({str(trial.params.get(name)) for trial in done}) > 1
