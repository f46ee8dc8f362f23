"""Is one method better than another, or luckier? Paired tests over seeds.

Methods at one seed share split, noise, first network and order of batches, so their difference at a seed is one
observation. The paired t-test assumes that differences are about normal; the Wilcoxon signed-rank test does not, but
cannot fall below 2^(1 - n): with 5 seeds 0.0625 is the least that it can say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from mwray.reports.published import TRANSFERRED, Column
from mwray.reports.tables import Table

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """One method against another in one column, over the seeds that both have."""

    row: str
    against: str
    column: Column
    n: int
    difference: float
    """Mean of row minus against, in points."""
    interval: tuple[float, float]
    """95 % confidence interval of that mean, by the t-distribution."""
    t_p: float
    """Two-sided p of the paired t-test."""
    wilcoxon_p: float
    """Two-sided p of the Wilcoxon signed-rank test, exact for up to 50 seeds without ties (SciPy's choice)."""
    adjusted_p: float
    """t_p under Benjamini and Hochberg's (1995) control of the false discovery rate over all pairs of one table."""


def paired(differences: Sequence[float]) -> tuple[tuple[float, float], float, float]:
    """Confidence interval of the mean, p of the paired t-test, p of Wilcoxon's test, for n >= 2 differences.

    Differences that are all alike have no spread for a t-test to go by: the interval is a point, and Wilcoxon's p
    stands in for the other (1 where they are zero).
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        raise ValueError(f"a paired test needs two seeds or more, and {len(values)} was given")
    if not values.any():
        return (0.0, 0.0), 1.0, 1.0
    wilcoxon = float(stats.wilcoxon(values).pvalue)
    if np.ptp(values) == 0:
        return (float(values[0]), float(values[0])), wilcoxon, wilcoxon
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return (float(low), float(high)), float(test.pvalue), wilcoxon


def subject(table: Table) -> str | None:
    """The row that a table is about: the transferred weight net, MW-Net, or the paper's own shape of its weight net."""
    there = [row for row in table.rows if any(table.cells[row, column].ours for column in table.columns)]
    transferred = [row for row in there if row.startswith(TRANSFERRED)]
    return next((row for row in (*transferred, "MW-Net", "mwnet", "1-100-1") if row in there), None)


def compare(table: Table, row: str | None = None) -> list[Paired]:
    """`row` (None: the one that the table is about) against every other, where they share two seeds or more."""
    row = row or subject(table)
    if row is None:
        return []
    found = [
        _pair(table, row, other, column)
        for other in table.rows
        if other != row and row in table.rows
        for column in table.columns
    ]
    pairs = [pair for pair in found if pair is not None]
    if not pairs:
        return []
    adjusted = stats.false_discovery_control([pair.t_p for pair in pairs])
    return [replace(pair, adjusted_p=float(p)) for pair, p in zip(pairs, adjusted, strict=True)]


def _pair(table: Table, row: str, against: str, column: Column) -> Paired | None:
    mine, theirs = table.cells[row, column].ours, table.cells[against, column].ours
    if mine is None or theirs is None:
        return None
    seeds = sorted(mine.by_seed.keys() & theirs.by_seed.keys())
    if len(seeds) < 2:
        return None
    differences = [mine.by_seed[seed] - theirs.by_seed[seed] for seed in seeds]
    interval, t_p, wilcoxon_p = paired(differences)
    mean = float(np.mean(differences))
    return Paired(row, against, column, len(seeds), mean, interval, t_p, wilcoxon_p, t_p)
