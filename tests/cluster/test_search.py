"""Real searches over a local Ray, small: two cores, digits, a few epochs."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from optuna.trial import TrialState

from mwray.cluster.journal import read_study
from mwray.cluster.search import search
from mwray.cluster.study import Study
from mwray.records import Run
from mwray.train.loop import train
from mwray.worker import LocalWorker
from tests.cluster import networks
from tests.cluster.helpers import SMALL, small, space

pytestmark = pytest.mark.usefixtures("marked_ray")


def starts(folder):
    """How often a run was started, and from which epochs."""
    return [entry["epoch"] for entry in json.loads((folder / "environment.json").read_text())]


def test_a_search_trains_every_trial_and_base_model_and_leaves_all_of_it(tmp_path, capsys):
    result = search(small(), tmp_path, display=True)
    assert result.finished and not result.interrupted
    assert [row.state for row in result.rows] == ["finished", "finished"]
    assert result.base.state == "finished"
    assert result.best.objective == max(row.objective for row in result.rows)
    for row in (*result.rows, result.base):
        run = Run(row.folder)
        assert [record["epoch"] for record in run.records()] == [1, 2]
        assert run.records()[-1]["validation.accuracy"] == row.validation
        assert list(row.folder.glob("events.out.tfevents.*"))
        assert list(row.folder.glob("checkpoint-000002-*.pt"))
    assert {row.folder.parent for row in result.rows} == {tmp_path / "trials"}
    assert json.loads((tmp_path / "space.json").read_text())["recipe"] == "digits"
    assert (tmp_path / "best.json").exists()
    assert not (tmp_path / "ray").exists()
    shown = capsys.readouterr().out
    assert "BaseModel" in shown and "tensorboard.main --logdir" in shown

    # A trial under Ray has the bits of one trained alone: the checkpoint's name carries its content's checksum.
    train(result.best.experiment, tmp_path / "alone", worker=LocalWorker("cpu"))
    alone = next((tmp_path / "alone").glob("checkpoint-000002-*.pt"))
    assert (result.best.folder / alone.name).exists()

    again = search(small(), tmp_path, display=False)  # shows what is there, and trains nothing
    assert again.rows == result.rows
    assert all(starts(row.folder) == [0] for row in again.rows)


def test_an_interrupted_search_goes_on_where_it_was_and_repeats_nothing(tmp_path):
    """SIGTERM after the first finished trial; Ctrl-C takes the same way."""
    whole = small(epochs=25, trials=3)
    stopper = threading.Thread(target=interrupt_after_first, args=(tmp_path,))
    stopper.start()
    first = search(whole, tmp_path, concurrency=1, display=False)  # or, with many cores, all would end at once
    stopper.join()
    assert first.interrupted and not first.finished
    finished = {row.number for row in first.rows if row.state == "finished"}
    assert finished and len(finished) < 3

    second = search(whole, tmp_path, display=False)
    assert second.finished
    assert sorted(row.number for row in second.rows) == [0, 1, 2]
    for row in second.rows:
        assert [record["epoch"] for record in Run(row.folder).records()] == list(range(1, 26))
        if row.number in finished:
            assert starts(row.folder) == [0]
    assert [entry.state for entry in Study(whole, tmp_path).entries()] == ["complete"] * 3


def interrupt_after_first(folder):
    """Send this process SIGTERM as soon as its search has heard that one trial is done."""
    deadline = time.monotonic() + 100
    while not any_heard_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def any_heard_of(folder):
    study = read_study(folder)
    return study is not None and any(trial.state == TrialState.COMPLETE for trial in study.get_trials())


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_is_started_again(tmp_path):
    result = search(small("dies_once"), tmp_path, display=False)
    assert os.path.exists(os.environ[networks.MARK])
    assert result.finished
    assert [row.state for row in (*result.rows, result.base)] == ["finished"] * 3


@pytest.mark.slow
def test_a_trial_whose_process_dies_each_time_fails_with_that_reason_and_the_search_ends(tmp_path):
    result = search(small("dies_always", trials=1), tmp_path, display=False)
    assert not result.finished and not result.interrupted
    assert [row.state for row in (*result.rows, result.base)] == ["failed"] * 2
    assert "died 3 times in a row in epoch 1" in result.rows[0].reason
    assert "is started again" in (tmp_path / "search.log").read_text()
    again = search(small("dies_always", trials=1), tmp_path, display=False)
    assert [row.number for row in again.rows] == [0]  # not tried again unless asked
    retried = search(small("dies_always", trials=1), tmp_path, display=False, retry_failed=True)
    assert [(row.number, row.state) for row in retried.rows] == [(1, "failed")]


def test_trials_that_all_fail_for_one_reason_end_the_search_with_that_reason(tmp_path, capsys):
    result = search(small("fails", trials=20), tmp_path, concurrency=1)
    assert not result.finished
    assert "LookupError" in result.stopped and "no weights for 10 classes" in result.stopped
    assert 3 <= len(result.rows) <= 4
    assert "networks.py" in json.loads((result.rows[0].folder / "failure.json").read_text())["traceback"]
    shown = capsys.readouterr().out
    assert "giving up" in shown and "failure.json" in shown


@pytest.mark.slow
def test_hopeless_trials_are_stopped_early_and_the_actor_goes_on_with_the_next(tmp_path):
    # Rates that learn nothing after a good start: the first rung must stop them.
    points = [{"optimizer.lr": rate, "method.weight_net.shape": "1-50-1"} for rate in (0.1, 1e-6, 2e-6, 3e-6)]
    search_over = {**SMALL, "optimizer.lr": {"float": [1e-6, 0.2], "log": True}}
    fixed = {"epochs": 20, "optimizer.milestones": [], "model.name": "tests.cluster.networks:plain"}
    asha = {"asha": {"grace_period": 2, "reduction_factor": 2}}
    hopeless = space(search_over, set=fixed, trials=4, start=points, pruner=asha)
    result = search(hopeless, tmp_path, display=False, concurrency=1)
    assert result.finished
    assert result.best.number == 0
    assert [row.state for row in result.rows] == ["finished", *["pruned"] * 3]
    assert all(row.epoch < 20 for row in result.rows[1:])
