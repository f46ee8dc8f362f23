"""Arrays that figures need of a run: confusion and samples of the last epoch, a few samples over all epochs.

`mwray.reports.arrays` says what the files hold, and reads them.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mwray.records import RecordError, write_atomically
from mwray.reports.arrays import LAST, WATCHED, watched
from mwray.train.sinks.base import RunInfo

logger = logging.getLogger("mwray")

WATCHED_EACH = 10
"""Samples of each kind that are followed: the paper's figure 6 shows ten wrongly labelled ones."""


class ArraysSink:
    """Writes watched.npz after every epoch (some hundred numbers) and last.npz after the last one."""

    def start(self, run: RunInfo) -> None:
        """Take up the watched samples of the epochs that are finished."""
        self.run = run
        self.index: np.ndarray | None = None
        self.clean: np.ndarray | None = None
        self.rows: dict[int, tuple[float, np.ndarray]] = {}
        self._resume()

    def step(self, epoch: int, step: int) -> None:
        """Do nothing."""

    def write(self, epoch: int, values: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the weights of the watched samples; after the last epoch, everything of it."""
        if "sample.weight" in arrays:
            self._watch(epoch, arrays)
        if epoch == self.run.epochs:
            _save(self.run.folder / LAST, _last(epoch, arrays, self.run.class_names))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing: all is written."""

    def close(self) -> None:
        """Do nothing."""

    def _resume(self) -> None:
        try:
            found = watched(self.run.folder) if self.run.first_epoch else None
        except (RecordError, KeyError) as error:
            logger.warning("%s; the weights of watched samples begin at epoch %d", error, self.run.first_epoch + 1)
            return
        if found is None:
            return
        self.index, self.clean = found.index, found.clean
        kept = zip(found.epochs, found.means, found.weights, strict=True)
        self.rows = {int(e): (float(mean), row) for e, mean, row in kept if e <= self.run.first_epoch}

    def _watch(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        weights = arrays["sample.weight"]
        if self.index is None:
            self.index = choose(arrays.get("sample.clean", np.ones(len(weights), bool)))
        self.clean = arrays["sample.clean"][self.index] if "sample.clean" in arrays else None
        mean = float(np.nanmean(weights)) if np.isfinite(weights).any() else float("nan")
        self.rows[epoch] = (mean, weights[self.index].astype(np.float32))
        _save(
            self.run.folder / WATCHED,
            {
                "epochs": np.array(list(self.rows)),
                "index": self.index,
                **({} if self.clean is None else {"clean": self.clean}),
                "weight": np.stack([row for _, row in self.rows.values()]),
                "mean": np.array([mean for mean, _ in self.rows.values()]),
            },
        )


def choose(clean: np.ndarray, each: int = WATCHED_EACH) -> np.ndarray:
    """Positions of `each` wrongly labelled samples, then of as many right ones, drawn at random but always alike.

    Two methods at one seed have the same training set, hence the same watched samples.
    """
    order = np.random.default_rng(0).permutation(len(clean))
    return np.concatenate([order[~clean[order]][:each], order[clean[order]][:each]])


def _last(epoch: int, arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    kept = {"sample.loss": "loss", "sample.weight": "weight", "sample.clean": "clean", "confusion": "confusion"}
    found = {short: arrays[name] for name, short in kept.items() if name in arrays}
    return {"epoch": np.array(epoch), "classes": np.array(classes, dtype=str), **found}


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())
