"""What the pictures of a run need of its earlier epochs, kept in one small file so that a resumed run still has it."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mwray.records import write_atomically
from mwray.reports.picture_data import Curves, Floats, columns

logger = logging.getLogger("mwray")


class History:
    """Numbers and weight curves of the finished epochs, in memory and in a file of NumPy arrays.

    The file holds "epochs" [E], "names" [M], "values" [E, M] (NaN: not measured) and, for the epochs that have a weight
    curve, "curve.epochs" [F], "curve.loss" and "curve.weight" [F, K].
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self._curves: dict[int, tuple[Floats, Floats]] = {}

    def load(self, epochs: int) -> None:
        """Take the first `epochs` epochs from the file, if there is one.

        A damaged file costs the earlier epochs of the pictures, not the run: it is passed over with a warning.
        """
        if epochs == 0 or not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as file:
                self._take(dict(file), epochs)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            logger.warning("%s: not readable (%s); pictures begin at epoch %d", self.path, error, epochs + 1)

    def add(self, epoch: int, values: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> None:
        """Add a finished epoch and write the file."""
        self.records.append({**values, "epoch": epoch})
        if "curve.weight" in arrays:
            self._curves[epoch] = (arrays["curve.loss"].astype(np.float32), arrays["curve.weight"].astype(np.float32))
        self._save()

    def columns(self) -> dict[str, Floats]:
        """One array [E] per name, NaN where an epoch lacks it; "epoch" is one of them."""
        return columns(self.records)

    def curves(self) -> Curves | None:
        """The weight function after each epoch, or None where the method has none."""
        if not self._curves:
            return None
        losses, weights = (np.stack(part) for part in zip(*self._curves.values(), strict=True))
        return Curves(np.array(list(self._curves)), losses, weights)

    def _take(self, file: Mapping[str, np.ndarray], epochs: int) -> None:
        names = [str(name) for name in file["names"]]
        records = [
            {"epoch": int(epoch), **{name: float(x) for name, x in zip(names, row, strict=True) if not np.isnan(x)}}
            for epoch, row in zip(file["epochs"], file["values"], strict=True)
            if epoch <= epochs
        ]
        curves = zip(file["curve.epochs"], file["curve.loss"], file["curve.weight"], strict=True)
        self._curves = {int(epoch): (loss, weight) for epoch, loss, weight in curves if epoch <= epochs}
        self.records = records

    def _save(self) -> None:
        values = self.columns()
        names = [name for name in values if name != "epoch"]
        curves = self.curves() or Curves(np.zeros(0, int), np.zeros((0, 0)), np.zeros((0, 0)))
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            allow_pickle=False,
            **{
                "epochs": values["epoch"].astype(int),
                "names": np.array(names, dtype=str),
                "values": np.stack([values[name] for name in names], axis=1)
                if names
                else np.zeros((len(self.records), 0)),
                "curve.epochs": curves.epochs,
                "curve.loss": curves.losses,
                "curve.weight": curves.weights,
            },
        )
        write_atomically(self.path, buffer.getvalue())
