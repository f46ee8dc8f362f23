"""Runs that belong to no study, taken as if they did: figures of any trainings, told apart by their own settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mwray.records import RecordError, Run, files_below
from mwray.reports.cells import Cell, Entry
from mwray.reports.published import CIFAR10, CIFAR100

PRESET = "runs"
ROWS = {"base": "BaseModel", "mwnet": "MW-Net", "l2rw": "L2RW"}
"""The methods that the figures know by name; another goes by its own."""
DATASETS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def entries_of(folders: Iterable[Path]) -> list[Entry]:
    """Each run as a cell of the table that its bias belongs to: long tails 1, uniform noise 2, other noise 3.

    Raises:
        RecordError: a folder holds no finished run, or two are one seed of one method under one bias (it names both).
    """
    found: dict[Cell, Entry] = {}
    for folder in folders:
        run = Run(folder)
        if run.state != "done":
            raise RecordError(f"{folder}: holds no finished run (there is no file `done`)")
        entry = Entry(_cell(run.experiment()), folder)
        before = found.setdefault(entry.cell, entry)
        if before is not entry:
            raise RecordError(
                f"{before.folder} and {folder} are both seed {entry.cell.seed} of {entry.cell.row} under "
                f"{entry.cell.column}; give one of them"
            )
    return list(found.values())


def below(paths: Iterable[Path]) -> list[Path]:
    """Every finished run in or below the given folders, in order."""
    return [done.parent for path in paths for done in (files_below(path, "done") or [path / "done"])]


def _cell(settings: dict[str, Any]) -> Cell:
    data, method = settings["data"], settings["method"]["name"]
    bias = bias_text(**{name: data["bias"][name] for name in ("imbalance", "noise", "rate")})
    return Cell(
        table={"imbalance": "1", "uniform": "2"}.get(bias.split()[0], "3"),
        preset=PRESET,
        row=ROWS.get(method, method),
        dataset=DATASETS.get(data["source"], data["source"]),
        bias=bias,
        seed=settings["seed"],
    )


def bias_text(imbalance: float, noise: str, rate: float) -> str:
    """A bias as the columns of tables call it: "imbalance 100", "uniform 40 %", "flip 40 %", or a tail with noise."""
    kind = {"flip2": "flip", "none": "flip"}.get(noise, noise)
    said = f"{kind} {100 * rate:g} %"
    if imbalance == 1:
        return said
    return f"imbalance {imbalance:g}" + (f" with {said}" if rate else "")
