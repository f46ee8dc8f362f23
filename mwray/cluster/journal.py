"""The file that a search's study is kept in: JSON lines, appended and synchronised, mended after a kill."""

from __future__ import annotations

import warnings
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mwray.space import Space

STUDY = "mwray"
"""The study's name within its file."""


def open_study(folder: Path, space: Space) -> optuna.Study:
    """The study in `folder`, or a new one; the caller holds the folder's lock."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.journal"
    _mend(path)
    direction = "maximize" if space.mode == "max" else "minimize"
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=STUDY,
        direction=direction,
        load_if_exists=True,
        pruner=_pruner(space),
    )


def _mend(path: Path) -> None:
    """Undo what a kill may leave: a last line cut short, which would spoil the next one, and a lock that nobody holds.

    Safe because the search's folder has one driver at a time (mwray.cluster.lock).
    """
    for lock in path.parent.glob(f"{path.name}.lock*"):
        lock.unlink(missing_ok=True)
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def _pruner(space: Space) -> optuna.pruners.BasePruner:
    """Optuna's own: their rungs are in the journal, so that stopping decisions survive a restart as trials do."""
    asha, median = space.pruner.asha, space.pruner.median
    epochs = space.base.epochs
    if asha is not None:
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=space.grace_period(asha.grace_period, epochs), reduction_factor=asha.reduction_factor
        )
    if median is not None:
        return optuna.pruners.MedianPruner(
            n_startup_trials=median.min_trials, n_warmup_steps=space.grace_period(median.grace_period, epochs)
        )
    return optuna.pruners.NopPruner()
