"""Searches whose trials have two workers, over a local Ray (slow): one group for all, whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from mwray.cluster.search import search
from mwray.cluster.trainer import fit
from mwray.records import Run
from mwray.train import checkpoint
from tests.cluster import networks
from tests.cluster.helpers import space
from tests.cluster.test_search import interrupt_after_first, starts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRIAL = "ResourceTrainable"
"""What Ray Tune calls a trial's process."""
CLASSES = ("RayTrainWorker", "TrainController", "Desk", TRIAL)


@pytest.fixture(scope="module", autouse=True)
def mark(tmp_path_factory):
    """The mark's path has to be in the environment before Ray's processes start."""
    path = tmp_path_factory.mktemp("mark") / "died"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(networks.MARK, str(path))
        yield path


@pytest.fixture(scope="module", autouse=True)
def one_ray(mark, local_ray):
    """All tests here share one Ray."""


def actors(kind, alive=False):
    """Process numbers of Ray's actors of a class by their names: all that there ever were or those that live."""
    import ray
    from ray.util.state import list_actors

    here = ray.get_runtime_context().gcs_address  # other tests may have a Ray of their own on this machine
    seen = list_actors(here, filters=[("state", "!=", "DEAD")] if alive else None, limit=1000)
    return {found.actor_id: found.pid for found in seen if found.class_name.endswith(kind)}


@pytest.fixture(autouse=True)
def others():
    """What lives already when a test begins: the controller of a `fit` stays as long as its caller."""
    return {name for kind in CLASSES for name in actors(kind, alive=True)}


def wait_until_all_are_gone(others):
    deadline = time.monotonic() + 60
    while left := {name for kind in CLASSES for name in actors(kind, alive=True)} - others:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def searched(network="plain", epochs=2, **changes):
    """Points over digits; BaseModel is the method, so nothing else is trained."""
    fixed = {"epochs": epochs, "optimizer.milestones": [], "method.name": "base", "model.name": named(network)}
    over = {"optimizer.lr": {"float": [1e-6, 0.2], "log": True}, **changes.pop("search", {})}
    return space(over, **{"set": fixed, "trials": 2, **changes})


def named(network):
    return f"tests.cluster.networks:{network}"


def rates(*values, **more):
    return [{"optimizer.lr": value, **more} for value in values]


def test_one_group_trains_and_stops_trials_with_the_bits_of_a_group_for_each(tmp_path, others):
    before = set(actors("RayTrainWorker"))
    asha = {"asha": {"grace_period": 2, "reduction_factor": 2}}
    given = searched(epochs=20, trials=4, start=rates(1e-3, 1e-6, 2e-6, 0.1), pruner=asha)
    result = search(given, tmp_path / "search", workers_per_trial=2, concurrency=1, display=False)
    assert result.finished
    rows = sorted(result.rows, key=lambda row: row.number)
    assert [row.state for row in rows] == ["finished", "pruned", "pruned", "finished"]
    assert all(row.epoch < 20 for row in rows[1:3])
    assert len(set(actors("RayTrainWorker")) - before) == 2
    wait_until_all_are_gone(others)
    fit(rows[3].experiment, tmp_path / "alone", 2)
    assert checkpoint.files(rows[3].folder)[0].name == checkpoint.files(tmp_path / "alone")[0].name
    assert rows[3].objective == Run(tmp_path / "alone").records()[-1]["validation.accuracy"]


def test_a_killed_worker_costs_an_epoch_at_most_and_no_bit(tmp_path, mark):
    mark.unlink(missing_ok=True)
    result = search(searched("dies_later", epochs=6), tmp_path / "search", workers_per_trial=2, display=False)
    assert mark.exists() and result.finished
    first = next(row for row in result.rows if row.number == 0)
    records = Run(first.folder).records()
    assert [record["epoch"] for record in records] == list(range(1, 7))
    (began, again), (only,) = (starts(row.folder) for row in sorted(result.rows, key=lambda row: row.number))
    size = json.loads((first.folder / "environment.json").read_text())[0]["num_train"]
    assert (began, only, again) == (0, 0, 29 // (size // first.experiment.batch_size))  # it dies at its thirtieth step
    fit(first.experiment, tmp_path / "alone", 2)
    assert checkpoint.files(first.folder)[0].name == checkpoint.files(tmp_path / "alone")[0].name


@pytest.mark.parametrize("kind", [TRIAL, "TrainController", "Desk"])
def test_a_group_that_loses_who_keeps_it_together_is_made_anew_and_nothing_is_lost(tmp_path, kind, others):
    killer = threading.Thread(target=kill_after_an_epoch, args=(tmp_path, kind, others))
    killer.start()
    result = search(searched("slow", epochs=12, trials=1), tmp_path, workers_per_trial=2, display=False)
    killer.join()
    (row,) = result.rows
    assert result.finished and row.state == "finished"
    began, again = starts(row.folder)
    assert began == 0 and again >= 1
    assert [record["epoch"] for record in Run(row.folder).records()] == list(range(1, 13))
    wait_until_all_are_gone(others)


def kill_after_an_epoch(folder, kind, others):
    deadline = time.monotonic() + 200
    while not any(Run(run).records() for run in folder.glob("trials/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    (victim,) = (process for name, process in actors(kind, alive=True).items() if name not in others)
    os.kill(victim, signal.SIGKILL)


def test_a_trial_that_fails_or_kills_its_workers_is_told_and_the_next_ones_are_trained(tmp_path, others):
    kinds = [named(name) for name in ("fails", "dies_always", "plain")]
    points = [{"optimizer.lr": 0.1, "model.name": kind} for kind in (*kinds, kinds[-1])]
    points[-1]["optimizer.lr"] = 0.05
    fixed = {"epochs": 2, "optimizer.milestones": [], "method.name": "base"}
    given = searched(search={"model.name": {"choice": kinds}}, set=fixed, trials=4, start=points)
    result = search(given, tmp_path, workers_per_trial=2, concurrency=1, display=False)
    rows = sorted(result.rows, key=lambda row: row.number)
    assert [row.state for row in rows] == ["failed", "failed", "finished", "finished"]
    assert "LookupError: no weights" in rows[0].reason
    assert "died 3 times in a row in epoch 1" in rows[1].reason
    wait_until_all_are_gone(others)


def test_an_interrupted_search_leaves_no_process_and_goes_on(tmp_path, others):
    given = searched(epochs=25, trials=3)
    stopper = threading.Thread(target=interrupt_after_first, args=(tmp_path,))
    stopper.start()
    first = search(given, tmp_path, workers_per_trial=2, concurrency=1, display=False)
    stopper.join()
    assert first.interrupted and not first.finished
    wait_until_all_are_gone(others)
    second = search(given, tmp_path, workers_per_trial=2, display=False)
    assert second.finished
    for row in second.rows:
        assert [record["epoch"] for record in Run(row.folder).records()] == list(range(1, 26))
