"""Bars of times, as the benchmarks draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes


def bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    colors: Sequence[str],
    form: str,
    title: str,
    *,
    spread: Sequence[Sequence[float]] | None = None,
    margin: float = 0.12,
) -> None:
    """One bar for each name, the first on top, its value (in `form`) at its end and `spread` as an error bar."""
    drawn = axes.barh(names, values, xerr=spread, color=colors, ecolor="#444444")
    axes.bar_label(drawn, [form.format(value) for value in values], padding=4, fontsize=8)
    axes.margins(x=margin)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def ratio_spread(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """From each row's ratio down to its lower quartile, and up to its upper one."""
    low = [row["ratio"] - row["ratio_quartiles"][0] for row in rows]
    return [low, [row["ratio_quartiles"][1] - row["ratio"] for row in rows]]
