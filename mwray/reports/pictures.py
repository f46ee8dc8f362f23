"""Which figures a set of runs gives, drawn; what is missing is left out and named."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from mwray.reports import figure_draw, figures
from mwray.reports.cells import Entry
from mwray.reports.draw import png, weight_histogram
from mwray.reports.page import Picture
from mwray.reports.picture_data import Floats
from mwray.reports.published import Column
from mwray.reports.tables import build

PAIR = ("BaseModel", "MW-Net")
KINDS = {"1": "imbalance", "2": "uniform noise", "3": "flip noise"}
CONFUSIONS = {"8": "1", "9": "2", "10": "3"}
LOSSES = {"11": "1", "12": "2", "13": "3"}
"""The table whose runs a figure shows."""


def pictures(entries: Sequence[Entry], numbers: Collection[str] = ()) -> Iterator[Picture]:
    """The figures that the runs of one preset give, in the paper's order.

    Args:
        entries: the runs, and their places in tables.
        numbers: only these figures, keys of FIGURES; none: all.
    """
    for number, make in FIGURES.items():
        if not numbers or number in numbers:
            yield from make(entries, number)


def _figure1(entries: Sequence[Entry], number: str) -> Iterator[Picture]:
    learned = figures.weight_functions(entries)
    if learned:
        caption = (
            "Figure 1. Weight functions: focal loss, self-paced learning, and those that MW-Net learned (one seed)."
        )
        yield Picture("figure-01", caption, png(figure_draw.weight_functions(learned)))


def _figure3(entries: Sequence[Entry], number: str) -> Iterator[Picture]:
    for column in _strongest(figures.columns_of(entries, "1", "MW-Net")):
        yield from _matrices(entries, "1", [column], number)


def _confusions(entries: Sequence[Entry], number: str) -> Iterator[Picture]:
    table = CONFUSIONS[number]
    columns = figures.columns_of(entries, table, "MW-Net")
    for dataset in dict.fromkeys(column.dataset for column in columns):
        yield from _matrices(entries, table, [c for c in columns if c.dataset == dataset], number)


def _matrices(entries: Sequence[Entry], table: str, columns: Sequence[Column], number: str) -> Iterator[Picture]:
    shares: dict[str, dict[str, Floats]] = {}
    classes: tuple[str, ...] = ()
    for column in columns:
        for row in PAIR:
            found = figures.confusion(entries, table, row, column)
            if found is not None:
                shares.setdefault(column.bias, {})[row], classes = found
    if not shares:
        return
    dataset = columns[0].dataset
    caption = (
        f"Figure {number}. Confusion on the test images of {dataset} under {KINDS[table]}, all seeds together: share "
        "of each true class (rows) taken for each class (columns)."
    )
    yield Picture(f"figure-{number:0>2}-{_slug(dataset)}", caption, png(figure_draw.confusions(shares, classes)))


def _figure4(entries: Sequence[Entry], number: str) -> Iterator[Picture]:
    own = [entry for entry in entries if entry.cell.table == "figure 4"]
    if any(entry.run.state == "done" for entry in own):
        caption = (
            "Figure 4. Test accuracy at the last epoch on two networks under flip noise, mean and spread over seeds."
        )
        yield Picture("figure-04", caption, png(figure_draw.two_networks(build(own, "test.last"))))


def _figure5(entries: Sequence[Entry], number: str) -> Iterator[Picture]:
    for column in figures.columns_of(entries, "2", "MW-Net"):
        found = figures.samples(entries, "2", "MW-Net", column)
        if found is not None and found.clean is not None and not np.all(found.clean):
            caption = f"Figure 5. MW-Net's weights of training samples in the last epoch: {column} (one seed)."
            yield Picture(f"figure-05-{_slug(str(column))}", caption, png(weight_histogram(found)))


def _figure6(entries: Sequence[Entry], number: str) -> Iterator[Picture]:
    for column in figures.columns_of(entries, "2", "MW-Net"):
        found = figures.variations(entries, "2", column)
        if found:
            caption = (
                f"Figure 6. How much the weights of ten wrongly labelled samples change from epoch to epoch: {column} "
                "(one seed; mean and standard deviation over epochs; weights over the epoch's mean weight)."
            )
            yield Picture(f"figure-06-{_slug(str(column))}", caption, png(figure_draw.weight_variation(found)))


def _figure7(entries: Sequence[Entry], number: str) -> Iterator[Picture]:
    columns = [c for c in figures.columns_of(entries, "2", "MW-Net") if figures.level(c.bias) > 0]
    columns.sort(key=lambda column: (column.dataset, figures.level(column.bias)))
    rows = list(figure_draw.ROWS)
    train = {str(c): figures.bands(entries, "2", rows, c, "train.accuracy_observed") for c in columns}
    test = {str(c): figures.bands(entries, "2", rows, c, "test.accuracy") for c in columns}
    if columns:
        caption = (
            "Figure 7. Accuracy on the training batches and on the test images over epochs, mean and spread over seeds."
        )
        yield Picture("figure-07", caption, png(figure_draw.accuracy_curves(train, test)))


def _losses(entries: Sequence[Entry], number: str) -> Iterator[Picture]:
    table = LOSSES[number]
    columns = figures.columns_of(entries, table, "MW-Net")
    datasets = dict.fromkeys(column.dataset for column in columns)
    lines = {
        dataset: (
            _lines_of(entries, table, [c for c in columns if c.dataset == dataset], "train.loss"),
            _lines_of(entries, table, [c for c in columns if c.dataset == dataset], "train.meta_loss"),
        )
        for dataset in datasets
    }
    if lines:
        caption = f"Figure {number}. MW-Net's training and meta loss under {KINDS[table]}, mean and spread over seeds."
        yield Picture(f"figure-{number}", caption, png(figure_draw.losses(lines)))


def _lines_of(entries: Sequence[Entry], table: str, columns: Sequence[Column], name: str) -> dict[str, figures.Band]:
    found = ((c.bias, figures.band(figures.select(entries, table, "MW-Net", c), name)) for c in columns)
    return {bias: line for bias, line in found if line is not None}


def _strongest(columns: Sequence[Column]) -> list[Column]:
    """The first column of each data set: they come with the strongest bias first."""
    return list({column.dataset: column for column in reversed(columns)}.values())[::-1]


def _slug(text: str) -> str:
    return "".join(letter for letter in text.lower().replace(" ", "-") if letter.isalnum() or letter == "-")


FIGURES: dict[str, Callable[[Sequence[Entry], str], Iterator[Picture]]] = {
    "1": _figure1,
    "3": _figure3,
    "4": _figure4,
    "5": _figure5,
    "6": _figure6,
    "7": _figure7,
    **dict.fromkeys(CONFUSIONS, _confusions),
    **dict.fromkeys(LOSSES, _losses),
}
"""By the paper's number."""

NEEDS = {
    "1": "MW-Net under any bias",
    "3": "MW-Net and BaseModel under imbalance",
    "4": 'the study `--table "figure 4"`',
    "5": "MW-Net under uniform noise",
    "6": "MW-Net and L2RW under uniform noise",
    "7": "MW-Net under uniform noise, and what is to stand beside it",
    **{number: f"MW-Net and BaseModel under {KINDS[table]}" for number, table in CONFUSIONS.items()},
    **{number: f"MW-Net under {KINDS[table]}" for number, table in LOSSES.items()},
}
"""Which finished runs a figure is drawn from."""
