"""Searches whose trials share a process, over a local Ray: the same search as with a process each."""

from __future__ import annotations

import json
import os
import threading

import pytest
import torch

from mwray.cluster.search import search
from mwray.cluster.study import Study
from mwray.config import ConfigError
from mwray.records import Run
from tests.cluster import networks
from tests.cluster.helpers import small, space
from tests.cluster.test_search import interrupt_after_first, starts

pytestmark = pytest.mark.usefixtures("marked_ray")

SEARCH = {
    "method.weight_net.shape": {"choice": ["1-50-1", "1-10-10-1"]},
    "optimizer.lr": {"float": [0.02, 0.2], "log": True},
}


def many(network="plain", epochs=2, **changes):
    return small(network, epochs, SEARCH, **{"trials": 5, "sampler": "random", **changes})


def test_a_packed_search_comes_to_what_one_with_a_process_for_each_trial_comes_to(tmp_path):
    packed = search(many(), tmp_path / "packed", pack=6, concurrency=6, display=False)
    apart = search(many(), tmp_path / "apart", display=False)
    assert packed.finished and packed.base.state == apart.base.state == "finished"
    ours, theirs = ({row.number: row for row in (*result.rows, result.base)} for result in (packed, apart))
    assert ours.keys() == theirs.keys()
    for number, row in ours.items():
        other = theirs[number]
        assert (row.state, row.folder.name, row.epoch) == (other.state, other.folder.name, other.epoch)
        assert row.validation == pytest.approx(other.validation, abs=0.02)
        a, b = Run(row.folder).records()[-1], Run(other.folder).records()[-1]
        assert a["train.loss"] == pytest.approx(b["train.loss"], abs=1e-4)
        assert list(row.folder.glob("events.out.tfevents.*")) and list(row.folder.glob("checkpoint-000002-*.pt"))
    again = search(many(), tmp_path / "packed", pack=2, display=False)
    assert again.rows == packed.rows
    assert all(starts(row.folder) == [0] for row in again.rows)


def test_an_interrupted_packed_search_goes_on_packed_or_not(tmp_path):
    whole = many(epochs=20, trials=3)
    stopper = threading.Thread(target=interrupt_after_first, args=(tmp_path,))
    stopper.start()
    first = search(whole, tmp_path, pack=2, concurrency=2, display=False)
    stopper.join()
    assert first.interrupted and not first.finished
    finished = {row.number for row in first.rows if row.state == "finished"}
    assert len(finished) < 3
    second = search(whole, tmp_path, display=False)
    assert second.finished
    for row in second.rows:
        assert [record["epoch"] for record in Run(row.folder).records()] == list(range(1, 21))
        if row.number in finished:
            assert starts(row.folder) == [0]
    assert [entry.state for entry in Study(whole, tmp_path).entries()] == ["complete"] * 3


@pytest.mark.slow
def test_a_hopeless_trial_makes_room_for_the_next_one(tmp_path):
    points = [{"optimizer.lr": rate, "method.weight_net.shape": "1-50-1"} for rate in (0.1, 1e-6, 2e-6, 3e-6, 0.09)]
    search_over = {**SEARCH, "optimizer.lr": {"float": [1e-6, 0.2], "log": True}}
    asha = {"asha": {"grace_period": 2, "reduction_factor": 2}}
    fixed = {"epochs": 12, "optimizer.milestones": [], "model.name": "tests.cluster.networks:plain"}
    hopeless = space(search_over, set=fixed, trials=5, start=points, pruner=asha)
    result = search(hopeless, tmp_path, pack=2, concurrency=2, display=False)
    assert result.finished and result.best.number in (0, 4)
    states = {row.number: row.state for row in result.rows}
    assert [states[number] for number in (1, 2, 3)] == ["pruned"] * 3
    assert all(row.epoch < 12 for row in result.rows if row.state == "pruned")


@pytest.mark.slow
def test_trials_of_a_process_that_is_killed_go_on_each_by_itself(tmp_path):
    result = search(many("dies_once"), tmp_path, pack=4, concurrency=4, display=False)
    assert os.path.exists(os.environ[networks.MARK])
    assert result.finished
    assert [row.state for row in (*result.rows, result.base)] == ["finished"] * 6


def test_a_trial_that_fails_fails_alone_and_what_cannot_be_stacked_is_said(tmp_path, capsys):
    search_over = {**SEARCH, "model.name": {"choice": ["tests.cluster.networks:fails", f"{__name__}:dropping"]}}
    points = [{"model.name": name} for name in search_over["model.name"]["choice"]]
    points += [{"model.name": f"{__name__}:dropping", "optimizer.lr": rate} for rate in (0.05, 0.06, 0.07)]
    mixed = space(search_over, set={"epochs": 2, "optimizer.milestones": []}, start=points, trials=5)
    result = search(mixed, tmp_path, pack=6, concurrency=6)
    assert {row.number: row.state for row in result.rows} == {0: "failed", **dict.fromkeys(range(1, 5), "finished")}
    failed = next(row for row in result.rows if row.number == 0)
    assert "networks.py" in json.loads((failed.folder / "failure.json").read_text())["traceback"]
    assert "cannot be stacked" in capsys.readouterr().out


def dropping(num_classes, shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(64, num_classes))


def test_a_pack_of_groups_of_workers_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--pack 2.*--workers-per-trial 2"):
        search(many(), tmp_path, pack=2, workers_per_trial=2, display=False)
