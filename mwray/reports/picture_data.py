"""The data of the pictures that `mwray.reports.draw` draws, computed apart from it: curves, shares, rates, columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Curves:
    """A weight function as it was after several epochs."""

    epochs: NDArray[np.int64]  # [E], finished epochs, rising
    losses: Floats  # [E, K], where it was evaluated, rising along K
    weights: Floats  # [E, K]

    def __len__(self) -> int:
        return len(self.epochs)


@dataclass(frozen=True)
class Samples:
    """What an epoch showed of every training sample; NaN where one was not visited."""

    losses: Floats  # [N], before the step that used it
    clean: Bools | None  # [N], whether the observed label is the true one; None where nobody knows
    weights: Floats | None = None  # [N], any scale; None: the method does not weight samples


@dataclass(frozen=True)
class Shares:
    """Histograms over common bins: which share of each kind of sample, 0..1, lies in each bin."""

    edges: Floats  # [B + 1]
    clean: Floats | None  # [B]; None where there is no such sample
    wrong: Floats | None  # [B]
    every: Floats | None = None  # [B], of all samples, where nobody knows which are which


def shares(values: Floats, clean: Bools | None, edges: Floats) -> Shares:
    """Histogram of `values` [N] over bins with `edges` [B + 1], for clean and for wrongly labelled samples apart.

    Of all samples together where nobody knows which are clean. NaN counts for nothing. Values outside the bins count
    in the whole all the same, so that shares need not sum to 1: a cut tail does not lift what is left.
    """
    visited = ~np.isnan(values)

    def share(chosen: Bools) -> Floats | None:
        return np.histogram(values[chosen], edges)[0] / chosen.sum() if chosen.any() else None

    if clean is None:
        return Shares(edges, None, None, share(visited))
    return Shares(edges, share(visited & clean), share(visited & ~clean))


def upper(values: Floats, quantile: float = 0.995) -> float:
    """Where an axis may end: the `quantile` of `values` without NaN, at least a little above 0 (a few outliers must not
    squeeze the rest)."""
    seen = values[np.isfinite(values)]
    return max(float(np.quantile(seen, quantile)), 1e-6) if len(seen) else 1.0


def relative(weights: Floats) -> Floats:
    """`weights` [N] over their mean: 1 is a sample that counts as much as the average one. All-zero ones stay zero."""
    seen = np.isfinite(weights)
    mean = float(weights[seen].mean()) if seen.any() else 0.0
    return weights / mean if mean > 0 else weights


def rates(confusion: NDArray[Any]) -> Floats:
    """Each row of counts [C, C] over its sum: the share of a true class that is taken for each class.

    A class without images has a row of NaN.
    """
    totals = confusion.sum(axis=1, keepdims=True)
    return np.divide(confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)


def chosen_epochs(epochs: Sequence[int] | NDArray[np.int64], most: int = 12) -> NDArray[np.int64]:
    """Positions of at most `most` of the epochs, evenly spread, with the first and the last among them."""
    return np.unique(np.linspace(0, len(epochs) - 1, min(most, len(epochs))).round().astype(np.int64))


def drops(epochs: Floats, rates_of_learning: Floats) -> Floats:
    """The places between two epochs at which the learning rate changed: [D], in units of finished epochs."""
    changed = np.flatnonzero(np.diff(rates_of_learning) != 0)
    return epochs[changed].astype(float)


def columns(records: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Per-epoch records as one array [E] per name, NaN where a record lacks it; only numbers are taken."""
    names = dict.fromkeys(name for record in records for name, value in record.items() if _is_number(value))
    return {name: np.array([_number(record.get(name)) for record in records]) for name in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else float("nan")
