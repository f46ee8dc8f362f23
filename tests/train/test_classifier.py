"""A run's classifier alone is the one that the run evaluated; what it cannot take is told in one line."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

import mwray
from mwray.cli import main
from mwray.config import override
from mwray.data import sources
from mwray.data.splits import split
from mwray.experiment import Experiment
from mwray.methods.registry import METHODS
from mwray.recipes import recipe
from mwray.records import RecordError, Run
from mwray.train import checkpoint
from mwray.train.classifier import InputError
from mwray.train.loop import train
from mwray.train.suspects import restored
from mwray.worker import LocalWorker
from tests.methods.test_contract import NEEDED

SMALL = {
    "epochs": 4,
    "batch_size": 50,
    "meta_batch_size": 50,
    "optimizer.milestones": [],
    "data.num_train": 200,
    "data.num_meta": 50,
    "data.num_validation": 0,
    "data.num_test": 120,
}


def small(**values: object) -> Experiment:
    return override(recipe("digits"), {**SMALL, **values})


def trained(folder, **values: object):
    train(small(**values), folder, worker=LocalWorker("cpu"))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_network_that_the_method_predicts_with(name, tmp_path):
    folder = trained(tmp_path, **{"model.name": "mlp", "method.name": name, **NEEDED.get(name, {})})
    session = restored(folder, "cpu")
    (batch,) = session.test.in_order(1000)
    logits = mwray.load(folder, "cpu")(session.splits.test.images)
    assert torch.equal(logits, session.method.predict(batch.x))
    accuracy = int((logits.argmax(1) == batch.y).sum()) / len(batch.y)
    assert accuracy == Run(folder).records()[-1]["test.accuracy"]


@pytest.mark.parametrize("values", [{"precision": "bf16"}, {"model.name": "resnet8"}])
def test_other_precisions_and_networks(values, tmp_path):
    folder = trained(tmp_path, **values)
    session = restored(folder, "cpu")
    (batch,) = session.test.in_order(1000)
    assert torch.equal(mwray.load(folder, "cpu")(session.splits.test.images), session.method.predict(batch.x))


def test_it_needs_no_data_and_leaves_the_caller_as_he_was(run, monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", {})
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    classifier = mwray.load(str(run), device="cpu")
    assert torch.equal(torch.rand(1), expected)
    assert classifier.classes == tuple("0123456789") and classifier.shape == (1, 8, 8) and classifier.epoch == 4
    images = np.zeros((3, 1, 8, 8), np.uint8)
    logits = classifier(images)
    assert logits.shape == (3, 10) and not logits.requires_grad
    assert not any(module.training for module in classifier.modules())
    torch.testing.assert_close(classifier(torch.from_numpy(images[:1])), logits[:1])


def test_a_checkpoint_of_before_is_read_with_the_data_set(run, tmp_path):
    state = checkpoint.latest(run)
    before = mwray.load(run, "cpu").state_dict()
    shutil.copy(run / "experiment.json", tmp_path)
    checkpoint.save(tmp_path, state["epoch"], {name: state[name] for name in ("experiment", "method")})
    classifier = mwray.load(tmp_path, "cpu")
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert classifier.classes == tuple("0123456789")


def test_the_newest_checkpoint_cut_short_gives_way_to_the_one_before(run, tmp_path, capsys, caplog):
    folder = shutil.copytree(run, tmp_path / "cut")
    newest = checkpoint.files(folder)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert mwray.load(folder, "cpu").epoch == 3
    assert "damaged" in caplog.text
    assert main(["predict", str(folder), "--test", "--device", "cpu"]) == 0
    assert f"{100 * Run(folder).records()[2]['test.accuracy']:.2f} %  test accuracy" in capsys.readouterr().out


def test_what_is_no_run_and_what_has_no_checkpoint(run, tmp_path):
    with pytest.raises(RecordError, match="is .* the folder of a run"):
        mwray.load(tmp_path / "nowhere")
    shutil.copy(run / "experiment.json", tmp_path)
    with pytest.raises(RecordError, match="no whole checkpoint of this run is there"):
        mwray.load(tmp_path)


def test_of_a_search_it_is_the_best_trial(run, tmp_path):
    shutil.copytree(run, tmp_path / "trials" / "3")
    (tmp_path / "best.json").write_text(json.dumps({"folder": "trials/3"}))
    assert mwray.load(tmp_path, "cpu").epoch == 4
    assert main(["predict", str(tmp_path), "--test", "--device", "cpu"]) == 0
    assert (tmp_path / "trials" / "3" / "predictions.csv").exists()
    (tmp_path / "best.json").write_text("{}")
    with pytest.raises(RecordError, match="names no trial's folder"):
        mwray.load(tmp_path)


def test_a_network_of_one_s_own_that_has_changed(run, tmp_path):
    state = checkpoint.latest(run)
    state["method"]["classifier"]["network"].popitem()
    shutil.copy(run / "experiment.json", tmp_path)
    checkpoint.save(tmp_path, 4, state)
    with pytest.raises(RecordError, match="does not fit the network 'small', which has changed since"):
        mwray.load(tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 8, 8), r"images are float32 \[2, 1, 8, 8\]; this classifier takes uint8 \[N, 1, 8, 8\]"),
        (torch.zeros(2, 8, 8, 1, dtype=torch.uint8), r"images are uint8 \[2, 8, 8, 1\]"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"images are uint8 \[1, 8, 8\]"),
    ],
)
def test_images_of_another_kind(run, images, message):
    with pytest.raises(InputError, match=message):
        mwray.load(run, "cpu")(images)


def rows(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_predict_writes_the_test_images_and_says_the_recorded_accuracy(run, tmp_path, capsys):
    assert main(["predict", str(run), "--test", "--out", str(tmp_path / "p.csv"), "--device", "cpu"]) == 0
    recorded = Run(run).records()[-1]["test.accuracy"]
    assert capsys.readouterr().out.splitlines() == [
        f"{100 * recorded:.2f} %  test accuracy, 120 images, after epoch 4",
        f"Predictions: {tmp_path / 'p.csv'}",
    ]
    written = rows(tmp_path / "p.csv")
    assert [int(row["image"]) for row in written] == list(range(120))
    assert sum(row["predicted"] == row["true"] for row in written) / 120 == recorded
    assert all(0.1 <= float(row["probability"]) <= 1 for row in written)


def test_predict_takes_a_file_of_images(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mwray.data.loader.AT_ONCE", 50)
    experiment = small()
    np.save(tmp_path / "images.npy", split(experiment.data, experiment.seed).test.images.numpy())
    out = tmp_path / "own.csv"
    assert main(["predict", str(run), str(tmp_path / "images.npy"), "--out", str(out), "--device", "cpu"]) == 0
    assert "120 images of" in capsys.readouterr().out
    main(["predict", str(run), "--test", "--out", str(tmp_path / "test.csv"), "--device", "cpu"])
    names = ("image", "predicted", "name")
    own, of_test = ([[row[name] for name in names] for row in rows(path)] for path in (out, tmp_path / "test.csv"))
    assert own == of_test
    assert list(rows(out)[0]) == [*names, "probability"]


def test_predict_refuses_in_one_line(run, tmp_path, capsys):
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut short")
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    np.save(tmp_path / "grey.npy", np.zeros((2, 8, 8), np.uint8))
    for arguments, message in (
        ([str(run)], "predict: give a file of images or features (FILE.npy), a picture or a folder of them, or --test"),
        (
            [str(run), "x.npy", "--test"],
            "predict: give a file of images or features (FILE.npy), a picture or a folder of them, or --test",
        ),
        ([str(run), "x.npy"], "x.npy: there is no such file or folder"),
        ([str(run), str(tmp_path / "text.npy")], "cannot be read (it holds no plain array)"),
        ([str(run), str(tmp_path / "cut.npz")], "cut.npz: cannot be read (it holds no plain array)"),
        ([str(run), str(tmp_path / "two.npz")], "two.npz: holds 2 arrays with names; save one array by numpy.save"),
        (
            [str(run), str(tmp_path / "grey.npy")],
            "images are uint8 [2, 8, 8]; this classifier takes uint8 [N, 1, 8, 8]",
        ),
        ([str(tmp_path), "--test"], "experiment.json: there is no such file"),
        (["s3://bucket/run", "--test"], "RUN: an address was given"),
    ):
        assert main(["predict", *arguments]) == 2
        said = capsys.readouterr()
        assert message in said.err and len(said.err.splitlines()) == 1 and not said.out
    assert not (run / "predictions.csv").exists()
