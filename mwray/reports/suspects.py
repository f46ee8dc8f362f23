"""The samples that a run trusts least: their order, how many of them are wrong, and the files that say so. No torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from mwray.records import write_atomically
from mwray.reports.draw import BLUE, GREY, VERMILION, save, styled
from mwray.reports.picture_data import Bools, Floats

if TYPE_CHECKING:  # only who writes the list needs it, and a machine for training may have none
    import pyarrow as pa

SHOWN = 48
"""Samples on the contact sheet."""


@dataclass(frozen=True)
class Suspects:
    """All training samples, the least trusted first."""

    index: NDArray[np.int64]  # [N], positions in the data set's own training images
    observed: NDArray[np.int64]  # [N], label that was trained on
    predicted: NDArray[np.int64]  # [N], class of the largest logit
    loss: Floats  # [N], cross-entropy with the observed label, in nats
    weight: Floats | None  # [N], what the learned weight function gives to that loss; None: the method has none
    true: NDArray[np.int64] | None  # [N]; None where it is not known
    position: NDArray[np.int64]  # [N], where each sample was before the sorting
    classes: tuple[str, ...]
    files: NDArray[np.str_] | None = None  # [N], where each is from; None: they have no names

    @property
    def wrong(self) -> Bools | None:
        """Whether the observed label is wrong, [N]."""
        return None if self.true is None else self.observed != self.true


def order(loss: Floats, weight: Floats | None) -> NDArray[np.int64]:
    """Positions [N] by falling loss, equal losses by rising weight.

    Not by the weight first: a learned weight function need not fall with the loss. Where the network has learned wrong
    labels by heart it is nearly flat, and its slightest rise puts the samples of least loss before the wrong ones;
    under a long tail it rises. Where it falls, both orders are one.
    """
    return np.argsort(-loss, kind="stable") if weight is None else np.lexsort((weight, -loss))


def precision_recall(wrong: Bools) -> tuple[Floats, Floats]:
    """Of the first k in a ranking: the share that is wrong, and the share of all wrong ones that is among them.

    Args:
        wrong: [N], in the ranking's order.

    Returns:
        Precision [N] and recall [N] for k = 1 .. N; recall is NaN where nothing is wrong.
    """
    found = np.cumsum(wrong)
    total = found[-1] if len(found) else 0
    recall = found / total if total else np.full(len(wrong), np.nan)
    return found / np.arange(1, len(wrong) + 1), recall


def table(suspects: Suspects) -> pa.Table:
    """One row per sample with its rank from 1; labels also by name; what is not known is left out."""
    import pyarrow as pa

    names = np.asarray(suspects.classes)
    columns: dict[str, object] = {
        "rank": np.arange(1, len(suspects.index) + 1),
        "index": suspects.index,
        "observed_label": suspects.observed,
        "observed": names[suspects.observed],
        "predicted_label": suspects.predicted,
        "predicted": names[suspects.predicted],
        "loss": suspects.loss,
    }
    if suspects.weight is not None:
        columns["weight"] = suspects.weight
    if suspects.files is not None:
        columns["file"] = suspects.files
    if suspects.true is not None and suspects.wrong is not None:
        precision, recall = precision_recall(suspects.wrong)
        columns |= {"true_label": suspects.true, "true": names[suspects.true], "wrong": suspects.wrong}
        columns |= {"precision": precision, "recall": recall}
    return pa.table(columns)


def write(suspects: Suspects, images: NDArray[np.uint8] | None, folder: Path) -> str:
    """Write suspects.parquet, suspects.csv, suspects.png and, where truth is known, ranking.png; say what they show.

    Args:
        suspects: in their order.
        images: [K, H, W, 3 or 1], the first K of them; None: the samples are none, and there is no suspects.png.
        folder: made if it is not there.
    """
    from pyarrow import csv, parquet

    rows = table(suspects)
    buffer = io.BytesIO()
    parquet.write_table(rows, buffer)
    write_atomically(folder / "suspects.parquet", buffer.getvalue())
    buffer = io.BytesIO()
    csv.write_csv(rows, buffer)
    write_atomically(folder / "suspects.csv", buffer.getvalue())
    if images is not None:
        save(contact_sheet(suspects, images), folder / "suspects.png")
    said = [f"{len(suspects.index)} training samples, the least trusted first, by loss: {folder}"]
    wrong = suspects.wrong
    if wrong is not None and wrong.any():
        save(ranking(wrong), folder / "ranking.png")
        precision, recall = precision_recall(wrong)
        total = int(wrong.sum())
        said += [
            f"of the first {k}: {precision[k - 1]:.1%} have a wrong label, {recall[k - 1]:.1%} of all {total}"
            for k in sorted({min(k, len(wrong)) for k in (10, 100, 1000)} | {total})
        ]
    return "\n".join(said)


@styled
def contact_sheet(suspects: Suspects, images: NDArray[np.uint8], across: int = 8) -> Figure:
    """The first images with observed and predicted label; orange where the observed one is known to be wrong."""
    down = max(1, -(-len(images) // across))
    figure = Figure(figsize=(7.0, 1.08 * down + 0.3), layout="constrained")
    axes = np.ravel(figure.subplots(down, across, squeeze=False))
    wrong = suspects.wrong
    for axis in axes:
        axis.set_axis_off()
    for place, (axis, image) in enumerate(zip(axes, images, strict=False)):
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        observed, predicted = (suspects.classes[labels[place]] for labels in (suspects.observed, suspects.predicted))
        colour = GREY if wrong is None else VERMILION if wrong[place] else BLUE
        title = f"{observed} / {predicted}"
        axis.set_title(title, fontsize=min(6.0, 105 / len(title)), color=colour, pad=2)
    legend = "" if wrong is None else "; orange: the label is wrong, blue: it is right"
    figure.suptitle(f"least trusted first: label / prediction{legend}", fontsize=8)
    return figure


@styled
def ranking(wrong: Bools) -> Figure:
    """Precision and recall over the number of samples looked at."""
    precision, recall = precision_recall(wrong)
    figure = Figure(figsize=(4.6, 2.8), layout="constrained")
    axis = figure.subplots()
    looked = np.arange(1, len(wrong) + 1)
    # Of the first few it jumps between 0 and 1, over all of the picture's height.
    steady = min(10, len(wrong)) - 1
    axis.plot(looked[steady:], precision[steady:], color=BLUE, label="precision: wrong among those looked at")
    axis.plot(looked, recall, color=VERMILION, label="recall: found of all wrong ones")
    axis.axhline(float(wrong.mean()), color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), label="share of wrong labels")
    axis.axvline(int(wrong.sum()), color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    axis.set(xlabel="samples looked at, least trusted first", ylabel="share", ylim=(0, 1.02), xlim=(0, len(wrong)))
    axis.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axis.legend(loc="best", fontsize=7)
    return figure


def chosen(images: NDArray[np.uint8], positions: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images [K, H, W, C] at `positions`, from [N, C, H, W]."""
    return np.moveaxis(images[np.asarray(positions)], 1, -1)
