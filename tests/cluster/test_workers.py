"""Training over several processes: what a worker exchanges, and Ray Train runs of two workers (slow)."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
import torch

from mwray import process_group
from mwray.cluster import follow
from mwray.cluster.follow import following, line
from mwray.cluster.search import search
from mwray.cluster.trainer import TrainingFailed, fit
from mwray.config import override
from mwray.process_group import Exchange, PeerLost
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.loop import train
from mwray.worker import LocalWorker
from tests.cluster import networks
from tests.cluster.helpers import finish_run, small


def worker_of(size, monkeypatch, other=None, fails=False):
    """An exchange whose only peer holds the tensors `other`."""
    made = Exchange(0, size, torch.device("cpu"))
    exchanged = []

    def all_reduce(flat):
        if fails:
            raise RuntimeError("Connection closed by peer")
        exchanged.append(flat.dtype)
        flat += torch.cat([t.reshape(-1) for t in other if t.dtype == flat.dtype])

    monkeypatch.setattr(process_group.dist, "all_reduce", all_reduce)
    return made, exchanged


def test_the_mean_over_workers_is_one_exchange_per_type_and_keeps_shapes_and_inputs(monkeypatch):
    mine = [torch.arange(6.0).view(2, 3), torch.tensor(5.0, dtype=torch.float64), torch.ones(4)]
    other = [torch.ones(2, 3), torch.tensor(1.0, dtype=torch.float64), torch.full((4,), 3.0)]
    before = [t.clone() for t in mine]
    worker, exchanged = worker_of(2, monkeypatch, other)
    means = worker.average(mine)
    for mean, a, b in zip(means, mine, other, strict=True):
        torch.testing.assert_close(mean, (a + b) / 2)
    assert exchanged == [torch.float32, torch.float64]
    for kept, was in zip(mine, before, strict=True):
        assert torch.equal(kept, was)


def test_tensors_travel_by_the_group_s_device_and_come_back_to_theirs(monkeypatch):
    """NCCL carries a GPU's tensors only; the meta device stands in for a GPU."""
    made, exchanged = Exchange(0, 2, torch.device("meta")), []
    monkeypatch.setattr(process_group.dist, "all_reduce", lambda flat: exchanged.append(flat.device.type))
    (mean,) = made.average([torch.ones(3, device="meta")])
    assert mean.device.type == "meta" and mean.shape == (3,)
    with pytest.raises(NotImplementedError, match="meta"):  # carried, and then there is nothing to copy back
        made.average([torch.ones(3)])
    assert exchanged == ["meta", "meta"]


def test_one_worker_exchanges_nothing(monkeypatch):
    worker, exchanged = worker_of(1, monkeypatch, [])
    tensors = [torch.ones(3)]
    assert worker.average(tensors)[0] is tensors[0]
    assert exchanged == []


def test_a_lost_peer_is_told_from_an_error_of_the_training(monkeypatch):
    worker, _ = worker_of(2, monkeypatch, [], fails=True)
    with pytest.raises(PeerLost, match="rank 0.*Connection closed"):
        worker.average([torch.ones(3)])


def test_following_prints_each_epoch_once_and_not_those_of_before(tmp_path, capsys):
    experiment = override(recipe("digits"), {"epochs": 4})
    run = finish_run(tmp_path, experiment, 0.5, epochs=2)
    with following(tmp_path, 4):
        run.append({"epoch": 3, "validation.accuracy": 0.75, "seconds": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert "after epoch 2" in lines[0]
    assert lines[1:] == ["epoch 3/4  validation 75.0%  s 1.0"]
    assert line({"epoch": 1, "train.weight_auc": None}, 4) == "epoch 1/4"


def test_following_outlives_a_look_at_storage_that_fails(tmp_path, capsys, monkeypatch):
    run = finish_run(tmp_path, override(recipe("digits"), {"epochs": 2}), 0.5, epochs=1)
    looks, records = [], Run.records

    def failing(self):
        looks.append(1)
        if len(looks) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return records(self)

    monkeypatch.setattr(Run, "records", failing)
    monkeypatch.setattr(follow, "SECONDS", 0.01)
    with following(tmp_path, 2):
        end = time.monotonic() + 10
        while len(looks) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        run.append({"epoch": 2, "seconds": 1.0})
    assert capsys.readouterr().out.splitlines()[1:] == ["epoch 2/2  s 1.0"]


def digits(network, **values):
    fixed = {"epochs": 2, "optimizer.milestones": [], "model.name": f"tests.cluster.networks:{network}"}
    return override(recipe("digits"), {**fixed, **values})


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    """Where `networks.dies_once` notes its death; in the environment before Ray's processes start."""
    path = tmp_path_factory.mktemp("mark") / "died"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(networks.MARK, str(path))
        yield path


@pytest.fixture(scope="module")
def ray(mark, local_ray):
    """One Ray for the slow tests."""


@pytest.mark.slow
def test_two_workers_train_what_one_process_trains(tmp_path, ray):
    """Without batch norm the mean of two half-batch gradients is the gradient of the whole batch."""
    experiment = digits("plain")
    summary = fit(experiment, tmp_path / "two", 2)
    train(experiment, tmp_path / "one", worker=LocalWorker("cpu"))
    assert summary == Run(tmp_path / "two").summary()
    assert [record["epoch"] for record in Run(tmp_path / "two").records()] == [1, 2]
    assert not (tmp_path / "two" / "ray").exists()
    two, one = (checkpoint.latest(tmp_path / name)["method"]["classifier"]["network"] for name in ("two", "one"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_finishes(tmp_path, ray, mark):
    mark.unlink(missing_ok=True)
    summary = fit(digits("dies_once", **{"method.name": "base"}), tmp_path / "run", 2)
    assert mark.exists()
    assert summary["epochs"] == 2


@pytest.mark.slow
def test_an_error_in_a_worker_ends_the_run_with_its_reason_and_is_not_tried_again(tmp_path, ray):
    with pytest.raises(TrainingFailed, match=r"LookupError: no weights for 10 classes .*failure\.json"):
        fit(digits("fails"), tmp_path / "run", 2)


@pytest.mark.slow
def test_a_trial_of_two_workers_reaches_the_leaderboard(tmp_path, ray):
    result = search(small(trials=1), tmp_path, workers_per_trial=2, display=False)  # BaseModel's driver is used again
    assert result.finished
    assert result.base.state == "finished"
    assert result.best.epoch == 2
    assert result.best.objective == Run(result.best.folder).records()[-1]["validation.accuracy"]
    assert os.listdir(tmp_path / "trials") == [Path(result.best.folder).name]
