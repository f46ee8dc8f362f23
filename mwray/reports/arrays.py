"""The arrays that a run keeps for figures: weight curves, the last epoch's samples, a few samples over all epochs.

    curves.npz     weight functions (mwray/train/sinks/history.py)
    last.npz       "epoch", "confusion" [C, C], "classes" [C], and "loss", "weight", "clean" [N]
    watched.npz    "epochs" [E], "index" [S], "clean" [S], "weight" [E, S], "mean" [E]

The last two are written by mwray/train/sinks/arrays.py; "clean" is missing where nobody knows the true labels.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwray.records import RecordError
from mwray.reports.picture_data import Bools, Curves, Floats, Samples

LAST, WATCHED, CURVES = "last.npz", "watched.npz", "curves.npz"


@dataclass(frozen=True)
class Last:
    """The last epoch of a run."""

    epoch: int
    confusion: NDArray[np.int64] | None  # [C, C] on the test set: rows true, columns predicted
    classes: tuple[str, ...]
    samples: Samples | None


@dataclass(frozen=True)
class Watched:
    """Weights of a few training samples, the same ones in every epoch."""

    epochs: NDArray[np.int64]  # [E], finished epochs
    index: NDArray[np.int64]  # [S], positions in the training set
    clean: Bools | None  # [S]; None where nobody knows the true labels
    weights: Floats  # [E, S], as the method gave them; NaN where a sample was not visited
    means: Floats  # [E], mean weight of all samples in that epoch


def last(folder: Path) -> Last | None:
    """Read last.npz, or None where the run kept none."""
    file = _load(folder / LAST)
    if file is None:
        return None
    samples = Samples(file["loss"], _clean(file), file.get("weight")) if "loss" in file else None
    return Last(int(file["epoch"]), file.get("confusion"), tuple(map(str, file["classes"])), samples)


def watched(folder: Path) -> Watched | None:
    """Read watched.npz, or None where the run kept none."""
    file = _load(folder / WATCHED)
    if file is None:
        return None
    return Watched(file["epochs"], file["index"], _clean(file), file["weight"], file["mean"])


def curves(folder: Path) -> Curves | None:
    """The weight functions of curves.npz, or None where the method has none."""
    file = _load(folder / CURVES)
    if file is None or len(file["curve.epochs"]) == 0:
        return None
    return Curves(file["curve.epochs"], file["curve.loss"], file["curve.weight"])


def _clean(file: dict[str, NDArray[Any]]) -> Bools | None:
    return file["clean"].astype(bool) if "clean" in file else None


def _load(path: Path) -> dict[str, NDArray[Any]] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise RecordError(f"{path}: not readable ({error}); remove it, and figures do without it") from None
