"""Which figures a set of runs gives, drawn; what is missing is left out and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mwray.reports import figure_draw, figures
from mwray.reports.cells import Entry
from mwray.reports.draw import png, weight_histogram
from mwray.reports.page import Picture
from mwray.reports.published import Column
from mwray.reports.tables import build

PAIR = ("BaseModel", "MW-Net")
KINDS = {"1": "imbalance", "2": "uniform noise", "3": "flip noise"}
CONFUSIONS = {"1": "8", "2": "9", "3": "10"}
LOSSES = {"1": "11", "2": "12", "3": "13"}


def pictures(entries: Sequence[Entry]) -> Iterator[Picture]:
    """Every figure that the runs of one preset give, in the paper's order."""
    for draw in (_figure1, _figure3, _figure4, _figure5, _figure6, _figure7, _confusions, _losses):
        make: Callable[[Sequence[Entry]], Iterator[Picture]] = draw
        yield from make(entries)


def _figure1(entries: Sequence[Entry]) -> Iterator[Picture]:
    learned = figures.weight_functions(entries)
    if learned:
        caption = (
            "Figure 1. Weight functions: focal loss, self-paced learning, and those that MW-Net learned (one seed)."
        )
        yield Picture("figure-01", caption, png(figure_draw.weight_functions(learned)))


def _figure3(entries: Sequence[Entry]) -> Iterator[Picture]:
    for column in _strongest(figures.columns_of(entries, "1", "MW-Net")):
        yield from _matrices(entries, "1", [column], "3")


def _confusions(entries: Sequence[Entry]) -> Iterator[Picture]:
    for table, number in CONFUSIONS.items():
        columns = figures.columns_of(entries, table, "MW-Net")
        for dataset in dict.fromkeys(column.dataset for column in columns):
            yield from _matrices(entries, table, [c for c in columns if c.dataset == dataset], number)


def _matrices(entries: Sequence[Entry], table: str, columns: Sequence[Column], number: str) -> Iterator[Picture]:
    found = {
        f"{row}, {column.bias}": matrix
        for column in columns
        for row in PAIR
        if (matrix := figures.confusion(entries, table, row, column)) is not None
    }
    if not found:
        return
    dataset = columns[0].dataset
    shares = {title: share for title, (share, _) in found.items()}
    classes = next(iter(found.values()))[1]
    caption = (
        f"Figure {number}. Confusion on the test images of {dataset} under {KINDS[table]}, all seeds together: share "
        "of each true class (rows) taken for each class (columns)."
    )
    yield Picture(f"figure-{number:0>2}-{_slug(dataset)}", caption, png(figure_draw.confusions(shares, classes)))


def _figure4(entries: Sequence[Entry]) -> Iterator[Picture]:
    own = [entry for entry in entries if entry.cell.table == "figure 4"]
    if any(entry.run.state == "done" for entry in own):
        caption = (
            "Figure 4. Test accuracy at the last epoch on two networks under flip noise, mean and spread over seeds."
        )
        yield Picture("figure-04", caption, png(figure_draw.two_networks(build(own, "test.last"))))


def _figure5(entries: Sequence[Entry]) -> Iterator[Picture]:
    for column in figures.columns_of(entries, "2", "MW-Net"):
        found = figures.samples(entries, "2", "MW-Net", column)
        if found is not None and not np.all(found.clean):
            caption = f"Figure 5. MW-Net's weights of training samples in the last epoch: {column} (one seed)."
            yield Picture(f"figure-05-{_slug(str(column))}", caption, png(weight_histogram(found)))


def _figure6(entries: Sequence[Entry]) -> Iterator[Picture]:
    for column in figures.columns_of(entries, "2", "MW-Net"):
        found = figures.variations(entries, "2", column)
        if found:
            caption = (
                f"Figure 6. How much the weights of ten wrongly labelled samples change from epoch to epoch: {column} "
                "(one seed; mean and standard deviation over epochs; weights over the epoch's mean weight)."
            )
            yield Picture(f"figure-06-{_slug(str(column))}", caption, png(figure_draw.weight_variation(found)))


def _figure7(entries: Sequence[Entry]) -> Iterator[Picture]:
    columns = [c for c in figures.columns_of(entries, "2", "MW-Net") if figures.level(c.bias) > 0]
    rows = list(figure_draw.ROWS)
    train = {str(c): figures.bands(entries, "2", rows, c, "train.accuracy_observed") for c in columns}
    test = {str(c): figures.bands(entries, "2", rows, c, "test.accuracy") for c in columns}
    if columns:
        caption = (
            "Figure 7. Accuracy on the training batches and on the test images over epochs, mean and spread over seeds."
        )
        yield Picture("figure-07", caption, png(figure_draw.accuracy_curves(train, test)))


def _losses(entries: Sequence[Entry]) -> Iterator[Picture]:
    for table, number in LOSSES.items():
        columns = figures.columns_of(entries, table, "MW-Net")
        lines = {
            name: {
                str(c): line
                for c in columns
                if (line := figures.band(figures.select(entries, table, "MW-Net", c), f"train.{name}")) is not None
            }
            for name in ("loss", "meta_loss")
        }
        if lines["loss"]:
            caption = (
                f"Figure {number}. MW-Net's training and meta loss under {KINDS[table]}, mean and spread over seeds."
            )
            yield Picture(f"figure-{number}", caption, png(figure_draw.losses(lines["loss"], lines["meta_loss"])))


def _strongest(columns: Sequence[Column]) -> list[Column]:
    """The first column of each data set: they come with the strongest bias first."""
    return list({column.dataset: column for column in reversed(columns)}.values())[::-1]


def _slug(text: str) -> str:
    return "".join(letter for letter in text.lower().replace(" ", "-") if letter.isalnum() or letter == "-")
