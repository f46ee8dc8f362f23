"""Feature vectors: what may be given for them, and the mean and deviation by which they are normalised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwray.data.parts import array, wrong

NEEDED = "float32 (or float16, float64) [N, D], a row for each sample, N and D above 0"
AT_ONCE = 1 << 22
"""Numbers that are looked at together: some tens of megabytes, of however large an array."""


def vectors(name: str, part: str, given: Any) -> NDArray[np.float32]:
    """Feature vectors float32 [N, D]; those that are so already are not copied, and may be memory-mapped.

    Raises:
        ConfigError: they are of another type or shape, or one is not finite in float32: names `part`, row and column.
    """
    if hasattr(given, "toarray"):  # SciPy's sparse formats
        found = f"is a sparse {type(given).__name__}"
        raise wrong(name, part, found, NEEDED + " (its toarray(); of very many columns reduce them first)")
    if np.ma.is_masked(given):
        raise wrong(name, part, "is a masked array with masked numbers", NEEDED + ", none of them missing")
    features = array(name, part, given, NEEDED)
    usable = features.dtype.kind == "f" and features.dtype.itemsize in (2, 4, 8)
    if not usable or features.ndim != 2 or 0 in features.shape:
        raise wrong(name, part, f"is {features.dtype} {list(features.shape)}", NEEDED + _hint(features))
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told below
        held = np.require(features, np.float32, ["C"])
    place = not_finite(held)
    if place is not None:
        raise wrong(
            name,
            part,
            f"holds {features[place]} in row {place[0]}, column {place[1]}",
            "finite numbers, neither NaN nor inf, that float32 can hold (fill in what is missing, or leave the row or "
            "the column out)",
        )
    return held


def not_finite(features: NDArray[Any]) -> tuple[int, int] | None:
    """Row and column of the first number of `features` [N, D] that is NaN, or infinite in float32; None: none is."""
    for start, part in _some(features):
        with np.errstate(over="ignore"):
            finite = np.isfinite(part.astype(np.float32, copy=False))
        if not finite.all():
            row, column = np.argwhere(~finite)[0].tolist()
            return start + row, column
    return None


def statistics(features: NDArray[np.float32]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column of `features` [N, D], computed in float64.

    The deviation of a column that never varies is infinite: normalised it is 0, also where a later vector has another
    value there. Nothing can be learned from it, and the weights that would multiply it stay as they were drawn.
    """
    count, columns = features.shape
    total, squares = np.zeros(columns), np.zeros(columns)
    low, high = features[0].copy(), features[0].copy()
    for _, part in _some(features):
        total += part.sum(0, np.float64)
        np.minimum(low, part.min(0), out=low)
        np.maximum(high, part.max(0), out=high)
    mean = np.where(low == high, low, total / count)  # a sum of equal numbers need not divide to that number
    for _, part in _some(features):
        squares += np.square(part - mean).sum(0)
    std = np.where(low == high, np.inf, np.sqrt(squares / count))
    return tuple(mean.tolist()), tuple(std.tolist())


def _some(features: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Some rows at a time, each with the number of its first one."""
    rows = max(1, AT_ONCE // features.shape[1])
    for start in range(0, len(features), rows):
        yield start, features[start : start + rows]


def _hint(features: NDArray[Any]) -> str:
    if features.ndim == 2 and features.dtype.kind in "iub":
        return "; whole numbers are refused since they may be codes: of codes make columns of 0 and 1, else astype"
    if features.ndim > 2:
        return "; images are for mwray.data.own.OwnData, other arrays for reshape(len(x), -1)"
    return ""
