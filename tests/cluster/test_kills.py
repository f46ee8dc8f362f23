"""A search's memory - study, records, checkpoints - under SIGKILL at random milliseconds, in seconds: without Ray.

A forked child does what driver and trial do: it locks the folder, asks the study, trains, tells. The parent kills it
again and again. `make test-faults` does the same to real searches, process by process.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

import pytest

from mwray.cluster.journal import read_study
from mwray.cluster.study import Study, objective_of
from mwray.lock import locked
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.loop import train
from mwray.train.sinks.arrays import ArraysSink
from mwray.worker import LocalWorker
from tests.cluster.faults.harness import starts
from tests.cluster.helpers import space

KILLS = int(os.environ.get("MWRAY_KILLS") or 20)
TRIALS, EPOCHS = 4, 8


def searched():
    """Four trainings of some tens of milliseconds an epoch."""
    fixed = {"epochs": EPOCHS, "optimizer.milestones": [6], "model.name": "tests.cluster.networks:plain"}
    fixed |= {"data.num_train": 300, "data.num_meta": 20, "data.num_test": 50, "data.num_validation": 50}
    search = {"optimizer.lr": {"float": [0.02, 0.2], "log": True}}
    return space(search, set=fixed, trials=TRIALS, start=[])


def drive(folder):
    """Driver and trial in one process."""
    with locked(folder, wait=10.0):
        study = Study(searched(), folder)
        while (proposal := study.next()) is not None:
            train(proposal.experiment, proposal.folder, worker=Telling(study, proposal.number), sinks=[ArraysSink()])
            study.finish(proposal.number, objective_of(proposal.folder, study.space.metric))


class Telling(LocalWorker):
    """Reports every epoch to the study."""

    def __init__(self, study, number):
        super().__init__("cpu")
        self.study, self.number = study, number

    def report(self, values, checkpoint):
        self.study.report(self.number, values["epoch"], values["validation.accuracy"])


def snapshot(folder):
    """Of every run: its finished epochs, how often it was started, and whether it was done."""
    return {run: (len(Run(run).records()), len(starts(run)), (run / "done").exists()) for run in runs(folder)}


def wait_for_an_epoch(child, folder):
    """Until there is one more on the disk, or the child has ended."""
    before = sum(epochs for epochs, _, _ in snapshot(folder).values())
    while child.exitcode is None and sum(epochs for epochs, _, _ in snapshot(folder).values()) == before:
        child.join(0.005)


def runs(folder):
    return sorted(path.parent for path in folder.glob("trials/*/experiment.json"))


def kill_and_go_on(folder, chance):
    """Start the child until it ends by itself, killing it on the way; returns what was seen at each kill."""
    fork, seen = multiprocessing.get_context("fork"), []
    while True:
        child = fork.Process(target=drive, args=(folder,))
        child.start()
        if len(seen) < KILLS:
            if chance.random() < 0.5:  # else perhaps before it has done anything
                wait_for_an_epoch(child, folder)
            child.join(chance.uniform(0.0, 0.2))
            if child.exitcode is None:
                seen.append(snapshot(folder))
                os.kill(child.pid, signal.SIGKILL)
        child.join(240)
        assert child.exitcode in (0, -signal.SIGKILL)
        if child.exitcode == 0:
            return seen


@pytest.mark.parametrize("seed", range(max(1, KILLS // 200)))
def test_nothing_is_lost_or_done_twice_however_often_it_is_killed(tmp_path, seed):
    chance, kills, began = random.Random(seed), 0, time.monotonic()
    number = 0
    while kills < KILLS:
        folder = tmp_path / str(number)
        seen = kill_and_go_on(folder, chance)
        kills, number = kills + len(seen), number + 1
        study = read_study(folder)
        assert [(trial.number, trial.state.name) for trial in study.get_trials()] == [
            (n, "COMPLETE") for n in range(TRIALS)
        ]
        for trial, run in zip(study.get_trials(), runs(folder), strict=True):
            records = Run(run).records()
            assert [record["epoch"] for record in records] == list(range(1, EPOCHS + 1))
            assert trial.value == records[-1]["validation.accuracy"]
            told = {record["epoch"]: record["validation.accuracy"] for record in records}
            assert trial.intermediate_values == told
            assert not list(run.glob(".*.part"))
        for kill in seen:
            for run, (epochs, count, done) in kill.items():
                if done:
                    assert len(starts(run)) == count, "a finished trial ran again"
                elif len(starts(run)) > count:
                    assert starts(run)[count] >= epochs - 1, "more than one checkpoint interval was lost"
        if number == 1:
            same_bits_as_alone(folder, tmp_path / "alone")
    print(f"{kills} kills in {number} searches, {time.monotonic() - began:.1f} s")


def same_bits_as_alone(folder, alone):
    """Hold every run's last checkpoint, whose name carries its checksum, to that of a run that nobody killed."""
    for trial, run in zip(read_study(folder).get_trials(), runs(folder), strict=True):
        train(searched().experiment(trial.params), alone / run.name, worker=LocalWorker("cpu"))
        assert checkpoint.files(run)[0].name == checkpoint.files(alone / run.name)[0].name
