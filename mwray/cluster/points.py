"""The points of a search that trains each at several seeds: mean and spread of what their trials came to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mwray.cluster.leaderboard import Row

SEED = "seed"


@dataclass(frozen=True)
class Point:
    """One setting and its finished trainings, which differ in the seed alone."""

    values: Mapping[str, Any]
    """By dotted name, without the seed."""
    rows: tuple[Row, ...]
    """By rising seed; at least one."""

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.rows)

    @property
    def label(self) -> str:
        """Its trials, as a reader calls them."""
        return " ".join(dict.fromkeys(row.label for row in self.rows))

    def flat(self) -> dict[str, Any]:
        """One line of a table."""
        line: dict[str, Any] = {**self.values, "seeds": self.n}
        for name in ("objective", "validation", "test"):
            mean, spread = self.of(name) or (None, None)
            line |= {f"{name}.mean": mean, f"{name}.sd": spread}
        return line | {"trials": self.label}

    def of(self, name: str) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation (None for one seed) of "objective", "validation" or "test"."""
        found = [value for row in self.rows if (value := getattr(row, name)) is not None]
        if not found:
            return None
        return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None


def points(rows: Sequence[Row], mode: str) -> tuple[Point, ...]:
    """The points of the finished trials, best mean objective first; those with fewer seeds behind those with more.

    A point at one lucky seed must not win over one that has been tried at all of them.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.state == "finished" and row.number is not None:
            found.setdefault(json.dumps(_point(row), sort_keys=True), []).append(row)
    sign = -1 if mode == "max" else 1

    def place(point: Point) -> tuple[int, float, int]:
        objective = point.of("objective")
        return -point.n, sign * objective[0] if objective else float("inf"), point.rows[0].number or 0

    built = [
        Point(_point(rows[0]), tuple(sorted(rows, key=lambda row: row.experiment.seed))) for rows in found.values()
    ]
    return tuple(sorted(built, key=place))


def spread_text(found: tuple[float, float | None] | None) -> str:
    """Mean and standard deviation of an accuracy, in per cent."""
    if found is None:
        return "-"
    mean, spread = found
    return f"{100 * mean:.1f}" if spread is None else f"{100 * mean:.1f} +- {100 * spread:.1f}"


def _point(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.values.items() if name != SEED}
