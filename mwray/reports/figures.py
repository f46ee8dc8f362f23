"""The data of the paper's figures, from the runs of its tables; `mwray.reports.figure_draw` draws them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mwray.reports.arrays import Watched, curves, last, watched
from mwray.reports.cells import Entry
from mwray.reports.picture_data import Bools, Curves, Floats, Samples, columns, rates
from mwray.reports.published import Column


@dataclass(frozen=True)
class Band:
    """A number over epochs: mean and spread over seeds."""

    epochs: NDArray[np.int64]  # [E]
    mean: Floats  # [E]
    spread: Floats  # [E], sample standard deviation; zero for a single seed
    n: int


@dataclass(frozen=True)
class Variation:
    """How much a sample's weight moves from one epoch to the next, mean and spread over epochs (figure 6)."""

    index: NDArray[np.int64]  # [S]
    mean: Floats  # [S], of |w[e + 1] - w[e]|, weights relative to the epoch's mean weight
    spread: Floats  # [S]


def select(entries: Iterable[Entry], table: str, row: str, column: Column | None = None) -> list[Entry]:
    """The finished runs of a row (in one column), by rising seed."""
    found = [e for e in entries if (e.cell.table, e.cell.row) == (table, row) and column in (None, e.cell.column)]
    return sorted((e for e in found if e.run.state == "done"), key=lambda e: e.cell.seed)


def columns_of(entries: Iterable[Entry], table: str, row: str) -> list[Column]:
    """The columns in which a row has finished runs: by data set, the strongest bias first."""
    found = dict.fromkeys(entry.cell.column for entry in select(entries, table, row))
    return sorted(found, key=lambda column: (column.dataset, column.bias.split()[0], -level(column.bias)))


def level(bias: str) -> float:
    """The number in a bias: "flip 40 %" is 40."""
    return float(bias.split()[1])


def focal_weight(losses: Floats, gamma: float = 2.0) -> Floats:
    """Weight of a cross-entropy in the focal loss: (1 - p)^gamma with p = exp(-loss) (Lin et al., ICCV 2017)."""
    weights: Floats = (1 - np.exp(-losses)) ** gamma
    return weights


def self_paced_weight(losses: Floats, threshold: float) -> Floats:
    """1 below the threshold and 0 from it on (Kumar et al., NeurIPS 2010)."""
    return (losses < threshold).astype(float)


def weight_functions(entries: Sequence[Entry]) -> dict[str, Curves]:
    """Figure 1: MW-Net's weight function over epochs, at the strongest bias of each kind, of the lowest seed."""
    found: dict[str, Curves] = {}
    for table in ("1", "2", "3"):
        for column in columns_of(entries, table, "MW-Net"):
            run = select(entries, table, "MW-Net", column)[0]
            learned = curves(run.folder)
            kind = f"{column.dataset}, {column.bias.split()[0]}"
            if learned is not None and not any(name.startswith(kind) for name in found):
                found[str(column)] = learned
    return found


def confusion(entries: Sequence[Entry], table: str, row: str, column: Column) -> tuple[Floats, tuple[str, ...]] | None:
    """Figures 3 and 8 to 10: share of each true class (rows) that is taken for each class, over all seeds."""
    counts: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    for entry in select(entries, table, row, column):
        kept = last(entry.folder)
        if kept is not None and kept.confusion is not None:
            counts = kept.confusion if counts is None else counts + kept.confusion
            classes = kept.classes
    return None if counts is None else (rates(counts), classes)


def samples(entries: Sequence[Entry], table: str, row: str, column: Column) -> Samples | None:
    """Figure 5: losses and weights of all training samples in the last epoch, of the lowest seed that has them."""
    for entry in select(entries, table, row, column):
        kept = last(entry.folder)
        if kept is not None and kept.samples is not None and kept.samples.weights is not None:
            return kept.samples
    return None


def variation(kept: Watched) -> Variation:
    """Figure 6: of the watched samples with wrong labels; epochs in which one was left out count for nothing.

    Weights are taken relative to their mean in the epoch: methods differ in scale, and a common factor of all weights
    changes no direction of a step.
    """
    assert kept.clean is not None, "nobody knows which of these labels are wrong"
    wrong: Bools = ~kept.clean
    relative = kept.weights[:, wrong] / kept.means[:, None]
    moved = np.abs(np.diff(relative, axis=0))
    seen = np.isfinite(moved).sum(axis=0)
    mean = np.where(seen > 0, np.nansum(moved, axis=0) / np.maximum(seen, 1), np.nan)
    squares = np.nansum((moved - mean) ** 2, axis=0)
    return Variation(kept.index[wrong], mean, np.sqrt(squares / np.maximum(seen - 1, 1)))


def variations(entries: Sequence[Entry], table: str, column: Column) -> dict[str, Variation]:
    """Figure 6 for MW-Net and L2RW: the same samples of one seed."""
    found = {}
    for row in ("MW-Net", "L2RW"):
        for entry in select(entries, table, row, column)[:1]:
            kept = watched(entry.folder)
            if kept is not None and len(kept.epochs) > 1 and kept.clean is not None and not kept.clean.all():
                found[row] = variation(kept)
    return found


def band(entries: Sequence[Entry], name: str) -> Band | None:
    """A recorded number over the epochs that all of `entries` have, or None where none recorded it."""
    found = [columns(entry.run.records()) for entry in entries]
    lines = [(c["epoch"], c[name]) for c in found if name in c]
    if not lines:
        return None
    shortest = min(len(epochs) for epochs, _ in lines)
    values = np.stack([line[:shortest] for _, line in lines])
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(shortest)
    return Band(lines[0][0][:shortest].astype(np.int64), values.mean(axis=0), spread, len(values))


def bands(entries: Sequence[Entry], table: str, rows: Sequence[str], column: Column, name: str) -> Mapping[str, Band]:
    """One band per row that has the number (figure 7), in the order of `rows`."""
    found = ((row, band(select(entries, table, row, column), name)) for row in rows)
    return {row: line for row, line in found if line is not None}
