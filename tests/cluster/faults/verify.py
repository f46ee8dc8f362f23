"""What must hold of a search that was killed many times: the campaign's assertions."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mwray.cluster.connect import connected
from mwray.cluster.trainer import fit
from mwray.config import read
from mwray.experiment import Experiment
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.loop import train
from mwray.worker import LocalWorker
from tests.cluster.faults.harness import Search, Tally, starts

TIMES = ("seconds", "images_per_second", "exchange.seconds_per_step")
"""Of a record: what no two runs share."""


def verify(search: Search, tally: Tally, *, workers: int = 1) -> None:
    """Raise AssertionError unless nothing was lost; add what it cost to `tally`."""
    runs = search.runs()
    assert len(runs) == search.trials + 1, f"{len(runs)} runs\n{search.tail()}"  # BaseModel is the one more
    _every_trial_is_in_the_study_once(search)
    for path in runs:
        records = Run(path).records()
        assert [record["epoch"] for record in records] == list(range(1, search.epochs + 1)), path
        assert Run(path).state == "done"
        assert not list(path.glob(".*.part")), "half-written files"
    again = _epochs_again(search)
    assert max(again.values(), default=0) <= 1, f"more than one checkpoint interval lost: {again}"
    tally.epochs_again += sum(again.values())
    tally.most_again = max([tally.most_again, *again.values()])
    _every_run_has_the_bits_of_one_that_was_left_alone(search, workers)
    tally.searches += 1
    tally.times += len(search.kills)


def _epochs_again(search: Search) -> dict[tuple[Path, int], int]:
    """By run and start, the epochs that were on the disk before it and were trained again."""
    again: dict[tuple[Path, int], int] = {}
    for look in [*search.kills, *search.warned]:
        for path, seen in look.items():
            if seen.done is not None:
                assert (path / "done").read_bytes() == seen.done, f"{path} was finished and is another now"
                assert len(starts(path)) == seen.starts, f"{path} was finished and ran again"
            elif len(starts(path)) > seen.starts:
                start = (path, seen.starts)
                again[start] = max(again.get(start, 0), seen.epoch - starts(path)[seen.starts])
    return again


def _every_trial_is_in_the_study_once(search: Search) -> None:
    """Read by Optuna's own file backend, as optuna-dashboard does."""
    storage = JournalStorage(JournalFileBackend(str(search.folder / "study.journal")))
    trials = optuna.load_study(study_name="mwray", storage=storage).get_trials()
    assert [(trial.number, trial.state) for trial in trials] == [
        (number, TrialState.COMPLETE) for number in range(search.trials)
    ], search.tail()
    for trial in trials:
        (folder,) = search.folder.glob(f"trials/{trial.number:04d}-*")
        assert trial.value == Run(folder).records()[-1]["validation.accuracy"]
        assert sorted(trial.intermediate_values) == list(range(1, search.epochs + 1))


def _every_run_has_the_bits_of_one_that_was_left_alone(search: Search, workers: int) -> None:
    with connected(None) if workers > 1 else nullcontext():  # one Ray for all of them
        for path in search.runs():
            experiment = read(Experiment, Run(path).experiment())
            alone = search.folder.parent / f"{search.folder.name}-alone" / path.name
            if workers > 1:
                fit(experiment, alone, workers)
            else:
                train(experiment, alone, worker=LocalWorker("cpu"))
            # A checkpoint's name carries the checksum of all that is in it.
            assert _newest(path) == _newest(alone), path
            assert [_measured(r) for r in Run(path).records()] == [_measured(r) for r in Run(alone).records()]


def _newest(folder: Path) -> str:
    return checkpoint.files(folder)[0].name


def _measured(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in TIMES}
