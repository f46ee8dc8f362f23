"""Made-up finished runs that fill cells of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mwray.records import Run
from mwray.reports.cells import Cell, mark


def fill(root: Path, accuracy: float | None, **cell: Any) -> Path:
    """A run below `root` with this last test accuracy (None: started, not finished) in the cell described."""
    fields = {"table": "3", "preset": "paper", "dataset": "CIFAR-10", "bias": "flip 40 %", "seed": 0} | cell
    folder = root / "-".join(str(value).replace(" ", "_") for value in fields.values())
    run = Run(folder)
    run.start({"folder": folder.name, "epochs": 2}, {"host": "here", "command": "launch/tables.py --table 3"}, 0)
    mark(folder, Cell(**fields))
    if accuracy is not None:
        for epoch in (1, 2):
            run.append(record(epoch, accuracy))
        run.finish({"test.last": accuracy, "test.best": accuracy + 0.01, "seconds": 4.0})
    return folder


def record(epoch: int, accuracy: float) -> dict[str, float]:
    return {
        "epoch": epoch,
        "lr": 0.1,
        "train.loss": 2.0 / epoch,
        "train.meta_loss": 1.0 / epoch,
        "train.accuracy_observed": accuracy / 2,
        "test.accuracy": accuracy * epoch / 2,
        "seconds": 2.0,
    }
