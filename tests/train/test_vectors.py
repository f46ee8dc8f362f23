"""A run on feature vectors in use: its classifier, predictions, suspects' files, packs, and bfloat16."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow.csv
import pytest
import torch
from rich.console import Console

import mwray
from mwray.cli import main
from mwray.config import ConfigError, override
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.classifier import InputError
from mwray.train.loop import train
from mwray.train.pack import train_together
from mwray.train.sinks import ConsoleSink
from mwray.train.suspects import write
from mwray.worker import LocalWorker
from tests.data.own_sets import NAMES, own_features
from tests.train.test_graphs import both

SMALL = {
    "data.source": "tests.data.own_sets:vectors",
    "data.num_meta": 6,
    "data.num_validation": 3,
    "model.name": "linear",
    "epochs": 3,
    "optimizer.milestones": [],
    "batch_size": 20,
}
GIVEN = own_features()


def wide():
    """For `data.source`: 700 features, 100 of each kind and nearly the same."""
    few = np.repeat(np.arange(7), 100)
    noise = np.random.default_rng(0).normal(0, 0.01, 700)
    return replace(
        GIVEN,
        **{name: getattr(GIVEN, name)[:, few] * (1 + noise) for name in ("train_features", "test_features")},
        clean_features=GIVEN.clean_features[:, few] * (1 + noise),
    )


def named():
    """For `data.source`: each vector has a text, and the labels are right."""
    texts = [f"sentence {number}" for number in range(120)]
    return replace(GIVEN, train_labels=np.arange(120) % 3, train_files=texts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(override(recipe("own"), SMALL), folder, worker=LocalWorker("cpu"))
    return folder


def test_its_classifier_is_normalisation_and_the_linear_layer(run):
    classifier = mwray.load(run, "cpu")
    assert classifier.shape == (7,) and classifier.classes == NAMES
    wide = GIVEN.train_features.astype(np.float64)
    std = np.where(wide.min(0) == wide.max(0), np.inf, wide.std(0))
    layer = checkpoint.latest(run)["method"]["classifier"]["network"]
    expected = (GIVEN.test_features - wide.mean(0)) / std @ layer["linear.weight"].double().numpy().T
    logits = classifier(GIVEN.test_features)
    np.testing.assert_allclose(logits.numpy(), expected + layer["linear.bias"].numpy(), rtol=1e-4, atol=1e-5)
    accuracy = (logits.argmax(1).numpy() == GIVEN.test_labels).mean()
    assert accuracy == pytest.approx(Run(run).records()[-1]["test.accuracy"]) and accuracy > 0.6  # chance: a third


def test_other_floats_are_rounded_as_those_of_the_training_are_and_stay_as_they_were(run):
    classifier, given = mwray.load(run, "cpu"), torch.from_numpy(GIVEN.test_features)
    wide, before = given.double() * (1 + 1e-10), given.clone()
    assert torch.equal(classifier(wide), classifier(given)) and torch.equal(given, before)
    assert torch.equal(wide, before.double() * (1 + 1e-10))
    half = given.half().nan_to_num(posinf=0)
    assert torch.equal(classifier(half), classifier(half.float()))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            torch.zeros(2, 8),
            r"features are float32 \[2, 8\]; this .* takes float32 \(or .*\) \[N, 7\], not norm",
        ),
        (torch.zeros(7), r"features are float32 \[7\]; this"),
        (torch.zeros(2, 7, dtype=torch.int64), r"features are int64 \[2, 7\]; this"),
        (np.zeros((1, 3, 6, 5), np.uint8), r"features are uint8 \[1, 3, 6, 5\]; this"),
    ],
)
def test_features_of_another_kind(run, features, message):
    with pytest.raises(InputError, match=message):
        mwray.load(run, "cpu")(features)


def rows(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_vectors_are_called_so_or_samples_and_never_images(tmp_path):
    console = Console(file=io.StringIO())
    sinks = [ConsoleSink(console)]
    train(override(recipe("own"), SMALL), tmp_path / "run", worker=LocalWorker("cpu"), sinks=sinks)
    said = [console.file.getvalue()]
    assert " vec/s " in said[0]
    for values in ({"data.num_meta": 500}, {"data.num_train": 2}, {"batch_size": 500}, {"data.num_meta": 0}):
        with pytest.raises(ConfigError, match="samples") as error:
            train(override(recipe("own"), SMALL | values), tmp_path, worker=LocalWorker("cpu"))
        said.append(str(error.value))
    assert not any("image" in text or "img" in text for text in said)


def test_predict_takes_a_file_of_features_or_those_of_the_test(run, tmp_path, capsys):
    np.save(tmp_path / "features.npy", GIVEN.test_features.astype(np.float64))
    place = ["--device", "cpu", "--out"]
    assert main(["predict", str(run), str(tmp_path / "features.npy"), *place, str(tmp_path / "own.csv")]) == 0
    assert "30 vectors of" in capsys.readouterr().out
    assert main(["predict", str(run), "--test", *place, str(tmp_path / "test.csv")]) == 0
    recorded = Run(run).records()[-1]["test.accuracy"]
    assert capsys.readouterr().out.startswith(f"{100 * recorded:.2f} %  test accuracy, 30 vectors, after epoch 3\n")
    own, of_test = rows(tmp_path / "own.csv"), rows(tmp_path / "test.csv")
    assert list(own[0]) == ["vector", "predicted", "name", "probability"]
    assert own == [{name: row[name] for name in own[0]} for row in of_test]


def test_predict_refuses_in_one_line(run, tmp_path, capsys):
    broken = GIVEN.test_features.copy()
    broken[4, 2] = np.nan
    np.save(tmp_path / "broken.npy", broken)
    np.save(tmp_path / "narrow.npy", broken[:, :3] * 0)
    large = np.where(np.isnan(broken), 1e300, broken.astype(np.float64))
    np.save(tmp_path / "large.npy", large)
    (tmp_path / "text.npy").write_text("no array")
    for name, message in (
        ("broken", "broken.npy: holds nan in row 4, column 2; finite numbers are needed"),
        ("narrow", "narrow.npy: holds nan in row 4, column 2"),
        ("large", "large.npy: holds 1e+300 in row 4, column 2; finite numbers are needed, that float32 can hold"),
        ("text", "it holds no plain array); save one array by numpy.save, float32 (or float16, float64) [N, 7]"),
    ):
        assert main(["predict", str(run), str(tmp_path / f"{name}.npy")]) == 2
        said = capsys.readouterr()
        assert message in said.err and len(said.err.splitlines()) == 1 and not said.out
    np.save(tmp_path / "narrow.npy", np.zeros((2, 3), np.float32))
    assert main(["predict", str(run), str(tmp_path / "narrow.npy")]) == 2
    assert "features are float32 [2, 3]; this classifier takes float32" in capsys.readouterr().err
    assert not (run / "predictions.csv").exists()


def test_suspects_say_the_text_of_each_vector_and_show_no_pictures(tmp_path):
    noisy = {"data.source": "tests.train.test_vectors:named", "data.bias.noise": "flip", "data.bias.rate": 0.3}
    train(override(recipe("own"), SMALL | noisy | {"epochs": 10}), tmp_path, worker=LocalWorker("cpu"))
    write(tmp_path, device="cpu")
    assert {path.name for path in (tmp_path / "suspects").iterdir()} == {"suspects.csv", "suspects.parquet"}
    table = pyarrow.csv.read_csv(tmp_path / "suspects" / "suspects.csv").to_pydict()
    assert table["file"] == [f"sentence {index}" for index in table["index"]]
    wrong = np.array(table["observed_label"]) != np.array(table["index"]) % 3
    assert wrong[: wrong.sum()].mean() > 0.8  # of the least trusted; 0.3 by chance


def test_trials_side_by_side_are_the_trials_alone(tmp_path):
    trainings = [override(recipe("own"), SMALL | {"seed": seed, "optimizer.lr": 0.1 / (1 + seed)}) for seed in range(3)]
    notes: list[str] = []
    pairs = [(experiment, tmp_path / str(number)) for number, experiment in enumerate(trainings)]
    ended = train_together(pairs, at_once=3, device="cpu", always=True, note=notes.append)
    assert all(end.error is None for end in ended) and not notes
    for number, experiment in enumerate(trainings):
        train(experiment, tmp_path / f"alone-{number}", worker=LocalWorker("cpu"))
        packed, alone = (Run(tmp_path / name).records() for name in (str(number), f"alone-{number}"))
        assert [r["train.loss"] for r in packed] == pytest.approx([r["train.loss"] for r in alone], rel=1e-4)


def test_bfloat16_and_channels_last_leave_vectors_as_they_are(tmp_path, monkeypatch):
    losses = {}
    for name, execution, precision in (
        ("fp32", "channels_last=on", "fp32"),
        ("plain", "channels_last=off", "fp32"),
        ("bf16", "", "bf16"),
    ):
        monkeypatch.setenv("MWRAY_EXECUTION", execution)
        train(override(recipe("own"), SMALL | {"precision": precision}), tmp_path / name, worker=LocalWorker("cpu"))
        losses[name] = [record["train.loss"] for record in Run(tmp_path / name).records()]
    assert losses["fp32"] == losses["plain"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05) and losses["bf16"] != losses["fp32"]
    assert not json.loads((tmp_path / "fp32" / "environment.json").read_text())[0]["channels_last"]


@pytest.mark.parametrize("method", ["base", "mwnet"])
def test_a_captured_iteration_gives_the_bits_of_the_eager_one(method, tmp_path):
    with torch.random.fork_rng():
        assert both(override(recipe("own"), SMALL | {"method.name": method}), tmp_path).replays > 0


@pytest.mark.parametrize("network", ["linear", "mlp"])
def test_the_recipe_of_vectors_trains_on_hundreds_of_features(network, tmp_path):
    values = {name: value for name, value in SMALL.items() if name.startswith(("data.", "batch"))}
    values |= {"data.source": "tests.train.test_vectors:wide", "model.name": network, "epochs": 8}
    summary = train(
        override(recipe("vectors"), values | {"optimizer.milestones": []}), tmp_path, worker=LocalWorker("cpu")
    )
    losses = [record["train.loss"] for record in Run(tmp_path).records()]
    assert max(losses) < 5 and summary["test.last"] > 0.6  # chance is a third
