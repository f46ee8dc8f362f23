"""Which cell of which table a run belongs to: a small file in the run's own folder.

    cell-<digest>.json    {"table": "3", "preset": "paper", "row": "MW-Net", "dataset": "CIFAR-10", ...}

A run that serves several tables has several of these. Nothing else ties runs to tables, so the runs of several machines
are put together by copying their folders into one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mwray.records import RecordError, Run, files_below, read_whole, write_atomically
from mwray.reports.published import Column

NAME = re.compile(r"\w[\w .+=-]*")
"""Tables and presets, by which files of a report are called: the cell of a copied folder must not lead out of it."""


@dataclass(frozen=True)
class Cell:
    """One seed of one cell of a table that we fill."""

    table: str  # "1" ... "6", or a figure that has runs of its own ("figure 4")
    preset: str
    row: str
    dataset: str
    bias: str
    seed: int
    beside: str = ""
    """The paper's row that it is held beside, where that has another name."""

    @property
    def column(self) -> Column:
        """Data set and bias."""
        return Column(self.dataset, self.bias)


@dataclass(frozen=True)
class Entry:
    """A run and one of its places."""

    cell: Cell
    folder: Path

    @property
    def run(self) -> Run:
        """The run's records."""
        return Run(self.folder)


def mark(folder: Path, cell: Cell) -> None:
    """Say in the run's folder that it fills `cell`; saying it again changes nothing."""
    text = json.dumps(asdict(cell), indent=1, sort_keys=True) + "\n"
    path = folder / f"cell-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not path.exists():
        write_atomically(path, text.encode())


def find(root: Path) -> list[Entry]:
    """Every place that the runs below `root` fill, sorted by table, preset, row, column and seed.

    Raises:
        RecordError: a cell file cannot be read, or two folders claim one cell (the message names them).
    """
    found: dict[Cell, Entry] = {}
    for entry in _entries(root):
        before = found.setdefault(entry.cell, entry)
        if before is not entry:
            raise RecordError(
                f"{before.folder} and {entry.folder} both are seed {entry.cell.seed} of {entry.cell.row} in table "
                f"{entry.cell.table} ({entry.cell.column}, preset {entry.cell.preset}); move one of them elsewhere"
            )
    return sorted(
        found.values(), key=lambda e: (e.cell.table, e.cell.preset, e.cell.row, str(e.cell.column), e.cell.seed)
    )


def _entries(root: Path) -> Iterator[Entry]:
    for path in files_below(root, "cell-*.json"):
        data = read_whole(path)
        if data is None:  # removed a moment ago
            continue
        try:
            cell = Cell(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise RecordError(f"{path}: does not name the cell of a table ({error})") from None
        for name in (cell.table, cell.preset):
            if not NAME.fullmatch(str(name)):
                raise RecordError(f"{path}: {name!r} cannot be the name of a table or preset; files are called by it")
        yield Entry(cell, path.parent)
