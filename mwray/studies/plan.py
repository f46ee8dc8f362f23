"""From a study to the trainings that fill it: which cells, which experiments, which folders, how long it may take.

    <root>/<preset>/<what>-<method>-seed<n>-<fingerprint>/

A folder is named by its experiment, so cells of several tables that are one experiment share one run, and runs of other
machines are merged by copying their folders.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mwray.config import ConfigError, fingerprint, leaves, names, nearest, override, refuse_chosen
from mwray.experiment import Experiment
from mwray.reports.cells import Cell, mark
from mwray.studies.presets import PRESETS, Bias, Preset, stretch
from mwray.studies.tables import MWNET, STUDIES, Row, Study

SOURCE_SEED = 1000
"""Added to the seed where a weight net is carried within one data set: it is learned on another split and noise."""

CHOSEN = {"method.name": "--rows", "seed": "--seeds", "data.source": "--preset", "data.bias": "--columns"}
"""What a table's rows, columns and seeds are, and no setting of all of them."""


@dataclass(frozen=True)
class Training:
    """One run to be had, and the cells that it fills. With a source it is `experiment` only once that has finished."""

    experiment: Experiment
    folder: Path
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Pending:
    """A cell whose experiment needs the weight net that `source` learns."""

    source: Training
    column: Experiment
    row: Row
    preset: Preset
    cell: Cell
    root: Path

    def training(self, shape: str, parameters: Sequence[float], file: str) -> Training:
        """The training, now that the weight net is there.

        Its parameters are part of the fingerprint; a trajectory is too long for that, so the name of its file is, which
        is made of its content.
        """
        found: dict[str, Any] = {"method.shape": shape, "method.parameters": list(parameters)}
        if self.row.values.get("method.use") == "trajectory":
            found = {"method.file": file}
        row = replace(self.row, values={**self.row.values, **found})
        experiment = replace(row.experiment(self.column, self.preset), seed=self.cell.seed)
        return Training(experiment, self.root / folder_name(experiment), (self.cell,))


@dataclass(frozen=True)
class Plan:
    """All that a study needs: trainings that can start, and those that wait for a weight net."""

    name: str
    preset: str
    root: Path
    """Where the runs of this preset (with these overrides) are."""
    trainings: tuple[Training, ...]
    pending: tuple[Pending, ...] = ()
    impossible: tuple[str, ...] = ()
    """Columns that the data set has too few images for."""

    @property
    def total(self) -> int:
        """Trainings in all."""
        return len(self.trainings) + len(self.pending)


def plan(
    table: str,
    preset: str,
    root: Path,
    *,
    seeds: int | Sequence[int] = 5,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Plan:
    """Lay out a study.

    Args:
        table: a name of STUDIES.
        preset: a name of PRESETS.
        root: the folder of all studies.
        seeds: these, or with a number n, 0 .. n - 1.
        rows, columns: only these, by name or by some of its words ("40" is every column at 40 %); none: all.
        values: further settings of every experiment, by dotted name; they get a folder of their own. With "epochs" the
            schedule's drops move along.

    Raises:
        ConfigError: a name is not known, or a setting impossible. Nothing is started or written before.
    """
    study, size = _known("--table", table, STUDIES), _known("--preset", preset, PRESETS)
    chosen = _chosen("--rows", rows, {row.name: row for row in study.rows}, study)
    places = {f"{dataset}, {bias}": (dataset, bias) for dataset, bias in study.columns(size)}
    values = dict(values or {})
    refuse_chosen(values, CHOSEN)
    layout = _Layout(study, size, variant(preset, values), root / variant(preset, values), values)
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    trainings: dict[Path, Training] = {}
    pending, impossible = [], []
    for dataset, bias in _chosen("--columns", columns, places, study):
        if not size.possible(dataset, Bias.of(bias)):
            impossible.append(f"{dataset}, {bias}")
            continue
        column = layout.column(dataset, bias)
        for row in chosen:
            for found in layout.trainings(row, dataset, bias, column, numbers):
                if isinstance(found, Pending):
                    pending.append(found)
                _merge(trainings, found.source if isinstance(found, Pending) else found)
    return Plan(table, layout.preset, layout.root, tuple(trainings.values()), tuple(pending), tuple(impossible))


@dataclass(frozen=True)
class _Layout:
    """How one cell becomes a training."""

    study: Study
    size: Preset
    preset: str
    root: Path
    values: Mapping[str, Any]

    def column(self, dataset: str, bias: str) -> Experiment:
        """The experiment that the rows of a column start from."""
        values = {name: value for name, value in self.values.items() if not name.startswith("method.")}
        return with_values(self.size.experiment(dataset, Bias.of(bias)), values)

    def trainings(
        self, row: Row, dataset: str, bias: str, column: Experiment, seeds: Sequence[int]
    ) -> Iterator[Training | Pending]:
        """Those of one cell, one for each seed."""
        cells = [Cell(self.study.name, self.preset, row.name, dataset, bias, seed, row.beside) for seed in seeds]
        if row.method == "frozen":
            learned, shift = self._source(bias)
            for cell in cells:
                source = self._training(learned, cell.seed + shift, ())
                yield Pending(source, column, row, self.size, cell, self.root)
            return
        experiment = self._with_method_values(row.experiment(column, self.size))
        for cell in cells:
            yield self._training(experiment, cell.seed, (cell,))

    def _training(self, experiment: Experiment, seed: int, cells: tuple[Cell, ...]) -> Training:
        seeded = replace(experiment, seed=seed)
        return Training(seeded, self.root / folder_name(seeded), cells)

    def _source(self, bias: str) -> tuple[Experiment, int]:
        """MW-Net on the preset's first data set under the same bias, and how much is added to its seed."""
        datasets = list(self.size.datasets)
        column = self.column(datasets[0], bias)
        experiment = self._with_method_values(MWNET.experiment(column, self.size))
        return experiment, SOURCE_SEED if len(datasets) == 1 else 0

    def _with_method_values(self, experiment: Experiment) -> Experiment:
        return with_values(experiment, {name: v for name, v in self.values.items() if name.startswith("method.")})


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """`experiment` with `values` set: a method's own field where it has it, and with "epochs" the schedule stretched.

    Raises:
        ConfigError: a name is not known, or a value impossible.
    """
    known = leaves(experiment)
    for name in values:
        if name not in known and name not in _all_names():
            raise ConfigError(f"{name}: there is no such field.{nearest(name, list(_all_names()))}")
    meant = {name: value for name, value in values.items() if not name.startswith("method.") or name in known}
    epochs = meant.get("epochs")
    if isinstance(epochs, int) and epochs > 0 and "optimizer.milestones" not in meant:
        experiment = stretch(experiment, epochs)
    return override(experiment, meant) if meant else experiment


@functools.cache
def _all_names() -> tuple[str, ...]:
    return tuple(names(Experiment))


def variant(preset: str, values: Mapping[str, Any]) -> str:
    """The preset's name with what was changed: runs with other settings are never mixed in one table."""
    changed = "+".join(f"{name}={value}" for name, value in sorted(values.items()))
    return plain(f"{preset}+{changed}" if changed else preset)


def plain(text: str) -> str:
    """`text` as files may be called by it."""
    return "".join(letter if letter.isalnum() or letter in "+=.-_" else "_" for letter in text)


def folder_name(experiment: Experiment) -> str:
    """What a person looks for first - data, bias, method, seed - then the fingerprint that makes it unique."""
    bias, method = experiment.data.bias, experiment.method
    parts: list[str] = [plain(experiment.data.source)]
    if bias.imbalance > 1:
        parts.append(f"imbalance{bias.imbalance:g}")
    parts.append(f"{bias.noise}_{100 * bias.rate:g}" if bias.rate else "clean" if bias.imbalance == 1 else "")
    shape = leaves(experiment).get("method.weight_net.shape")
    parts += [experiment.model.name.replace(":", "."), method.name, f"net{shape}" if shape else ""]
    return "-".join(part for part in [*parts, f"seed{experiment.seed}", fingerprint(experiment)] if part)


def prepare(trainings: Iterable[Training]) -> None:
    """Say in every run's folder which cells it fills."""
    for training in trainings:
        for cell in training.cells:
            mark(training.folder, cell)


def _merge(trainings: dict[Path, Training], found: Training) -> None:
    before = trainings.get(found.folder)
    cells = found.cells if before is None else tuple(dict.fromkeys(before.cells + found.cells))
    trainings[found.folder] = replace(found, cells=cells)


def _known(option: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise ConfigError(f"{option} {name!r} is not known.{nearest(name, list(table))} Known: {', '.join(table)}")
    return table[name]


def _chosen(option: str, asked: Sequence[str], known: Mapping[str, Any], study: Study) -> list[Any]:
    """The values of the names asked for, in the table's order; every word of what was asked must be in the name."""
    if not asked:
        return list(known.values())
    found: dict[str, None] = {}
    for text in asked:
        same = [name for name in known if name.lower() == text.lower()]
        hits = same or [name for name in known if _words(text) <= _words(name)]
        if not hits:
            hint = nearest(text, list(known))
            raise ConfigError(f"{option} {text!r} is not in table {study.name}.{hint} There are: {'; '.join(known)}")
        found |= dict.fromkeys(hits)
    return [value for name, value in known.items() if name in found]


def _words(text: str) -> set[str]:
    return set(text.lower().replace(",", " ").replace("%", " ").split())
