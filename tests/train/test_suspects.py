"""Suspects of real small runs: what is computed again from the checkpoint fits what the run recorded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mwray.config import fingerprint_of, override
from mwray.recipes import recipe
from mwray.records import RecordError, Run
from mwray.train import checkpoint
from mwray.train.loop import train
from mwray.train.suspects import restored, suspects, write
from mwray.worker import LocalWorker

SMALL = {"epochs": 6, "optimizer.milestones": [4], "data.num_test": 100, "data.num_validation": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(override(recipe("digits"), SMALL), folder, worker=LocalWorker("cpu"))
    return folder


def test_every_sample_once_and_wrong_labels_ahead(run):
    session = restored(run, "cpu")
    found = suspects(session)
    train_set = session.splits.train
    assert sorted(found.index.tolist()) == sorted(train_set.index.tolist())
    np.testing.assert_array_equal(found.index, train_set.index.numpy()[found.position])
    np.testing.assert_array_equal(found.wrong, (train_set.observed != train_set.true).numpy()[found.position])
    assert (np.diff(found.loss) <= 0).all()
    wrong = int(found.wrong.sum())
    assert found.wrong[:wrong].mean() > 0.8  # 36 % by chance


def test_the_restored_network_is_the_one_that_was_tested(run):
    session = restored(run, "cpu")
    batch = next(iter(session.test.in_order(1000)))
    accuracy = (session.method.predict(batch.x).argmax(1) == batch.y).float().mean().item()
    assert accuracy == pytest.approx(Run(run).summary()["test.last"], abs=1e-6)


def test_a_checkpoint_of_the_first_epoch_of_a_second_phase(tmp_path):
    """There a data-driven mentor is taught; of a run that is only looked at it comes from the checkpoint."""
    values = SMALL | {"epochs": 2, "optimizer.milestones": [1], "method.name": "mentornet"}
    values |= {"method.curriculum": "data-driven", "method.first_epochs": 1}
    train(override(recipe("digits"), values), tmp_path, worker=LocalWorker("cpu"))
    session = restored(tmp_path, "cpu")
    assert session.method.mentor_accuracy > 0.5
    assert len(suspects(session).index) == len(session.splits.train)


def test_files_lie_in_the_run_s_folder_and_the_run_is_left_as_it_was(run):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    said = write(run, device="cpu")
    assert "by loss" in said and "have a wrong label" in said
    assert {path.name for path in (run / "suspects").iterdir()} == {
        "suspects.parquet",
        "suspects.csv",
        "suspects.png",
        "ranking.png",
    }
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_a_run_whose_settings_had_fewer_fields_is_still_read(tmp_path):
    experiment = override(recipe("digits"), SMALL | {"epochs": 1, "optimizer.milestones": []})
    train(experiment, tmp_path, worker=LocalWorker("cpu"))
    settings = json.loads((tmp_path / "experiment.json").read_text())
    del settings["precision"]  # as a version that did not have it would have written
    (tmp_path / "experiment.json").write_text(json.dumps(settings))
    path, state = checkpoint.files(tmp_path)[0], checkpoint.latest(tmp_path, torch.device("cpu"))
    path.unlink()
    checkpoint.save(tmp_path, 1, {**state, "experiment": fingerprint_of(settings)})
    assert restored(tmp_path, "cpu").experiment == experiment
    settings["seed"] = 7  # another run's checkpoint is refused all the same
    (tmp_path / "experiment.json").write_text(json.dumps(settings))
    with pytest.raises(RecordError, match="no whole checkpoint"):
        restored(tmp_path, "cpu")


def test_a_method_without_weights_is_ranked_by_loss(tmp_path):
    values = SMALL | {"method.name": "base", "epochs": 1, "optimizer.milestones": []}
    train(override(recipe("digits"), values), tmp_path, worker=LocalWorker("cpu"))
    found = suspects(restored(tmp_path, "cpu"))
    assert found.weight is None and (np.diff(found.loss) <= 0).all()


def test_no_run_and_no_checkpoint(tmp_path, run):
    with pytest.raises(RecordError, match="is .* the folder of a run"):
        write(tmp_path)
    (tmp_path / "experiment.json").write_text((run / "experiment.json").read_text())
    with pytest.raises(RecordError, match="no whole checkpoint"):
        write(tmp_path)


def test_of_a_search_they_are_those_of_its_best_trial(run, tmp_path):
    (tmp_path / "best.json").write_text(json.dumps({"folder": str(run)}))
    assert str(run / "suspects") in write(tmp_path, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["best.json"]
